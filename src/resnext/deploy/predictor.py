"""Run a classifier on the fastest engine of this machine, on the CPU.

    predictor = Predictor.load("run", precision="bf16", goal="throughput", batch=16)
    predictions = resnext.predict(predictor, ["cat.jpg", open("dog.jpg", "rb")])

It is made of a run, a weights file or an exported file. Before an engine is used for a network in memory, its logits
for a few images are compared with the network's in fp32; their relative error must be within ``engines.TOLERANCE``. A
file was compared when it was exported. With an exported file for ONNX Runtime or OpenVINO, torch is not imported.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import numpy as np

from resnext.choices import (
    ENGINE_CHOICES,
    GOALS,
    PRECISION_CHOICES,
    CheckpointName,
    EngineChoice,
    Goal,
    PrecisionChoice,
)
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import normalize_pixels, prepare_pixels
from resnext.deploy.engines import Engine, Outputs
from resnext.deploy.exported import ExportedModel, find_exported_file, open_exported
from resnext.environment import has_bf16
from resnext.errors import RequestError, did_you_mean
from resnext.evaluation.images import ImageInput, open_image
from resnext.evaluation.outputs import get_preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from resnext.model.network import Network


class PredictorOptions(TypedDict, total=False):
    """The keyword arguments of ``Predictor`` as ``Predictor.load`` takes them."""

    engine: EngineChoice
    precision: PrecisionChoice | None
    goal: Goal
    batch: int
    image_size: int | None
    with_cam: bool
    streams: int | None


class Predictor:
    """A classifier on the fastest engine of this machine. It is thread-safe, and can replace a network in evaluation.

    Args:
        source: a network of this package, on the CPU, which is copied; or an exported file (``open_exported``).
        engine: "auto", "pytorch", "onnxruntime" or "openvino". An exported file has one engine.
        precision: "fp32", "bf16", "int8", or "auto" for the faster of fp32 and bf16. Default: fp32; that of the file.
        goal: "latency" or "throughput".
        batch: the usual number of images in a batch, for which the engine is selected; other sizes work too.
        image_size: the usual side in pixels; default: that of the weights' preprocessing.
        calibration: normalised training images, a tensor [N, C, H, W]. int8 needs them. The engine's results are
            checked on them, or else on random numbers.
        with_cam: whether ``infer`` gives class activation maps too. An exported file has them or not.
        streams: how many batches run at the same time, each whole (OpenVINO); by default as is fastest for the goal.

    Raises:
        RequestError: an option is unknown, or this machine does not support it.
    """

    task = "classification"

    def __init__(
        self,
        source: "Network | ExportedModel",
        *,
        engine: EngineChoice = "auto",
        precision: PrecisionChoice | None = None,
        goal: Goal = "latency",
        batch: int = 1,
        image_size: int | None = None,
        calibration: "Tensor | None" = None,
        with_cam: bool = False,
        streams: int | None = None,
    ) -> None:
        _check_options(engine, precision, goal)
        if batch < 1:
            raise RequestError(f"batch must be at least 1, not {batch}")
        self._engine: Engine
        self.network: Network | None = None
        self.relative_error = float("nan")
        self.input, self._takes_bgr = "normalised", False
        if isinstance(source, ExportedModel):
            if source.info.task != self.task:
                raise RequestError(
                    f"{source.path} holds a detector, not a classifier; resnext detect runs it, or DetectPredictor.load"
                )
            self.architecture = source.info.parse_architecture()
            self.preprocessing: Preprocessing | None = source.info.parse_preprocessing()
            self.classes = None if source.info.classes is None else tuple(source.info.classes)
            self.provenance: dict[str, Any] = source.info.provenance
            self.input, self.has_cam = source.info.input, "cam" in source.info.outputs
            self._takes_bgr = source.info.bgr  # images are RGB for all callers
            self.precision, self.engine, self._engine = source.build_engine(engine, precision, goal, batch, streams)
            return
        from resnext.deploy.engine_selection import Workload
        from resnext.deploy.network_engine import build_network_engine, copy_network, get_expected_image_size

        self.network = copy_network(source)
        self.architecture, self.classes = source.architecture, source.classes
        self.preprocessing, self.provenance = source.preprocessing, source.provenance
        side = image_size or get_expected_image_size(source)
        workload = Workload(engine, goal, batch, (side, side), streams)
        self.has_cam = with_cam and self.architecture.num_classes > 0
        self.precision, selected = build_network_engine(
            self.network, workload, precision or "fp32", calibration, self.has_cam
        )
        self.engine = f"{self.precision} on {selected.config.description}"
        self.relative_error = selected.relative_error
        self._engine = selected.engine

    @classmethod
    def load(
        cls,
        source: Path | str,
        *,
        checkpoint: CheckpointName = "best",
        calibration: "Path | Tensor | None" = None,
        **options: Unpack[PredictorOptions],
    ) -> Self:
        """Load a predictor from a run directory, a weights file of any format, or an exported file or its folder.

        Args:
            source: run directory, weights file, ``hf://...``; or a .onnx, .xml or .pt2 file of ``resnext export``.
            checkpoint: Which checkpoint of a run: "best" or "last".
            calibration: For int8 of a network: normalised images, or a folder of them; by default the run's training
                images.
            **options: As for ``Predictor``.

        Raises:
            RequestError: The file is not what it should be, or an option does not fit it.
        """
        exported = find_exported_file(source)
        if exported is not None:
            if calibration is not None:
                raise RequestError(f"{exported} is an exported file; calibration images are given when it is exported")
            return cls(open_exported(exported), **options)
        from resnext.deploy.int8 import load_calibration_images
        from resnext.run_directory import is_run
        from resnext.weights import load

        network = load(source, checkpoint)
        if options.get("precision") == "int8" and (calibration is None or isinstance(calibration, str | Path)):
            run = Path(source) if is_run(Path(source)) else None
            folder = None if calibration is None else str(calibration)
            calibration = load_calibration_images(network, run, folder)
        return cls(network, calibration=calibration, **options)  # type: ignore[arg-type]  # a folder is for int8 alone

    def prepare(self, image: ImageInput) -> np.ndarray:
        """Read an image and return what ``infer`` takes of it.

        Args:
            image: A path, a PIL image, an array (uint8 [H, W, 3] or [H, W]), or the bytes of an image file, also as an
                open binary file.

        Returns:
            uint8 [S, S, C]; for a file with input "picture" uint8 [H, W, C].

        Raises:
            BadImageError: The image cannot be read.
            RequestError: The weights do not say how images are prepared.
        """
        preprocessing = get_preprocessing(self)
        pixels = open_image(image, preprocessing.channels, preprocessing.exif)
        if self.input != "picture":
            return prepare_pixels(pixels, preprocessing)
        array = np.array(pixels, dtype=np.uint8)
        return array[..., None] if array.ndim == 2 else array

    def infer(self, pixels: np.ndarray) -> Outputs:
        """Compute logits float32 [N, K], and class activation maps if the predictor has them, of prepared images.

        Args:
            pixels: uint8 [N, S, S, C], as ``prepare`` returns them; for a file with input "picture" [1, H, W, C].
        """
        if self.input == "normalised":
            return self._engine(normalize_pixels(pixels, get_preprocessing(self)))
        return self._engine(pixels[..., ::-1] if self._takes_bgr else pixels)

    def infer_all(self, inputs: list[np.ndarray]) -> Outputs:
        """Compute the outputs of a list of prepared images; those of input "picture" run one by one."""
        if self.input != "picture":
            return self.infer(np.stack(inputs))
        logits, maps = zip(*(self.infer(one[None]) for one in inputs), strict=True)
        return Outputs(np.concatenate(logits), np.concatenate(maps) if self.has_cam else None)

    def warm_up(self, sizes: list[int]) -> None:
        """Compile the engine for batches of these sizes, so that no later call with one of them does."""
        p = get_preprocessing(self)
        if self.input == "picture":
            return
        side, channels = p.image_size, p.channels
        is_float = self.input == "normalised"
        self._engine.warm_up([(n, channels, side, side) if is_float else (n, side, side, channels) for n in sizes])

    def close(self) -> None:
        """Release the engine's memory and threads. The predictor cannot be used any more."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, images: "Tensor | np.ndarray") -> "Tensor":
        """Compute logits, a float32 tensor [B, K].

        Args:
            images: [B, C, H, W] of any memory layout and any B, including 0: normalised floating point, or uint8,
                which is normalised here. An exported file that normalises inside takes only uint8.

        Raises:
            RequestError: the shape or the type is not supported.
        """
        import torch

        array = self._check_array(images)
        if not len(array):
            return torch.zeros(0, self.architecture.num_classes or self.architecture.stages[-1].out_channels)
        if array.dtype != np.uint8:
            if self.input != "normalised":
                raise RequestError("this exported file normalises images itself: pass uint8 pixels")
            return torch.from_numpy(self._engine(array).logits)
        if self.preprocessing is None:
            raise RequestError("the weights do not say how uint8 images are normalised; pass normalised floats")
        pixels = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        return torch.from_numpy(self.infer_all(list(pixels)).logits)

    def _check_array(self, images: "Tensor | np.ndarray") -> np.ndarray:
        """Return the images as an array of uint8 or float32. Raises RequestError for what the network cannot take."""
        images = images if isinstance(images, np.ndarray) else _convert_tensor(images)
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise RequestError(f"images must be floating point or uint8, not {images.dtype}")
        a = self.architecture
        if images.ndim != 4 or images.shape[1] != a.in_channels:
            raise RequestError(f"{a.name} takes images [B, {a.in_channels}, H, W], not {list(images.shape)}")
        height, width = images.shape[2:]
        if self.input == "pixels" and {height, width} != {get_preprocessing(self).image_size}:
            side = get_preprocessing(self).image_size
            raise RequestError(
                f"this exported file takes images of {side} x {side} pixels, not {width} x {height}; the weights take "
                "other sizes too"
            )
        if self.input != "picture":  # those are resized inside
            a.check_image_size(height, width)
        return images if images.dtype == np.uint8 else np.ascontiguousarray(images, np.float32)


