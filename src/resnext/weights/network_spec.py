"""The two values between a file and a network: a reader returns RawCheckpoint, an adapter returns NetworkSpec."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from resnext.data.preprocessing import Preprocessing
from resnext.model.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class RawCheckpoint:
    """The content of a weights file before it is interpreted: plain values, lists, dicts and tensors."""

    path: Path
    file_format: str  # "safetensors", "torch zip", "torch legacy", "torch tar", "pickle" or "torch7"
    value: object
    metadata: dict[str, str] = field(default_factory=dict)  # of safetensors
    config: dict[str, Any] | None = None  # the config.json beside the file, as timm's folders have it

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The value of a safetensors file."""
        assert self.file_format == "safetensors"
        return cast(dict[str, Tensor], self.value)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Everything ``build_network`` needs to build a network."""

    architecture: Architecture
    state: dict[str, Tensor]  # by the parameter names of the architecture in its form
    format: str  # "resnext", "resnext-detector", "torchvision", "timm", "detectron2", "detectron", "pycls", "torch7"
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()  # each a sentence on what was assumed, folded, converted or left out
    provenance: dict[str, Any] = field(default_factory=dict)  # free JSON that is saved with the weights
