"""Run networks on every image of a split exactly once; every reported number is a sum over these rows."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnext.choices import CombineMethod
from resnext.data.classes import check_same_classes
from resnext.data.dataset import BadImageError, Dataset
from resnext.data.loader import Batch, iterate_eval_batches
from resnext.data.preprocessing import Preprocessing
from resnext.device import autocast
from resnext.errors import RequestError, WorkError
from resnext.evaluation.classifier import Classifier
from resnext.evaluation.ensemble import Ensemble, EnsembleMember, eval_mode
from resnext.evaluation.metrics import compute_interval95, to_percent
from resnext.evaluation.views import CENTER, Views
from resnext.settings import BadImagePolicy

BATCH_SIZE = 256  # default
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
    """The results of an evaluation: one row per image, in the order of the data set, and sums over the rows.

    ``rank`` is the position of the true class when the classes are sorted by logit, 0 for the highest. Equal logits are
    ordered by class number, so predictions and ranks are consistent. Errors and the interval are in percent,
    probabilities from 0 to 1, losses in nats.
    """

    name: str
    dataset_size: int  # images of the whole data set; this evaluation holds n of them
    classes: tuple[str, ...]
    paths: tuple[str, ...]
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
    def left_out(self) -> int:
        """Unreadable images of the data set that were left out; 0 but for ``on_bad_image`` skip."""
        return self.dataset_size - self.n

    @property
    def correct1(self) -> int:
        """Images whose true class is the prediction."""
        return int(np.count_nonzero(self.rank == 0))

    @property
    def correct5(self) -> int | None:
        """Images whose true class is among the first five; None with fewer than five classes."""
        return None if len(self.classes) < 5 else int(np.count_nonzero(self.rank < 5))

    @property
    def loss_sum(self) -> float:
        """Cross entropy, summed exactly, so that the order of images and shards does not matter."""
        return math.fsum(self.losses)

    @property
    def loss(self) -> float:
        """Mean cross entropy, nats per image."""
        return self.loss_sum / self.n if self.n else math.nan

    @property
    def top1_error(self) -> float:
        """Top-1 error, percent."""
        return to_percent(self.n - self.correct1, self.n)

    @property
    def top5_error(self) -> float | None:
        """Top-5 error, percent; None with fewer than five classes."""
        return None if self.correct5 is None else to_percent(self.n - self.correct5, self.n)

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the top-1 error."""
        return compute_interval95(self.n - self.correct1, self.n)

    @cached_property
    def confusion(self) -> np.ndarray:
        """int64 [K, K]: number of images of class i (row) predicted as class j (column)."""
        k = len(self.classes)
        return np.bincount(self.label * k + self.predicted, minlength=k * k).reshape(k, k)

    def find_worst(self, count: int) -> np.ndarray:
        """Find the rows with the highest loss, highest first; equal losses in the order of the data set."""
        return np.argsort(-self.losses, kind="stable")[:count]


