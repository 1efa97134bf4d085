"""Which engine runs a network fastest here: each way is checked against the network, timed, and remembered."""

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
    """An engine, the way it runs, and how far its logits were from the network's on the images they were checked on."""

    engine: Engine
    way: Way
    distance: float


class Wish(NamedTuple):
    """What is to be run fast."""

    engine: str
    goal: str
    batch: int
    size: tuple[int, int]


def choose(parts: Parts, wish: Wish, check: Tensor) -> Chosen:
    """The fastest way for the wish, as remembered or as measured now, whose results on ``check`` are the network's.

    Raises RequestError for an engine that cannot be had, WorkError where no way gives the network's results.
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
        raise WorkError(f"of {', '.join(names)} none gives the network's results in {parts.precision}")
    images = torch.randn(wish.batch, parts.channels, *wish.size, generator=torch.Generator().manual_seed(0))
    if len(good) > 1:
        say_once(f"measuring {len(good)} ways to run {parts.network.architecture.name} in {parts.precision}")
    choices.measured.pop(key, None)
    seconds = choices.take(key, lambda: {str(c.way): partial(c.engine, images) for c in good}, CPU)
    choices.save()
    return min(good, key=lambda chosen: seconds[str(chosen.way)])


def _remembered(seconds: dict[str, float], names: list[str]) -> list[Way]:
    """The fastest way that a cache knows, alone; none where it holds what is no way of these engines."""
    try:
        found = [Way.parse(name) for name in sorted(seconds, key=lambda name: seconds[name])]
    except (ValueError, TypeError):
        return []
    return found[:1] if all(way.engine in names for way in found) else []


def _checked(parts: Parts, way: Way, check: Tensor, reference: Tensor) -> Chosen | None:
    """The engine of a way whose results are the network's; None, and a sentence, where they are not."""
    try:
        engine = parts.build(way)
        far = distance(engine(check), reference)
    except RequestError:
        raise
    except Exception as error:  # an engine that is installed and does not work is left out, whatever it raises
        say_once(f"{way.engine} ({way.form}) is left out: {type(error).__name__}: {str(error)[:200]}")
        return None
    if not far <= TOLERANCE[parts.precision]:
        say_once(
            f"{way} is left out: its results in {parts.precision} are off by {far:.2g} of the logits' length, "
            f"above {TOLERANCE[parts.precision]:g}"
        )
        return None
    return Chosen(engine, way, far)


def _key(parts: Parts, wish: Wish, names: list[str]) -> str:
    """What the speed of a network depends on beside the machine."""
    a = parts.network.architecture
    digest = hashlib.sha256(repr(a).encode()).hexdigest()[:8]
    installed = [p for name in names for p in ENGINES[name].packages]
    packages = " ".join(f"{package}-{version(package)}" for package in installed)
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA", "any ISA")
    size = f"{wish.batch}x{wish.size[0]}x{wish.size[1]}"
    return (
        f"run {a.name} {digest} {parts.precision} {wish.goal} {size} threads={parts.threads} {cap} pytorch {packages}"
    )
