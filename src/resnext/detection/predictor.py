"""Run a detector on one engine of this machine, on the CPU.

    with DetectPredictor.load("detector.onnx") as predictor:
        found = predictor.detect(predictor.prepare("street.jpg"))

It is made of a run, a weights file or an exported file. With an exported file, torch is not imported.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from resnext.choices import ENGINE_CHOICES, CheckpointName, EngineChoice, EngineName
from resnext.deploy.engines import require_packages
from resnext.deploy.exported import ExportedModel, find_exported_file, open_exported
from resnext.detection.export.engines import (
    Detections,
    DetectorEngine,
    build_detector_engine,
)
from resnext.detection.export.facts import DetectorFacts
from resnext.detection.export.probe import probe_detector
from resnext.errors import RequestError, did_you_mean
from resnext.evaluation.images import ImageInput, open_image

if TYPE_CHECKING:
    from resnext.detection.model.faster_rcnn import FasterRcnn

CHANNELS = 3


class DetectPredictor:
    """A detector on one engine of this machine. Thread-safe.

    Attributes:
        classes: Names of the classes.
        engine: Precision and engine, in words.
        provenance: Where the weights come from.
        preprocessing: How images are read and resized; ``detect`` applies it.
        settings: The detector's, with the score threshold and the maximum number of detections.
        category_ids: Id of each class in the training annotations, or None.
        stage: The training stage: joint, rpn or fast_rcnn.
        has_numbered_classes: Whether the class names are only numbers.
    """

    task = "detection"

    def __init__(self, facts: "DetectorFacts", engine: DetectorEngine, description: str, score: float | None) -> None:
        """Use ``load``. Raises RequestError for a score below the engine's own threshold."""
        own = facts.settings.score
        if score is not None and not own <= score <= 1:
            raise RequestError(
                f"the score {score:g} must be from {own:g}, the threshold of the exported detector, to 1; export it "
                "again with a lower threshold to see more"
            )
        self._score = score
        self._engine = engine
        self.engine = description
        self.classes, self.category_ids = facts.classes, facts.category_ids
        self.provenance, self.preprocessing, self.stage = facts.provenance, facts.preprocessing, facts.stage
        self.settings = facts.settings if score is None else replace(facts.settings, score=score)
        self.has_numbered_classes = facts.has_numbered_classes

    @classmethod
    def load(
        cls,
        source: Path | str,
        *,
        engine: EngineChoice = "auto",
        checkpoint: CheckpointName = "best",
        score: float | None = None,
    ) -> Self:
        """Load a predictor from a run directory, a weights file, or an exported file (.onnx, .xml) or its folder.

        Args:
            source: What to load.
            engine: "pytorch", "onnxruntime" or "openvino". "auto" is that of the exported file, and else PyTorch.
            checkpoint: Which checkpoint of a run: "best" or "last".
            score: Minimum score of a detection; by default the detector's. That of an exported file can be raised only.

        Raises:
            RequestError: The source is not a detector, or does not run on the engine.
        """
        if engine not in ENGINE_CHOICES:
            raise RequestError(f"engine {engine!r} is unknown{did_you_mean(engine, ENGINE_CHOICES)}")
        exported = find_exported_file(source)
        if exported is not None:
            return cls.from_exported(open_exported(exported), engine=engine, score=score)
        from resnext.detection.weights import load_detector

        model = load_detector(source, checkpoint)
        if score is not None:
            if not 0 <= score <= 1:
                raise RequestError(f"the score {score:g} must be from 0 to 1")
            model.set_score_threshold(score)
        return cls.from_detector(model, engine=engine)

    @classmethod
    def from_exported(
        cls, exported: ExportedModel, *, engine: EngineChoice = "auto", score: float | None = None
    ) -> Self:
        """Make a predictor of an exported file.

        Raises RequestError if it holds no detector or has another engine, WorkError if the engine does not run it.
        """
        own = exported.choose_engine(engine)
        facts = DetectorFacts.from_info(exported.info, str(exported.path))
        if not exported.is_isolated:
            probe_detector(exported, own)
        return cls(facts, build_detector_engine(own, exported.model), f"{exported.info.precision} on {own}", score)

    @classmethod
    def from_detector(cls, model: "FasterRcnn", *, engine: EngineChoice = "auto") -> Self:
        """Make a predictor of a copy of a detector in memory. Raises RequestError if it does not run on the engine."""
        from resnext.detection.export.torch_engine import TorchDetectorEngine

        name: EngineName = "pytorch" if engine == "auto" else engine
        require_packages(name)
        made: DetectorEngine
        if name == "pytorch":
            made = TorchDetectorEngine(model)
        else:
            from resnext.detection.export.detector_graph import build_detector_model

            made = build_detector_engine(name, build_detector_model(model, name))
        return cls(DetectorFacts.from_detector(model), made, f"fp32 on {name}", None)

    def prepare(self, image: ImageInput) -> np.ndarray:
        """Read an image and return its pixels, uint8 [H, W, 3], as ``detect`` takes them.

        Args:
            image: A path, a PIL image, an array (uint8 [H, W, 3] or [H, W]), or the bytes of an image file, also as an
                open binary file.

        Raises:
            BadImageError: The image cannot be read.
        """
        return np.array(open_image(image, CHANNELS, self.preprocessing.exif), dtype=np.uint8)

    def detect(self, image: np.ndarray) -> Detections:
        """Detect objects in an image.

        Args:
            image: uint8 [H, W, 3], RGB, upright.

        Returns:
            Boxes in pixels of the image, labels and scores, highest score first.

        Raises:
            RequestError: The array is not such an image.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != CHANNELS or not image.size:
            raise RequestError(
                f"an image must be uint8 [height, width, {CHANNELS}], not {image.dtype} {list(image.shape)}; "
                "prepare reads other images"
            )
        found = self._engine(image)
        return found if self._score is None else found.select(found.scores > self._score)

    def close(self) -> None:
        """Release the engine's memory and threads. The predictor cannot be used any more."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
