"""Run a network on the fastest engine of this machine, on the CPU.

    predictor = Predictor(resnext.load("run"), precision="bf16", goal="throughput", batch=16)
    logits = predictor(images)

Before an engine is used, its logits for a few images are compared with the network's in fp32; their relative error must
be within ``engines.TOLERANCE``. The default precision is fp32; "auto" may use bf16; int8 must be requested by name.
"""

import copy
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.deploy.engine_builder import EngineBuilder
from resnext.deploy.engine_selection import SelectedEngine, Workload, select_engine
from resnext.deploy.engines import ENGINES, GOALS, PRECISIONS, has_bf16, list_engines
from resnext.deploy.int8 import check_calibration
from resnext.errors import RequestError, did_you_mean
from resnext.model.complexity import get_default_image_size
from resnext.model.network import Network
from resnext.speed.tuning_cache import time_candidates

CHECK_IMAGES = 8  # images on which an engine is compared with the network
SELECTION_LOCK = Lock()  # one selection at a time: timings would disturb each other, and NNCF's stdout is redirected


class Predictor(nn.Module):
    """A network on the fastest engine of this machine. It can replace a network in eval mode, and is thread-safe.

    Args:
        network: a network of this package, on the CPU. It is copied.
        engine: "auto", "pytorch", "onnxruntime" or "openvino".
        precision: "fp32", "bf16", "int8", or "auto" for the faster of fp32 and bf16.
        goal: "latency" or "throughput".
        batch: the usual number of images in a batch, for which the engine is selected; other sizes work too.
        image_size: the usual side in pixels; default: that of the weights' preprocessing.
        calibration: normalised training images [N, C, H, W]. int8 needs them. The engine's results are checked on
            them, or else on random numbers.

    Raises:
        RequestError: an option is unknown, or this machine does not support it.
    """

    def __init__(
        self,
        network: Network,
        *,
        engine: str = "auto",
        precision: str = "fp32",
        goal: str = "latency",
        batch: int = 1,
        image_size: int | None = None,
        calibration: Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_options(engine, precision, goal)
        if batch < 1:
            raise RequestError(f"batch must be at least 1, not {batch}")
        if next(network.parameters()).device.type != "cpu":
            raise RequestError("engines run on the CPU, but the network is on another device")
        self.network = copy.deepcopy(network).float().eval().requires_grad_(False)
        self.architecture, self.classes = network.architecture, network.classes
        self.preprocessing: Preprocessing | None = network.preprocessing
        self.provenance = network.provenance
        side = image_size or get_expected_image_size(network)
        network.architecture.check_image_size(side, side)
        if precision != "auto":
            list_engines(engine, precision)
        if precision == "int8":
            check_calibration(calibration)
        workload = Workload(engine, goal, batch, (side, side))
        with SELECTION_LOCK:
            self.precision, self._selected = self._select(workload, precision, calibration)

    @property
    def engine(self) -> str:
        """The selected precision and engine, in words."""
        return f"{self.precision} on {self._selected.config.description}"

    @property
    def relative_error(self) -> float:
        """Relative error of the logits on the check images, against fp32 (``engines.compute_relative_error``)."""
        return self._selected.relative_error

    def forward(self, images: Tensor | np.ndarray) -> Tensor:
        """Compute logits, float32 [B, K].

        Args:
            images: [B, C, H, W] of any memory layout and any B, including 0: normalised floating point, or uint8,
                which is normalised here.

        Raises:
            RequestError: the shape or the type is not supported.
        """
        images = self._prepare(images)
        if not len(images):
            return images.new_zeros(0, self.architecture.num_classes or self.architecture.stages[-1].out_channels)
        with torch.autocast("cpu", enabled=False):
            return self._selected.engine(images)

    def _prepare(self, images: Tensor | np.ndarray) -> Tensor:
        if isinstance(images, np.ndarray):
            if images.dtype.kind not in "fu":
                raise RequestError(f"images must be floating point or uint8, not {images.dtype}")
            images = torch.from_numpy(np.array(images, order="C"))
        if not isinstance(images, Tensor):
            raise RequestError(
                f"images must be a tensor or an array, not {type(images).__name__}; for files and PIL images, call "
                "resnext.predict(predictor, images)"
            )
        self.network._check_input(images)
        if images.dtype == torch.uint8:
            if self.preprocessing is None:
                raise RequestError("the weights do not say how uint8 images are normalised; pass normalised floats")
            return normalize(images, self.preprocessing, "cpu")
        if not images.is_floating_point():
            raise RequestError(f"images must be floating point or uint8, not {images.dtype}")
        return images.detach().to("cpu", torch.float32).contiguous()

    def _select(self, workload: Workload, precision: str, calibration: Tensor | None) -> tuple[str, SelectedEngine]:
        """Select the precision and its engine."""
        check = self._make_check_images(workload, calibration)
        possible = [precision] if precision != "auto" else self._list_auto_precisions(workload.engine)
        chosen = [
            select_engine(EngineBuilder(self.network, p, torch.get_num_threads(), calibration), workload, check)
            for p in possible
        ]
        if len(chosen) == 1:
            return possible[0], chosen[0]
        images = check[:1].expand(workload.batch, -1, -1, -1).contiguous()
        works = {p: lambda engine=c.engine: engine(images) for p, c in zip(possible, chosen, strict=True)}
        seconds = time_candidates(works, torch.device("cpu"))
        return min(zip(possible, chosen, strict=True), key=lambda pair: seconds[pair[0]])

    def _make_check_images(self, workload: Workload, calibration: Tensor | None) -> Tensor:
        if calibration is not None:
            self.network._check_input(calibration)
            if len(calibration):
                return calibration[:: max(1, len(calibration) // CHECK_IMAGES)][:CHECK_IMAGES].float().contiguous()
        generator = torch.Generator().manual_seed(1)
        return torch.randn(2, self.architecture.in_channels, *workload.size, generator=generator)

    def _list_auto_precisions(self, engine: str) -> list[str]:
        """List the precisions that "auto" tries: fp32, and bf16 if engine and processor support it."""
        names = list_engines(engine, "fp32")
        return ["fp32", "bf16"] if has_bf16() and any("bf16" in ENGINES[n].precisions for n in names) else ["fp32"]


def get_expected_image_size(network: Network) -> int:
    """Return the image side, in pixels, that the weights expect."""
    if network.preprocessing is not None:
        return int(network.preprocessing.image_size)
    return get_default_image_size(network.architecture)


def _check_options(engine: str, precision: str, goal: str) -> None:
    for name, value, choices in (
        ("engine", engine, (*ENGINES, "auto")),
        ("precision", precision, PRECISIONS),
        ("goal", goal, GOALS),
    ):
        if value not in choices:
            raise RequestError(f"{name} {value!r} is unknown{did_you_mean(str(value), choices)}")
    if precision == "bf16" and not has_bf16():
        raise RequestError(
            "this processor does not compute in bf16 (it needs avx512_bf16 or amx_bf16, and ONEDNN_MAX_CPU_ISA must "
            "not exclude it); use fp32 or auto"
        )
