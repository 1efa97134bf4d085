"""Evaluate with several processes: each evaluates a shard of the images, then all gather all rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from resnext.data.dataset import Dataset
from resnext.errors import ResnextError, WorkError
from resnext.evaluation.evaluator import COLUMNS, Evaluation, merge_shards
from resnext.settings import BadImagePolicy
from resnext.training.distributed import World

T = TypeVar("T")


def run_on_all_ranks(world: World, work: Callable[[], T]) -> T:
    """Run ``work`` in every process and return its result; if it fails in one process, raise in all.

    So no process waits forever for a failed one, which the others report as a WorkError.
    """
    failure: ResnextError | None = None
    try:
        result = work()
    except ResnextError as error:
        failure = error
    if world.all_reduce_any(failure is not None):
        raise failure or WorkError("another process could not evaluate its shard of the images")
    return result


def evaluate_distributed(
    evaluate_shard: Callable[[int, int], Evaluation],
    world: World,
    dataset: Dataset,
    on_bad_image: BadImagePolicy = "error",
) -> Evaluation:
    """Call ``evaluate_shard(rank, world_size)`` in each process; return the merged evaluation in every process.

    Shards are not padded, so each image counts once; rows equal those of one process up to rounding. Raises WorkError
    if another process failed.
    """
    share = run_on_all_ranks(world, lambda: evaluate_shard(world.rank, world.size))
    if world.size == 1:
        return share
    rows = torch.tensor(np.stack([getattr(share, name) for name in COLUMNS], axis=1), dtype=torch.float64)
    whole = world.all_gather_rows(rows).numpy()
    columns: dict[str, Any] = {name: whole[:, i].astype(kind) for i, (name, kind) in enumerate(COLUMNS.items())}
    paths = tuple(dataset.image_path(int(i)) for i in columns["index"])
    return merge_shards([replace(share, paths=paths, **columns)], on_bad_image)