def evaluate(
    model: Classifier,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str,
    batch_size: int = BATCH_SIZE,
    precision: str = "fp32",
    workers: int = 0,
    start_method: str | None = None,
    channels_last: bool = False,
    on_bad_image: BadImagePolicy = "error",
    progress: Callable[[int, int], None] | None = None,
    rank: int = 0,
    world_size: int = 1,
    views: Views = CENTER,
    other_members: Sequence[EnsembleMember] = (),
    ensemble_combine: CombineMethod = "probabilities",
    output_indices: np.ndarray | None = None,
) -> Evaluation:
    """Evaluate one model or an ensemble: average logits over views, then over models.

    All networks are on ``device``, and have the classes of ``dataset`` as their outputs, or as their ``output_indices``
    (int64). ``batch_size`` counts crops for views of several crops. ``progress`` is called as ``progress(done, total)``
    after each batch. With several processes, each evaluates a contiguous part of the images; join these by
    ``merge_shards``. Raises RequestError if the classes of model and data differ, WorkError if an image cannot be read
    (unless ``on_bad_image`` is skip, and another can) or logits are not finite.
    """
    if batch_size < 1:
        raise RequestError(f"the batch size must be at least 1, not {batch_size}")
    members = [EnsembleMember(model, preprocessing), *other_members]
    models = [member.model for member in members]
    for network in models:
        check_compatible(network, dataset, output_indices)
    if channels_last:  # convert both weights and images; with one alone the last bits differ
        for network in (network for network in models if isinstance(network, nn.Module)):
            network.to(memory_format=torch.channels_last)
    ensemble = Ensemble(members, views, ensemble_combine, output_indices, channels_last)
    transforms = ensemble.build_transforms()
    passes = [  # each batch once per transform, side by side
        iterate_eval_batches(
            dataset,
            transform,
            batch_size=ensemble.compute_batch_size(batch_size),
            workers=-(-workers // len(transforms)),
            start_method=start_method,
            on_bad_image=on_bad_image,
            rank=rank,
            world_size=world_size,
        )
        for transform in transforms
    ]
    device = torch.device(device)
    parts: list[dict[str, np.ndarray]] = []
    paths: list[str] = []
    with eval_mode(*models), torch.inference_mode(), autocast(device, precision):
        for batches in _explain_bad_images(zip(*passes, strict=True)):
            first = batches[0]
            if not len(first.labels):
                continue  # none of its images could be read
            logits = ensemble.compute_logits([batch.images for batch in batches], device)
            indices = first.indices.cpu().numpy()
            of_batch = [dataset.image_path(index) for index in indices.tolist()]
            parts.append({"index": indices, **compute_image_results(logits, first.labels, of_batch)})
            paths += of_batch
            if progress is not None:
                progress(len(paths), len(dataset))
    columns: dict[str, Any] = {
        name: np.concatenate([np.empty(0, kind), *(part[name] for part in parts)]).astype(kind)
        for name, kind in COLUMNS.items()
    }
    classes = tuple(dataset.classes)
    result = Evaluation(name=dataset.name, dataset_size=len(dataset), classes=classes, paths=tuple(paths), **columns)
    return merge_shards([result], on_bad_image) if world_size == 1 else result


def _explain_bad_images(batches: Iterable[tuple[Batch, ...]]) -> Iterator[tuple[Batch, ...]]:
    """Iterate over batches; of an image that cannot be read, say what can be done."""
    try:
        yield from batches
    except BadImageError as error:
        raise WorkError(
            f"{error}; an evaluation must not skip any: mend or remove it (resnext data check names all such images)"
        ) from None


def compute_image_results(logits: Tensor, labels: Tensor, paths: Sequence[str]) -> dict[str, np.ndarray]:
    """Compute COLUMNS, except ``index``, from logits [B, K] and labels int64 [B], in float64 on the CPU.

    Raises WorkError for the first row with a value that is not finite, naming its image by ``paths``.
    """
    scores = logits.detach().cpu().to(torch.float64)
    labels = labels.cpu()
    bad = (~torch.isfinite(scores).all(dim=1)).nonzero()
    if len(bad):
        raise WorkError(f"the network's output for {paths[int(bad[0])]} is not finite")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise RequestError(f"the data has labels up to {int(labels.max())}, the network {scores.shape[1]} outputs")
    log_p = torch.log_softmax(scores, dim=1)
    of_label = labels[:, None]
    own = scores.gather(1, of_label)
    earlier = torch.arange(scores.shape[1])[None, :] < of_label
    predicted = torch.from_numpy(scores.numpy().argmax(axis=1))  # numpy guarantees the first of equal values
    log_p_of_label = log_p.gather(1, of_label)[:, 0]
    return {
        "label": labels.numpy(),
        "predicted": predicted.numpy(),
        "rank": ((scores > own) | ((scores == own) & earlier)).sum(dim=1).numpy(),
        "probability": log_p.gather(1, predicted[:, None])[:, 0].exp().numpy(),
        "probability_of_label": log_p_of_label.exp().numpy(),
        "losses": -log_p_of_label.numpy() + 0.0,  # + 0.0 turns -0.0 into 0.0
    }


def merge_shards(evaluations: Sequence[Evaluation], on_bad_image: BadImagePolicy = "error") -> Evaluation:
    """Merge evaluations of shards of one data set, in any order.

    Raises WorkError if an image is counted twice or missing; with ``on_bad_image`` skip, only if all are missing.
    """
    if not evaluations:
        raise RequestError("there is no evaluation to merge")
    first = evaluations[0]
    for other in evaluations[1:]:
        check_same_classes(first.classes, other.classes, "another shard of the evaluation")
    order = np.argsort(np.concatenate([e.index for e in evaluations]), kind="stable")
    where = [path for e in evaluations for path in e.paths]
    columns: dict[str, Any] = {name: np.concatenate([getattr(e, name) for e in evaluations])[order] for name in COLUMNS}
    whole = replace(first, paths=tuple(where[i] for i in order), **columns)
    if on_bad_image == "skip" and not whole.n:
        raise WorkError(f"none of the {first.dataset_size} images of {first.name} can be read")
    expected = np.arange(first.dataset_size)
    if not np.array_equal(whole.index, np.intersect1d(expected, whole.index) if on_bad_image == "skip" else expected):
        raise WorkError(f"the shards of {first.name} do not hold each of its {first.dataset_size} images exactly once")
    return whole


def check_compatible(model: Classifier, dataset: Dataset, output_indices: np.ndarray | None = None) -> None:
    """Check that the data has images, and the classes of the network (of its ``output_indices``, if given)."""
    if len(dataset) == 0:
        raise RequestError(f"{dataset.name} has no images to evaluate")
    if model.architecture.num_classes == 0:
        raise RequestError("the network has no classifier (num_classes 0), so it has no error to measure")
    names, count = model.classes, model.architecture.num_classes
    if output_indices is not None:
        names, count = names and tuple(names[i] for i in output_indices), len(output_indices)
    if names is not None:
        check_same_classes(names, dataset.classes, dataset.name)
    if count != len(dataset.classes):
        raise RequestError(f"the network has {count} outputs, {dataset.name} has {len(dataset.classes)} classes")
