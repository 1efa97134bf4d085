"""What an exported file says about itself: the JSON called ``resnext.json`` in its metadata. Without torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

from resnext.choices import EXPORT_PRECISIONS, ExportFormat, ExportPrecision, InputKind
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, did_you_mean
from resnext.model.architecture import Architecture
from resnext.version import __version__

KEY = "resnext.json"  # name of the metadata entry; in OpenVINO's rt_info the path resnext/json
BIN_KEY = "resnext.bin_sha256"  # of an OpenVINO file: the SHA-256 of its .bin; in rt_info the path resnext/bin_sha256
SCHEMA = 1
FORMATS: dict[ExportFormat, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch-export": ".pt2",
}  # --to, and the suffix of the file
TASKS = ("classification", "detection")
INPUTS: dict[InputKind, str] = {  # what a file takes: --input
    "pixels": "uint8 [N, S, S, C], resized and cropped; normalised inside",
    "picture": "uint8 [1, H, W, C] of any size; resized, cropped and normalised inside",
    "normalised": "float32 [N, C, S, S], normalised by the caller",
}
MAX_INFO_BYTES = 64 << 20  # of the JSON; thousands of class names take less than one MB


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """The facts of an exported file. All values are JSON values, so that other programs can read them."""

    task: str  # one of TASKS
    input: InputKind
    outputs: list[str]  # logits, probabilities, cam; boxes, labels, scores
    precision: ExportPrecision = "fp32"
    architecture: dict[str, Any]  # fields of Architecture
    preprocessing: dict[str, Any]  # fields of Preprocessing, or of DetectPreprocessing
    classes: list[str] | None = None  # names of the outputs; None where the weights do not say
    batch: int | None = None  # number of images in a batch, if it is fixed
    bgr: bool = False  # whether the input channels are in the order blue, green, red
    weights_sha256: str | None = None  # of the weights file it was made from
    provenance: dict[str, Any] = field(default_factory=dict)  # of the weights
    tools: dict[str, str] = field(default_factory=dict)  # versions of the programs that wrote it
    agreement: dict[str, Any] | None = None  # with PyTorch, as measured by the export on real images
    detector: dict[str, Any] | None = None  # of a detector: settings, stage, category ids
    int8: dict[str, Any] | None = None  # calibration, gate and the steps tried

    def to_json(self) -> str:
        """Return the JSON, in ASCII and on one line, so that every container keeps it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps({"schema": SCHEMA, **values})

    @classmethod
    def from_json(cls, text: str) -> "ExportInfo":
        """Parse the JSON of any file. Raises RequestError for what is not valid."""
        if len(text) > MAX_INFO_BYTES:
            raise RequestError(f"its {KEY} is larger than {MAX_INFO_BYTES >> 20} MB")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"its {KEY} is not JSON: {error}") from None
        if not isinstance(values, dict) or not isinstance(values.get("schema"), int):
            raise RequestError(f"its {KEY} has no schema number")
        if values["schema"] > SCHEMA:
            raise RequestError(f"its {KEY} has schema {values['schema']}; this program reads schemas up to {SCHEMA}")
        known = {f.name: f for f in fields(cls)}
        lacking = [name for name in ("task", "input", "outputs", "architecture", "preprocessing") if name not in values]
        if lacking:
            raise RequestError(f"its {KEY} lacks {lacking[0]!r}")
        info = cls(**{name: value for name, value in values.items() if name in known})
        info._check()
        return info

    def _check(self) -> None:
        for name, choices in (("task", TASKS), ("input", tuple(INPUTS)), ("precision", EXPORT_PRECISIONS)):
            value = getattr(self, name)
            if value not in choices:
                raise RequestError(f"its {name} {value!r} is unknown{did_you_mean(str(value), choices)}")
        for name in ("architecture", "preprocessing", "provenance", "tools"):
            if not isinstance(getattr(self, name), dict):
                raise RequestError(f"its {name} is not a JSON object")
        for name in ("outputs", "classes"):
            value = getattr(self, name)
            is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
            if not is_list and not (name == "classes" and value is None):
                raise RequestError(f"its {name} are not a list of names")
        if self.batch is not None and (isinstance(self.batch, bool) or not isinstance(self.batch, int)):
            raise RequestError(f"its batch {self.batch!r} is not a whole number")

    def parse_architecture(self) -> Architecture:
        """Return the architecture. Raises RequestError if it is not valid."""
        try:
            return Architecture.from_dict(self.architecture)
        except TypeError as error:
            raise RequestError(f"its architecture is not valid: {error}") from None

    def parse_preprocessing(self) -> Preprocessing:
        """Return the preprocessing of a classifier. Raises RequestError if it is not valid."""
        return Preprocessing.from_dict(self.preprocessing)


def list_tool_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of this package, of torch and of the given packages."""
    return {"resnext": __version__} | {package: version(package) for package in ("torch", *packages)}
