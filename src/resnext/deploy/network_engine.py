"""Build the fastest engine for a network in memory, checked against the network itself."""

import copy
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from resnext.choices import EngineChoice, EnginePrecision, PrecisionChoice
from resnext.deploy.engine_builder import EngineBuilder
from resnext.deploy.engine_selection import SelectedEngine, Workload, select_engine
from resnext.deploy.engines import ENGINES, list_engines
from resnext.deploy.int8 import check_calibration
from resnext.environment import has_bf16
from resnext.errors import RequestError
from resnext.model.complexity import get_default_image_size
from resnext.model.network import Network
from resnext.speed.tuning_cache import time_candidates

CHECK_IMAGES = 8  # images on which an engine is compared with the network
SELECTION_LOCK = Lock()  # one selection at a time: timings would disturb each other, and NNCF's stdout is redirected


def copy_network(network: Network) -> Network:
    """Copy a network for inference in float32. Raises RequestError if it is not on the CPU."""
    if next(network.parameters()).device.type != "cpu":
        raise RequestError("engines run on the CPU, but the network is on another device")
    return copy.deepcopy(network).float().eval().requires_grad_(False)


def get_expected_image_size(network: Network) -> int:
    """Return the image side, in pixels, that the weights expect."""
    if network.preprocessing is not None:
        return int(network.preprocessing.image_size)
    return get_default_image_size(network.architecture)


def build_network_engine(
    network: Network, workload: Workload, precision: PrecisionChoice, calibration: Tensor | None, with_cam: bool
) -> tuple[EnginePrecision, SelectedEngine]:
    """Select the engine, and with precision "auto" the faster of fp32 and bf16; return the precision and the engine.

    Raises RequestError for what this machine does not support, WorkError if no engine gives the network's results.
    """
    network.architecture.check_image_size(*workload.size)
    if precision != "auto":
        list_engines(workload.engine, precision)
    if precision == "int8":
        check_calibration(calibration)
    check = _make_check_images(network, workload, calibration)
    possible = [precision] if precision != "auto" else _list_auto_precisions(workload.engine)
    with SELECTION_LOCK:
        chosen = [
            select_engine(EngineBuilder(network, p, torch.get_num_threads(), calibration, with_cam), workload, check)
            for p in possible
        ]
        if len(chosen) == 1:
            return possible[0], chosen[0]
        images = np.repeat(check[:1], workload.batch, axis=0)
        works = {p: lambda engine=c.engine: engine(images) for p, c in zip(possible, chosen, strict=True)}
        seconds = time_candidates(works, torch.device("cpu"))
    return min(zip(possible, chosen, strict=True), key=lambda pair: seconds[pair[0]])


def _make_check_images(network: Network, workload: Workload, calibration: Tensor | None) -> np.ndarray:
    if calibration is not None:
        network._check_input(calibration)
        if len(calibration):
            some = calibration[:: max(1, len(calibration) // CHECK_IMAGES)][:CHECK_IMAGES]
            images: np.ndarray = some.float().contiguous().numpy()
            return images
    generator = torch.Generator().manual_seed(1)
    noise: np.ndarray = torch.randn(2, network.architecture.in_channels, *workload.size, generator=generator).numpy()
    return noise


def _list_auto_precisions(engine: EngineChoice) -> list[EnginePrecision]:
    """List the precisions that "auto" tries: fp32, and bf16 if engine and processor support it."""
    names = list_engines(engine, "fp32")
    return ["fp32", "bf16"] if has_bf16() and any("bf16" in ENGINES[n].precisions for n in names) else ["fp32"]
