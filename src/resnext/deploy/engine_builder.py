"""Build the engine of a configuration for a network."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from resnext.choices import EnginePrecision
from resnext.deploy.engines import Engine, EngineConfig, require_packages
from resnext.deploy.fold import FoldedNetwork, fold
from resnext.deploy.graph_interface import GraphInterface
from resnext.deploy.pack import pack_groups
from resnext.deploy.probe import is_known, probe_engine
from resnext.deploy.pytorch_engine import build_pytorch_engine
from resnext.deploy.signal_stack import preserve_signal_stack
from resnext.model.network import Network

PROBE_SIDE = 32  # pixels, at least the stride of the network


class EngineBuilder:
    """Build engines for a network; models that several configurations share are built once."""

    def __init__(
        self,
        network: Network,
        precision: EnginePrecision,
        threads: int,
        calibration: Tensor | None = None,
        with_cam: bool = False,
    ) -> None:
        self.network, self.precision, self.threads = network, precision, threads
        self.calibration, self.with_cam = calibration, with_cam
        self.folded = fold(network).float()
        self._models: dict[tuple[str, int], Any] = {}

    def get_packed(self, channels: int) -> FoldedNetwork:
        """Return the folded network, packed to groups of at least ``channels`` channels (0: not packed)."""
        return cast(FoldedNetwork, self._get_or_make("packed", channels, lambda: pack_groups(self.folded, channels)))

    def supports(self, config: EngineConfig) -> bool:
        """Return whether a configuration differs from the others for this network, and can give what is wanted."""
        if config.form == "network" and self.with_cam:
            return False
        return not config.pack or self._has_narrow_groups(config.pack)

    def _has_narrow_groups(self, channels: int) -> bool:
        convolutions = [layer.conv for layer in self.folded.iter_convolutions()]
        return any(conv.groups > 1 and conv.weight.shape[1] < channels for conv in convolutions)

    def get_openvino_model(self, channels: int) -> Any:
        """Return the packed network as an openvino.Model, quantised if the precision is int8."""

        def make() -> Any:
            from resnext.deploy.int8 import quantize_int8
            from resnext.deploy.openvino_graph import build_openvino_model

            model = build_openvino_model(self.get_packed(channels), GraphInterface(with_cam=self.with_cam))
            return quantize_int8(model, self.calibration) if self.precision == "int8" else model

        return self._get_or_make("openvino", channels, make)

    def get_onnx_model(self, channels: int) -> bytes:
        """Return the packed network as a serialised ONNX model."""
        from resnext.deploy.onnx_graph import build_onnx_model

        interface = GraphInterface(with_cam=self.with_cam)
        make = partial(build_onnx_model, self.get_packed(channels), interface)
        return cast(bytes, self._get_or_make("onnx", channels, make))

    def _probe_openvino(self, model: Any, config: EngineConfig) -> None:
        """Run the model in a child process first: OpenVINO has crashed on some processors."""
        from resnext.deploy.openvino_engine import import_openvino

        a = self.network.architecture
        side = max(a.stride, PROBE_SIDE)
        key = f"network {a!r} {self.precision} pack={config.pack} cam={self.with_cam}"
        with tempfile.TemporaryDirectory() as folder, preserve_signal_stack():
            file = Path(folder) / "network.xml"
            if not is_known("openvino", self.precision, shape := (1, a.in_channels, side, side), key):
                import_openvino().save_model(model, file, compress_to_fp16=False)
            probe_engine(file, "openvino", self.precision, shape, "float32", key)

    def _get_or_make(self, kind: str, channels: int, make: Callable[[], Any]) -> Any:
        if (kind, channels) not in self._models:
            self._models[kind, channels] = make()
        return self._models[kind, channels]

    def build(self, config: EngineConfig) -> Engine:
        """Build an engine. Raises RequestError if a package is missing, or calibration images for int8 are."""
        require_packages(config.engine)
        if config.engine == "pytorch":
            return build_pytorch_engine(
                config, self.network, self.get_packed(config.pack), self.precision, self.with_cam
            )
        if config.engine == "onnxruntime":
            from resnext.deploy.onnx_engine import OnnxEngine

            return OnnxEngine(self.get_onnx_model(config.pack), self.threads)
        from resnext.deploy.openvino_engine import OpenVinoEngine

        model = self.get_openvino_model(config.pack)
        self._probe_openvino(model, config)
        return OpenVinoEngine(model, self.precision, config.piece, config.streams, self.threads)
