"""One predictor over every engine: images in, logits out, on the CPU, as fast as this machine can.

    predictor = Predictor(resnext.load("run"), precision="bf16", goal="throughput", batch=16)
    logits = predictor(images)

Results are those of the network in fp32 within ``engines.TOLERANCE``: the length of the difference of the logits over
their own length, checked on a few images before an engine is taken. Nothing else than what was asked for is computed:
the default is fp32, ``precision="auto"`` may take bf16, and int8 must be asked for by name.
"""

import copy
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from resnext.data.preprocessing import Preprocessing, normalize
from resnext.deploy.choose import Chosen, Wish, choose
from resnext.deploy.engines import ENGINES, GOALS, PRECISIONS, Parts, candidates, has_bf16
from resnext.deploy.quantize import check_calibration
from resnext.errors import RequestError, nearest
from resnext.model.network import Network
from resnext.speed.choices import seconds_of

CHECKED = 8  # images that an engine's results are compared on
CHOOSING = Lock()  # one engine at a time is chosen: timings would disturb each other, and NNCF's output is caught


class Predictor(nn.Module):
    """A network that runs on the fastest engine here. It stands wherever a network in eval mode does.

    ``batch`` and ``image_size`` say what it will mostly be given (latency is measured at this batch too); it takes any.
    ``calibration`` are normalised images of the training data, which int8 needs; with them results are checked on
    them, else on random numbers. Any number of threads may call it. Raises RequestError for what cannot be had here.
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
        _check_words(engine, precision, goal)
        if batch < 1:
            raise RequestError(f"the batch to choose an engine for must be at least 1, not {batch}")
        if next(network.parameters()).device.type != "cpu":
            raise RequestError("engines run on the CPU: move the network there, or leave the engine out")
        self.network = copy.deepcopy(network).float().eval().requires_grad_(False)
        self.architecture, self.classes = network.architecture, network.classes
        self.preprocessing: Preprocessing | None = network.preprocessing
        self.provenance = network.provenance
        side = image_size or usual_size(network)
        network.architecture.check_image_size(side, side)
        if precision != "auto":
            candidates(engine, precision)
        if precision == "int8":
            check_calibration(calibration)
        wish = Wish(engine, goal, batch, (side, side))
        with CHOOSING:
            self.precision, self._chosen = self._choose(wish, precision, calibration)

    @property
    def engine(self) -> str:
        """The precision and the way that was chosen, in words."""
        return f"{self.precision} on {self._chosen.way.words}"

    @property
    def distance(self) -> float:
        """How far the logits were from the network's in fp32 when the engine was chosen (``engines.distance``)."""
        return self._chosen.distance

    def forward(self, images: Tensor | np.ndarray) -> Tensor:
        """Logits float32 [B, K] of images [B, C, H, W]: normalised floating point, or uint8 to be normalised here.

        Any layout and B, 0 included. Raises RequestError for other shapes and types.
        """
        images = self._prepared(images)
        if not len(images):
            return images.new_zeros(0, self._outputs())
        with torch.autocast("cpu", enabled=False):
            return self._chosen.engine(images)

    def _prepared(self, images: Tensor | np.ndarray) -> Tensor:
        if isinstance(images, np.ndarray):
            if images.dtype.kind not in "fu":
                raise RequestError(f"images must be floating point or uint8, not {images.dtype}")
            images = torch.from_numpy(np.array(images, order="C"))
        if not isinstance(images, Tensor):
            raise RequestError(
                f"images must be a tensor or an array, not {type(images).__name__}; of files and pictures: "
                "resnext.evaluate.predict.predict(predictor, images)"
            )
        self.network._check_input(images)
        if images.dtype == torch.uint8:
            if self.preprocessing is None:
                raise RequestError("the weights do not say how uint8 images are normalised; give normalised floats")
            return normalize(images, self.preprocessing, "cpu")
        if not images.is_floating_point():
            raise RequestError(f"images must be floating point or uint8, not {images.dtype}")
        return images.detach().to("cpu", torch.float32).contiguous()

    def _outputs(self) -> int:
        return self.architecture.num_classes or self.architecture.stages[-1].out_channels

    def _choose(self, wish: Wish, precision: str, calibration: Tensor | None) -> tuple[str, Chosen]:
        """The precision that is taken, and its engine."""
        check = self._check_images(wish, calibration)
        possible = [precision] if precision != "auto" else self._able(wish.engine)
        chosen = [choose(Parts(self.network, p, torch.get_num_threads(), calibration), wish, check) for p in possible]
        if len(chosen) == 1:
            return possible[0], chosen[0]
        images = check[:1].expand(wish.batch, -1, -1, -1).contiguous()
        works = {p: lambda engine=c.engine: engine(images) for p, c in zip(possible, chosen, strict=True)}
        seconds = seconds_of(works, torch.device("cpu"))
        return min(zip(possible, chosen, strict=True), key=lambda pair: seconds[pair[0]])

    def _check_images(self, wish: Wish, calibration: Tensor | None) -> Tensor:
        if calibration is not None:
            self.network._check_input(calibration)
            if len(calibration):
                return calibration[:: max(1, len(calibration) // CHECKED)][:CHECKED].float().contiguous()
        generator = torch.Generator().manual_seed(1)
        return torch.randn(2, self.architecture.in_channels, *wish.size, generator=generator)

    def _able(self, engine: str) -> list[str]:
        """What "auto" may take: fp32, and bf16 where engine and processor have it."""
        names = candidates(engine, "fp32")
        return ["fp32", "bf16"] if has_bf16() and any("bf16" in ENGINES[n].precisions for n in names) else ["fp32"]


def usual_size(network: Network) -> int:
    """The side of the images that the weights expect, pixels."""
    if network.preprocessing is not None:
        return int(network.preprocessing.image_size)
    return 224 if network.architecture.stem == "imagenet" else 32


def _check_words(engine: str, precision: str, goal: str) -> None:
    for name, value, choices in (
        ("engine", engine, (*ENGINES, "auto")),
        ("precision", precision, PRECISIONS),
        ("goal", goal, GOALS),
    ):
        if value not in choices:
            raise RequestError(f"{name} {value!r} is unknown{nearest(str(value), choices)}")
    if precision == "bf16" and not has_bf16():
        raise RequestError(
            "this processor does not compute in bf16 (avx512_bf16 or amx_bf16, not held back by ONEDNN_MAX_CPU_ISA); "
            "choose fp32 or auto"
        )
