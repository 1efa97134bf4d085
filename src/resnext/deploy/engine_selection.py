"""Select the fastest engine for a network: build each candidate, check its results, time it, and cache the times."""

import hashlib
import os
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import torch

from resnext.choices import EngineChoice, EngineName, Goal
from resnext.deploy import engines
from resnext.deploy.engine_builder import EngineBuilder
from resnext.errors import RequestError, WorkError
from resnext.speed.cache_folder import warn_once
from resnext.speed.tuning_cache import TuningCache
from resnext.speed.untimed import SETTLE_SECONDS

CPU = torch.device("cpu")


class SelectedEngine(NamedTuple):
    """An engine that has passed its check."""

    engine: engines.Engine
    config: engines.EngineConfig
    relative_error: float  # relative error of its logits on the check images (``engines.compute_relative_error``)


class Workload(NamedTuple):
    """What an engine is selected for."""

    engine: EngineChoice
    goal: Goal
    batch: int  # images in a batch
    size: tuple[int, int]  # height and width in pixels
    streams: int | None = None  # batches that run at the same time, each whole; None: chosen for the goal


def select_engine(builder: EngineBuilder, workload: Workload, check: np.ndarray) -> SelectedEngine:
    """Return the fastest engine for the workload whose logits on the images ``check`` match the network's.

    Times come from the cache, or are measured and cached. Raises RequestError if the engine is not available, and
    WorkError if no candidate matches the network.
    """
    names = engines.list_engines(workload.engine, builder.precision)
    with torch.inference_mode():
        reference = builder.network(torch.from_numpy(check)).float().numpy()
    choices, key = TuningCache.load(CPU), _compute_cache_key(builder, workload, names)
    for config in _load_cached_config(choices.timings.get(key, {}), names):
        if (chosen := _build_and_check(builder, config, check, reference)) is not None:
            return chosen
    tried = [
        config
        for name in names
        for config in engines.list_configs(
            name, builder.precision, workload.goal, workload.batch, builder.threads, workload.streams
        )
        if builder.supports(config)
    ]
    good = [chosen for config in tried if (chosen := _build_and_check(builder, config, check, reference)) is not None]
    if not good:
        raise WorkError(f"no engine of {', '.join(names)} gives the network's results in {builder.precision}")
    shape = (workload.batch, builder.network.architecture.in_channels, *workload.size)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    if len(good) > 1:
        warn_once(f"timing {len(good)} engine variants of {builder.network.architecture.name} in {builder.precision}")
    choices.timings.pop(key, None)
    seconds = choices.measure_or_load(
        key, lambda: {str(c.config): partial(c.engine, images) for c in good}, CPU, settle=SETTLE_SECONDS
    )
    choices.save()
    return min(good, key=lambda chosen: seconds[str(chosen.config)])


def _load_cached_config(seconds: dict[str, float], names: list[EngineName]) -> list[engines.EngineConfig]:
    """Return the fastest cached configuration as a list of one; an empty list if the entry is unusable."""
    try:
        found = [engines.EngineConfig.parse(name) for name in sorted(seconds, key=lambda name: seconds[name])]
    except (ValueError, TypeError):
        return []
    return found[:1] if all(config.engine in names for config in found) else []


def _build_and_check(
    builder: EngineBuilder, config: engines.EngineConfig, check: np.ndarray, reference: np.ndarray
) -> SelectedEngine | None:
    """Build an engine and compare its logits with ``reference``; return None, with a warning, if it fails."""
    try:
        engine = builder.build(config)
        far = engines.compute_relative_error(engine(check).logits, reference)
    except RequestError:
        raise
    except Exception as error:  # an installed engine that does not work is skipped, whatever it raises
        warn_once(f"{config.engine} ({config.form}) is skipped: {type(error).__name__}: {str(error)[:200]}")
        return None
    most = engines.TOLERANCE[builder.precision]
    if not far <= most:
        warn_once(
            f"{config} is skipped: the relative error of its logits in {builder.precision} is {far:.2g}, above {most:g}"
        )
        return None
    return SelectedEngine(engine, config, far)


def _compute_cache_key(builder: EngineBuilder, workload: Workload, names: list[EngineName]) -> str:
    """Build the cache key: all that the times depend on besides the machine."""
    a = builder.network.architecture
    digest = hashlib.sha256(repr(a).encode()).hexdigest()[:8]
    packages = " ".join(f"{package}-{version(package)}" for name in names for package in engines.ENGINES[name].packages)
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA", "any ISA")
    size = f"{workload.batch}x{workload.size[0]}x{workload.size[1]}"
    precision, threads = builder.precision, builder.threads
    more = f" streams={workload.streams}" * (workload.streams is not None) + " cam" * builder.with_cam
    return f"run {a.name} {digest} {precision} {workload.goal} {size} threads={threads}{more} {cap} pytorch {packages}"
