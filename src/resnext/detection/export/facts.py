"""The facts of a detector that its exported file carries. torch is not imported."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from resnext.deploy.export_info import ExportInfo, list_tool_versions
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import STAGES, DetectorSettings, parse_category_ids
from resnext.errors import RequestError, prefix_errors
from resnext.recipe import build_settings, to_dict

if TYPE_CHECKING:
    from resnext.detection.model.faster_rcnn import FasterRcnn


@dataclass(frozen=True, kw_only=True)
class DetectorFacts:
    """What is known about a detector besides its weights."""

    architecture: dict[str, Any]
    settings: DetectorSettings
    stage: str
    classes: tuple[str, ...]
    preprocessing: DetectPreprocessing
    category_ids: tuple[int, ...] | None = None
    has_numbered_classes: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_detector(cls, model: "FasterRcnn") -> Self:
        """Collect the facts of a detector in memory."""
        return cls(
            architecture=model.architecture.to_dict(),
            settings=model.settings,
            stage=model.stage,
            classes=model.classes,
            preprocessing=model.preprocessing,
            category_ids=model.category_ids,
            has_numbered_classes=model.has_numbered_classes,
            provenance=json.loads(json.dumps(model.provenance, default=str)),
        )

    @classmethod
    def from_info(cls, info: ExportInfo, origin: str) -> Self:
        """Parse the facts of an exported file ``origin``. Raises RequestError if it holds no detector."""
        if info.task != "detection":
            raise RequestError(f"{origin} holds a classifier, not a detector; resnext predict and evaluate run it")
        with prefix_errors(origin):
            return cls._parse(info, info.detector or {})

    @classmethod
    def _parse(cls, info: ExportInfo, about: dict[str, Any]) -> Self:
        settings, stage = about.get("settings"), about.get("stage")
        classes = info.classes or []
        if not isinstance(settings, dict) or stage not in STAGES or not classes:
            raise RequestError("it does not describe a detector: settings, stage and classes are needed")
        try:
            preprocessing = DetectPreprocessing.from_dict(info.preprocessing)
        except TypeError as error:
            raise RequestError(f"its preprocessing is not valid: {error}") from None
        return cls(
            architecture=info.architecture,
            settings=build_settings(DetectorSettings, settings, "detector."),
            stage=stage,
            classes=tuple(classes),
            preprocessing=preprocessing,
            category_ids=parse_category_ids(about.get("category_ids"), classes),
            has_numbered_classes=about.get("has_numbered_classes") is True,
            provenance=info.provenance,
        )

    def to_info(self, outputs: tuple[str, ...], tools: tuple[str, ...], weights_sha256: str | None) -> ExportInfo:
        """Describe the exported file; ``tools`` are the packages that write it."""
        return ExportInfo(
            task="detection",
            input="picture",
            outputs=list(outputs),
            architecture=self.architecture,
            preprocessing=self.preprocessing.to_dict(),
            classes=list(self.classes),
            batch=1,
            weights_sha256=weights_sha256,
            provenance=self.provenance,
            tools=list_tool_versions(tools),
            detector={
                "settings": to_dict(self.settings),
                "stage": self.stage,
                "category_ids": None if self.category_ids is None else list(self.category_ids),
                "has_numbered_classes": self.has_numbered_classes,
            },
        )
