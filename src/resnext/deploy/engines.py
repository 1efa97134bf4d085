"""The inference engines, and the configurations of each that are worth timing.

An engine is built for one network and precision, and runs on the CPU. It takes and gives numpy arrays: normalised
float32 images [B, C, H, W] of any B and size, or what an exported file takes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from resnext.choices import ENGINE_CHOICES, EngineChoice, EngineName, EnginePrecision, Goal
from resnext.errors import RequestError, did_you_mean

TOLERANCE: dict[EnginePrecision, float] = {
    "fp32": 1e-4,
    "bf16": 5e-2,
    "int8": 0.3,
}  # relative error of the logits, see ``compute_relative_error``


@dataclass(frozen=True)
class EngineSpec:
    """One engine: the packages it needs, the extra of this package that installs them, and its precisions."""

    packages: tuple[str, ...]
    extra: str
    precisions: tuple[EnginePrecision, ...]


ENGINES: dict[EngineName, EngineSpec] = {
    "pytorch": EngineSpec((), "", ("fp32", "bf16")),
    "onnxruntime": EngineSpec(("onnxruntime", "onnx"), "onnx", ("fp32",)),
    "openvino": EngineSpec(("openvino",), "openvino", ("fp32", "bf16", "int8")),
}


@dataclass(frozen=True)
class EngineConfig:
    """One configuration of an engine. ``str(config)`` is its name in the cache, and ``EngineConfig.parse`` reads it."""

    engine: EngineName
    form: str = "fused"  # fused: oneDNN's operators; folded: BN folded, plain operators; network: as trained
    pack: int = 0  # minimum number of channels in a group after packing; 0: no packing
    piece: int = 0  # images in a micro-batch; 0: the whole batch
    streams: int = 1  # micro-batches that run in parallel

    def __str__(self) -> str:
        return f"{self.engine} {self.form} pack={self.pack} piece={self.piece} streams={self.streams}"

    @property
    def description(self) -> str:
        """The configuration in words."""
        more = [f"packed to {self.pack} channels"] * bool(self.pack) + [f"{self.piece} at a time"] * bool(self.piece)
        return ", ".join([f"{self.engine} {self.form}", *more, *[f"{self.streams} streams"] * (self.streams > 1)])

    @classmethod
    def parse(cls, name: str) -> "EngineConfig":
        """Parse a name from the cache. Raises ValueError for other text."""
        engine, form, *pairs = name.split(" ")
        values = dict(pair.split("=") for pair in pairs)
        known = next((one for one in ENGINES if one == engine), None)
        if known is None or form not in ("fused", "folded", "network"):
            raise ValueError(name)
        config = cls(known, form, **{key: int(value) for key, value in values.items()})
        if str(config) != name:
            raise ValueError(name)
        return config


class Outputs(NamedTuple):
    """What an engine computes for a batch."""

    logits: np.ndarray  # float32 [B, K]; pooled features of a network without classifier
    cam: np.ndarray | None = None  # float32 [B, K, h, w]: class activation maps, signed, without the bias of fc

    @classmethod
    def from_named(cls, arrays: Mapping[str, np.ndarray]) -> "Outputs":
        """Pick logits and maps out of all outputs of a model."""
        return cls(arrays["logits"], arrays.get("cam"))


class Engine(Protocol):
    """A network that is ready to run. It may be called by several threads at once."""

    def __call__(self, images: np.ndarray) -> Outputs:
        """Compute the outputs of a batch."""

    def warm_up(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Prepare for these input shapes, so that no later call with one of them compiles anything."""

    def close(self) -> None:
        """Release memory and threads. The engine cannot be called any more."""


def list_configs(
    engine: EngineName, precision: EnginePrecision, goal: Goal, batch: int, cores: int, streams: int | None = None
) -> Iterator[EngineConfig]:
    """List the configurations of one engine that are worth timing, the simplest first.

    With ``streams``, OpenVINO has this number of streams and runs each batch whole in one of them.
    """
    if streams is not None and engine == "openvino":
        packs = (0,) if precision == "int8" else (0, 32)
        yield from (EngineConfig(engine, "folded", pack, 0, streams) for pack in packs)
        return
    pieces = [0] if goal == "latency" or batch < 2 else sorted({0, min(4, batch)})
    if engine == "pytorch":
        yield EngineConfig(engine, "network")
        yield EngineConfig(engine, "folded")
        yield from (EngineConfig(engine, "fused", pack, piece) for pack in (0, 16) for piece in pieces)
    elif engine == "onnxruntime":
        yield from (EngineConfig(engine, "folded", pack) for pack in (0, 16))
    else:
        yield from (EngineConfig(engine, "folded", pack) for pack in ((0,) if precision == "int8" else (0, 32)))
        if goal == "throughput" and batch > 1 and cores > 1:
            yield EngineConfig(engine, "folded", 0, min(max(1, batch // (2 * cores)), 4), cores)


def list_engines(engine: EngineChoice, precision: EnginePrecision) -> list[EngineName]:
    """List the engines that ``engine`` ("auto": all installed ones) stands for at a precision.

    Raises RequestError if there is none.
    """
    if engine != "auto" and engine not in ENGINES:
        raise RequestError(f"engine {engine!r} is unknown{did_you_mean(engine, ENGINE_CHOICES)}")
    able = [name for name, kind in ENGINES.items() if precision in kind.precisions]
    if engine == "auto":
        names = [name for name in able if not find_missing_packages(name)]
        if not names:
            require_packages(able[0])
        return names
    if engine not in able:
        raise RequestError(f"engine {engine} does not compute in {precision} here; {' or '.join(able)} does")
    require_packages(engine)
    return [engine]


def find_missing_packages(engine: EngineName) -> list[str]:
    """List the packages that an engine needs and that are not installed."""
    return [package for package in ENGINES[engine].packages if find_spec(package) is None]


def require_packages(engine: EngineName) -> None:
    """Raise RequestError if packages of the engine are not installed."""
    lacking = find_missing_packages(engine)
    if lacking:
        extra = ENGINES[engine].extra
        raise RequestError(f"engine {engine} needs {' and '.join(lacking)}: pip install 'resnext[{extra}]'")


def compute_relative_error(logits: ArrayLike, reference: ArrayLike) -> float:
    """Return the norm of ``logits - reference`` divided by the norm of ``reference``; nan if values are not finite."""
    expected = np.asarray(reference, np.float64)
    difference = np.linalg.norm(np.asarray(logits, np.float64) - expected)
    return float(difference / max(float(np.linalg.norm(expected)), 1e-30))
