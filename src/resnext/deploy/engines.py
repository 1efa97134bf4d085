"""What can run a folded network: the table of engines, and the ways in which each is tried.

An engine is built for one network and precision. It takes normalised float32 images [B, C, H, W] of any B and size
and gives float32 logits [B, K], all on the CPU.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, cast

from torch import Tensor

from resnext.deploy.fold import Folded, fold
from resnext.deploy.pack import pack
from resnext.environment import cpu_features
from resnext.errors import RequestError, nearest
from resnext.model.network import Network

GOALS = ("latency", "throughput")
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "int8": 0.3}  # of the length of the logits: see ``distance``
PRECISIONS = (*TOLERANCE, "auto")
BF16 = ("avx512_bf16", "amx_bf16")  # what computes in bf16 rather than imitating it
WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")  # for ONEDNN_MAX_CPU_ISA


@dataclass(frozen=True)
class Kind:
    """One engine: the packages it needs, the extra that brings them, and its precisions."""

    packages: tuple[str, ...]
    extra: str
    precisions: tuple[str, ...]


ENGINES = {
    "pytorch": Kind((), "", ("fp32", "bf16")),
    "onnxruntime": Kind(("onnxruntime", "onnx"), "onnx", ("fp32",)),
    "openvino": Kind(("openvino",), "openvino", ("fp32", "bf16", "int8")),
}


@dataclass(frozen=True)
class Way:
    """One way to run a network: ``str(way)`` and ``Way.parse`` go between it and its name in the cache."""

    engine: str
    form: str = "fused"  # fused: oneDNN's operators; folded: plain PyTorch; network: as it was trained
    pack: int = 0  # channels that a group has at least; 0: as they are
    piece: int = 0  # images at a time; 0: the whole batch
    streams: int = 1  # pieces at a time

    def __str__(self) -> str:
        return f"{self.engine} {self.form} pack={self.pack} piece={self.piece} streams={self.streams}"

    @property
    def words(self) -> str:
        """The same for people."""
        more = [f"packed to {self.pack} channels"] * bool(self.pack) + [f"{self.piece} at a time"] * bool(self.piece)
        return ", ".join([f"{self.engine} {self.form}", *more, *[f"{self.streams} streams"] * (self.streams > 1)])

    @classmethod
    def parse(cls, name: str) -> "Way":
        """Raises ValueError for what is not the name of a way."""
        engine, form, *pairs = name.split(" ")
        values = dict(pair.split("=") for pair in pairs)
        way = cls(engine, form, **{key: int(value) for key, value in values.items()})
        if str(way) != name or engine not in ENGINES or form not in ("fused", "folded", "network"):
            raise ValueError(name)
        return way


class Engine(Protocol):
    """A network ready to run."""

    def __call__(self, images: Tensor) -> Tensor: ...


def ways(engine: str, precision: str, goal: str, batch: int, cores: int) -> Iterator[Way]:
    """The ways of one engine worth measuring, the plainest first."""
    pieces = [0] if goal == "latency" or batch < 2 else sorted({0, min(4, batch)})
    if engine == "pytorch":
        yield Way(engine, "network")
        yield Way(engine, "folded")
        yield from (Way(engine, "fused", pack, piece) for pack in (0, 16) for piece in pieces)
    elif engine == "onnxruntime":
        yield from (Way(engine, "folded", pack) for pack in (0, 16))
    else:
        yield from (Way(engine, "folded", pack) for pack in ((0,) if precision == "int8" else (0, 32)))
        if goal == "throughput" and batch > 1 and cores > 1:
            yield Way(engine, "folded", 0, min(max(1, batch // (2 * cores)), 4), cores)


class Parts:
    """A network and what engines are made of it, each made once for all the ways that are tried."""

    def __init__(self, network: Network, precision: str, threads: int, calibration: Tensor | None = None) -> None:
        self.network, self.precision, self.threads = network, precision, threads
        self.calibration = calibration
        self.folded = fold(network).float()
        self._made: dict[tuple[str, int], Any] = {}

    def packed(self, channels: int) -> Folded:
        """The folded network with groups of at least ``channels``; 0: as it is."""
        return cast(Folded, self._once("packed", channels, lambda: pack(self.folded, channels)))

    def narrow(self, channels: int) -> bool:
        """Whether packing to ``channels`` would change anything."""
        convolutions = [layer.conv for layer in self.folded.convolutions()]
        return any(conv.groups > 1 and conv.weight.shape[1] < channels for conv in convolutions)

    def openvino(self, channels: int) -> Any:
        """The packed network as an openvino.Model, in int8 where that is the precision."""
        from resnext.deploy.openvino_graph import build_openvino_model
        from resnext.deploy.quantize import quantize

        def make() -> Any:
            model = build_openvino_model(self.packed(channels))
            return quantize(model, self.calibration) if self.precision == "int8" else model

        return self._once("openvino", channels, make)

    def onnx(self, channels: int) -> bytes:
        """The packed network as an ONNX model."""
        from resnext.deploy.onnx_graph import build_onnx_model

        return cast(bytes, self._once("onnx", channels, lambda: build_onnx_model(self.packed(channels))))

    def _once(self, kind: str, channels: int, make: Callable[[], Any]) -> Any:
        if (kind, channels) not in self._made:
            self._made[kind, channels] = make()
        return self._made[kind, channels]

    @property
    def channels(self) -> int:
        return self.network.architecture.in_channels

    def build(self, way: Way) -> Engine:
        """The engine of ``way``. Raises RequestError for a missing package, and for int8 without calibration images."""
        require(way.engine)
        if way.engine == "pytorch":
            from resnext.deploy import pytorch_engine

            return pytorch_engine.build(way, self.network, self.packed(way.pack), self.precision)
        if way.engine == "onnxruntime":
            from resnext.deploy.onnx_engine import OnnxEngine

            return OnnxEngine(self.onnx(way.pack), self.threads)
        from resnext.deploy.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(self.openvino(way.pack), self.precision, way.piece, way.streams, self.threads)


def candidates(engine: str, precision: str) -> list[str]:
    """The engines that ``engine`` ("auto": those installed) means at a precision. Raises RequestError if none can."""
    if engine != "auto" and engine not in ENGINES:
        raise RequestError(f"engine {engine!r} is unknown{nearest(engine, [*ENGINES, 'auto'])}")
    if engine == "auto":
        able = [name for name, kind in ENGINES.items() if precision in kind.precisions]
        names = [name for name in able if not missing(name)]
        if not names:
            require(able[0])
        return names
    if precision not in ENGINES[engine].precisions:
        able = [name for name, kind in ENGINES.items() if precision in kind.precisions]
        raise RequestError(f"engine {engine} does not compute in {precision} here; {' or '.join(able)} does")
    require(engine)
    return [engine]


def missing(engine: str) -> list[str]:
    """The packages an engine needs and that are not installed."""
    return [package for package in ENGINES[engine].packages if find_spec(package) is None]


def require(engine: str) -> None:
    """Raises RequestError where the engine's packages are not installed."""
    lacking = missing(engine)
    if lacking:
        extra = ENGINES[engine].extra
        raise RequestError(f"engine {engine} needs {' and '.join(lacking)}: pip install 'resnext[{extra}]'")


def has_bf16() -> bool:
    """Whether the processor computes in bf16, and ONEDNN_MAX_CPU_ISA lets it."""
    return (
        bool(set(BF16) & set(cpu_features())) and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in WITHOUT_BF16
    )


def distance(logits: Tensor, reference: Tensor) -> float:
    """The length of the difference of two sets of logits over the length of ``reference``; nan if not finite."""
    difference = (logits.double() - reference.double()).norm()
    return float(difference / reference.double().norm().clamp_min(1e-30))
