"""One evaluation by several processes: each judges its share of the images, and every one of them gets the whole."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from resnext.data.source import Dataset
from resnext.errors import ResnextError, WorkError
from resnext.evaluate.evaluator import COLUMNS, Evaluation, merge
from resnext.train.distributed import World

T = TypeVar("T")


def together(world: World, work: Callable[[], T]) -> T:
    """What ``work`` gives here. Where it fails in one process it fails in all, so that none waits for another.

    Raises what ``work`` raises, and WorkError where another process failed.
    """
    failure: ResnextError | None = None
    try:
        result = work()
    except ResnextError as error:
        failure = error
    if world.any(failure is not None):
        raise failure or WorkError("another process could not evaluate its share of the images")
    return result


def gathered(
    evaluate: Callable[..., Evaluation], world: World, model: nn.Module, dataset: Dataset, *rest: Any, **options: Any
) -> Evaluation:
    """What ``evaluate(model, dataset, ...)`` gives for all images, in every process of ``world``.

    The parts are unpadded, each image is judged once, and the rows are those of one process to rounding. Raises what
    ``evaluate`` raises, and WorkError where another process failed.
    """
    where = {"device": world.device, "rank": world.rank, "world_size": world.size}
    share = together(world, lambda: evaluate(model, dataset, *rest, **options, **where))
    if world.size == 1:
        return share
    rows = torch.tensor(np.stack([getattr(share, name) for name in COLUMNS], axis=1), dtype=torch.float64)
    whole = world.gather_rows(rows).numpy()
    columns: dict[str, Any] = {name: whole[:, i].astype(kind) for i, (name, kind) in enumerate(COLUMNS.items())}
    paths = tuple(dataset.where(int(i)) for i in columns["index"])
    return merge([replace(share, where=paths, **columns)])
