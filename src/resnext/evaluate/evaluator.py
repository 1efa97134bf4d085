"""The network on every image of a split, once each; all that is reported later is sums over these rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnext.data.classes import compare_classes
from resnext.data.loader import Batch, eval_batches
from resnext.data.preprocessing import Preprocessing
from resnext.data.source import Dataset
from resnext.device import autocast
from resnext.errors import RequestError, WorkError
from resnext.evaluate.metrics import interval95, percent
from resnext.evaluate.panel import Member, Panel, in_eval_mode
from resnext.evaluate.views import CENTER, Looks

BATCH_SIZE = 256  # images at a time, where nobody says
COLUMNS: dict[str, type] = {
    "index": np.int64,
    "label": np.int64,
    "predicted": np.int64,
    "rank": np.int64,
    "probability": np.float64,
    "probability_of_label": np.float64,
    "losses": np.float64,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """One row per image, in the order of the data set, and the sums over them.

    ``rank`` is the place of the true class in the network's order of classes, 0 for the first. Equal logits are
    ordered by class number, as a stable sort would, so the prediction and the ranks never contradict each other.
    Errors and the interval are in percent, probabilities from 0 to 1, losses in nats.
    """

    name: str
    total: int  # images of the whole data set; n of them are here
    classes: tuple[str, ...]
    where: tuple[str, ...]
    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    rank: np.ndarray
    probability: np.ndarray
    probability_of_label: np.ndarray
    losses: np.ndarray

    @property
    def n(self) -> int:
        """Images evaluated."""
        return len(self.index)

    @property
    def correct1(self) -> int:
        """Images whose true class the network puts first."""
        return int(np.count_nonzero(self.rank == 0))

    @property
    def correct5(self) -> int | None:
        """Images whose true class is among the first five; None with fewer than five classes, where it says nothing."""
        return None if len(self.classes) < 5 else int(np.count_nonzero(self.rank < 5))

    @property
    def loss_sum(self) -> float:
        """Cross entropy summed without rounding on the way, so the order of images and shards is nothing to it."""
        return math.fsum(self.losses)

    @property
    def loss(self) -> float:
        return self.loss_sum / self.n if self.n else math.nan

    @property
    def top1_error(self) -> float:
        return percent(self.n - self.correct1, self.n)

    @property
    def top5_error(self) -> float | None:
        return None if self.correct5 is None else percent(self.n - self.correct5, self.n)

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the top-1 error."""
        return interval95(self.n - self.correct1, self.n)

    @cached_property
    def confusion(self) -> np.ndarray:
        """int64 [K, K]: images of class i (row) that were taken for class j (column)."""
        k = len(self.classes)
        return np.bincount(self.label * k + self.predicted, minlength=k * k).reshape(k, k)

    def worst(self, count: int) -> np.ndarray:
        """Rows with the highest loss, highest first; equal losses in the order of the data set."""
        return np.argsort(-self.losses, kind="stable")[:count]


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str,
    batch_size: int = BATCH_SIZE,
    precision: str = "fp32",
    workers: int = 0,
    start_method: str | None = None,
    channels_last: bool = False,
    progress: Callable[[int, int], None] | None = None,
    rank: int = 0,
    world_size: int = 1,
    looks: Looks = CENTER,
    others: Sequence[Member] = (),
    ensemble: str = "probabilities",
    outputs: np.ndarray | None = None,
) -> Evaluation:
    """``model``, which must be on ``device``, on the images of ``dataset`` that fall to ``rank``.

    ``looks`` says what of each picture is seen, ``others`` are networks whose answers are averaged with this one's as
    ``ensemble`` says, and ``outputs`` (int64) restricts them all to some of their outputs, the data's classes in order.
    ``progress(done, total)`` is called after each batch. With several ranks, ``merge`` joins what they return.
    Raises RequestError where the classes of model and data differ, WorkError for an unreadable image and for logits
    that are not finite, naming the image.
    """
    if batch_size < 1:
        raise RequestError(f"the batch size must be at least 1, not {batch_size}")
    members = [Member(model, preprocessing), *others]
    models = [member.model for member in members]
    for network in models:
        check_fit(network, dataset, outputs)
    if channels_last:  # weights and images: with one of them alone last bits differ
        for network in models:
            network.to(memory_format=torch.channels_last)
    panel = Panel(members, looks, ensemble, outputs, channels_last)
    device, done = torch.device(device), 0
    parts: list[dict[str, np.ndarray]] = []
    passes = _passes(panel, dataset, batch_size, workers, start_method, rank, world_size)
    with in_eval_mode(*models), torch.inference_mode(), autocast(device, precision):
        for batches in passes:
            first = batches[0]
            if first.bad:
                raise WorkError(f"an evaluation leaves no image out: {first.bad[0]}")
            answers = panel.answers([batch.images for batch in batches], device)
            indices = first.indices.cpu().numpy()
            parts.append({"index": indices, **judge(answers, first.labels, partial(_where, dataset, indices))})
            done += len(indices)
            if progress is not None:
                progress(done, len(dataset))
    result = _evaluation(dataset, parts)
    return merge([result]) if world_size == 1 else result


