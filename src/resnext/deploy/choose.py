"""Select the fastest engine for a network: build each candidate, check its results, time it, and cache the times."""

import hashlib
import os
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import Tensor

from resnext.deploy.engines import ENGINES, TOLERANCE, Engine, Parts, Way, candidates, distance, ways
from resnext.errors import RequestError, WorkError
from resnext.speed.cache import say_once
from resnext.speed.choices import Choices

CPU = torch.device("cpu")


class Chosen(NamedTuple):
    """An engine that has passed its check."""

    engine: Engine
    way: Way
    distance: float  # relative error of its logits on the check images (``engines.compute_relative_error``)


class Wish(NamedTuple):
    """What an engine is selected for."""

    engine: str  # a key of ENGINES, or "auto"
    goal: str  # one of GOALS
    batch: int  # images in a batch
    size: tuple[int, int]  # height and width in pixels


def choose(parts: Parts, wish: Wish, check: Tensor) -> Chosen:
    """Return the fastest engine for the workload whose logits on the images ``check`` match the network's.

    Times come from the cache, or are measured and cached. Raises RequestError if the engine is not available, and
    WorkError if no candidate matches the network.
    """
    names = candidates(wish.engine, parts.precision)
    with torch.inference_mode():
        reference = parts.network(check).float()
    choices, key = Choices.here(CPU), _key(parts, wish, names)
    for way in _remembered(choices.measured.get(key, {}), names):
        if (chosen := _checked(parts, way, check, reference)) is not None:
            return chosen
    tried = [way for name in names for way in ways(name, parts.precision, wish.goal, wish.batch, parts.threads)]
    tried = [way for way in tried if not way.pack or parts.narrow(way.pack)]
    good = [chosen for way in tried if (chosen := _checked(parts, way, check, reference)) is not None]
    if not good:
        raise WorkError(f"no engine of {', '.join(names)} gives the network's results in {parts.precision}")
    images = torch.randn(wish.batch, parts.channels, *wish.size, generator=torch.Generator().manual_seed(0))
    if len(good) > 1:
        say_once(f"timing {len(good)} engine variants of {parts.network.architecture.name} in {parts.precision}")
    choices.measured.pop(key, None)
    seconds = choices.take(key, lambda: {str(c.way): partial(c.engine, images) for c in good}, CPU)
    choices.save()
    return min(good, key=lambda chosen: seconds[str(chosen.way)])


def _remembered(seconds: dict[str, float], names: list[str]) -> list[Way]:
    """Return the fastest cached configuration as a list of one; an empty list if the entry is unusable."""
    try:
        found = [Way.parse(name) for name in sorted(seconds, key=lambda name: seconds[name])]
    except (ValueError, TypeError):
        return []
    return found[:1] if all(way.engine in names for way in found) else []


def _checked(parts: Parts, way: Way, check: Tensor, reference: Tensor) -> Chosen | None:
    """Build an engine and compare its logits with ``reference``; return None, with a warning, if it fails."""
    try:
        engine = parts.build(way)
        far = distance(engine(check), reference)
    except RequestError:
        raise
    except Exception as error:  # an installed engine that does not work is skipped, whatever it raises
        say_once(f"{way.engine} ({way.form}) is skipped: {type(error).__name__}: {str(error)[:200]}")
        return None
    if not far <= TOLERANCE[parts.precision]:
        say_once(
            f"{way} is skipped: the relative error of its logits in {parts.precision} is {far:.2g}, "
            f"above {TOLERANCE[parts.precision]:g}"
        )
        return None
    return Chosen(engine, way, far)


def _key(parts: Parts, wish: Wish, names: list[str]) -> str:
    """Build the cache key: all that the times depend on besides the machine."""
    a = parts.network.architecture
    digest = hashlib.sha256(repr(a).encode()).hexdigest()[:8]
    installed = [p for name in names for p in ENGINES[name].packages]
    packages = " ".join(f"{package}-{version(package)}" for package in installed)
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA", "any ISA")
    size = f"{wish.batch}x{wish.size[0]}x{wish.size[1]}"
    return (
        f"run {a.name} {digest} {parts.precision} {wish.goal} {size} threads={parts.threads} {cap} pytorch {packages}"
    )