def load_classifier(
    source: Path | str, checkpoint: CheckpointName, **options: Unpack[PredictorOptions]
) -> "Network | Predictor":
    """Load an exported file as a predictor with ``options``, and anything else as a network."""
    exported = find_exported_file(source)
    if exported is not None:
        return Predictor(open_exported(exported), **options)
    from resnext.weights import load

    return load(source, checkpoint)


def _check_options(engine: str, precision: str | None, goal: str) -> None:
    for name, value, choices in (
        ("engine", engine, ENGINE_CHOICES),
        ("precision", precision or "fp32", PRECISION_CHOICES),
        ("goal", goal, GOALS),
    ):
        if value not in choices:
            raise RequestError(f"{name} {value!r} is unknown{did_you_mean(str(value), choices)}")
    if precision == "bf16" and not has_bf16():
        raise RequestError(
            "this processor does not compute in bf16 (it needs avx512_bf16 or amx_bf16, and ONEDNN_MAX_CPU_ISA must "
            "not exclude it); use fp32 or auto"
        )


def _convert_tensor(images: object) -> np.ndarray:
    import torch

    if not isinstance(images, torch.Tensor):
        raise RequestError(
            f"images must be a tensor or an array, not {type(images).__name__}; for files and PIL images, call "
            "resnext.predict(predictor, images)"
        )
    tensor = images.detach().cpu()
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array