def _passes(
    panel: Panel,
    dataset: Dataset,
    batch_size: int,
    workers: int,
    start_method: str | None,
    rank: int,
    world_size: int,
) -> Iterator[tuple[Batch, ...]]:
    """The same images side by side, once for each way that they are brought to size; workers are shared out."""
    transforms = panel.transforms()
    passes = [
        eval_batches(
            dataset,
            transform,
            batch_size=panel.batch_size(batch_size),
            workers=-(-workers // len(transforms)),
            start_method=start_method,
            rank=rank,
            world_size=world_size,
        )
        for transform in transforms
    ]
    return zip(*passes, strict=True)


def judge(logits: Tensor, labels: Tensor, where: Callable[[int], str]) -> dict[str, np.ndarray]:
    """What is kept of each image: COLUMNS but for ``index``, from logits [B, K] and labels int64 [B].

    Computed in float64 on the CPU. Raises WorkError naming ``where(i)`` for the first row that is not finite.
    """
    scores = logits.detach().cpu().to(torch.float64)
    labels = labels.cpu()
    bad = (~torch.isfinite(scores).all(dim=1)).nonzero()
    if len(bad):
        raise WorkError(f"the network's output for {where(int(bad[0]))} is not finite")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise RequestError(f"the data has labels up to {int(labels.max())}, the network {scores.shape[1]} outputs")
    log_p = torch.log_softmax(scores, dim=1)
    of_label = labels[:, None]
    own = scores.gather(1, of_label)
    earlier = torch.arange(scores.shape[1])[None, :] < of_label
    predicted = torch.from_numpy(scores.numpy().argmax(axis=1))  # numpy promises the first of equals
    log_p_of_label = log_p.gather(1, of_label)[:, 0]
    return {
        "label": labels.numpy(),
        "predicted": predicted.numpy(),
        "rank": ((scores > own) | ((scores == own) & earlier)).sum(dim=1).numpy(),
        "probability": log_p.gather(1, predicted[:, None])[:, 0].exp().numpy(),
        "probability_of_label": log_p_of_label.exp().numpy(),
        "losses": -log_p_of_label.numpy() + 0.0,  # + 0.0 turns -0.0 into 0.0
    }


def merge(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Shards of one data set as the one evaluation they make; their order does not matter.

    Raises WorkError where an image was counted twice or was left out between the shards.
    """
    if not evaluations:
        raise RequestError("there is no evaluation to merge")
    first = evaluations[0]
    for other in evaluations[1:]:
        compare_classes(first.classes, other.classes, "another shard of the evaluation")
    order = np.argsort(np.concatenate([e.index for e in evaluations]), kind="stable")
    where = [path for e in evaluations for path in e.where]
    columns: dict[str, Any] = {name: np.concatenate([getattr(e, name) for e in evaluations])[order] for name in COLUMNS}
    whole = replace(first, where=tuple(where[i] for i in order), **columns)
    if not np.array_equal(whole.index, np.arange(first.total)):
        raise WorkError(f"the shards of {first.name} do not hold each of its {first.total} images exactly once")
    return whole


def check_fit(model: nn.Module, dataset: Dataset, outputs: np.ndarray | None = None) -> None:
    """Raises RequestError where the data has no images, or other classes than the network's (of its ``outputs``)."""
    if len(dataset) == 0:
        raise RequestError(f"{dataset.name} has no images to evaluate")
    architecture = getattr(model, "architecture", None)
    if architecture is not None and architecture.num_classes == 0:
        raise RequestError("the network has no classifier (num_classes 0), so it has no error to measure")
    known = getattr(model, "classes", None)
    if known is not None:
        compare_classes(known if outputs is None else [known[i] for i in outputs], dataset.classes, dataset.name)
    count = len(outputs) if outputs is not None else None if architecture is None else architecture.num_classes
    if count is not None and count != len(dataset.classes):
        raise RequestError(f"the network has {count} outputs, {dataset.name} has {len(dataset.classes)} classes")


def _where(dataset: Dataset, indices: np.ndarray, row: int) -> str:
    return dataset.where(int(indices[row]))


def _evaluation(dataset: Dataset, parts: list[dict[str, np.ndarray]]) -> Evaluation:
    rows: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        rows[name] = np.concatenate([np.empty(0, kind), *(part[name] for part in parts)]).astype(kind)
    where = tuple(dataset.where(int(i)) for i in rows["index"])
    classes = tuple(dataset.classes)
    return Evaluation(name=dataset.name, total=len(dataset), classes=classes, where=where, **rows)
