"""What the network of each fold says of the images that it has not seen; together, of every image once."""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from resnext.cross_validation.directory import CrossvalDirectory, FoldRun
from resnext.data.dataset import BadImageError, Dataset, Subset
from resnext.data.loader import default_workers, iterate_eval_batches
from resnext.data.near_duplicates import SIDE
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.device import autocast, pick_device
from resnext.errors import WorkError
from resnext.evaluation.ensemble import eval_mode
from resnext.evaluation.evaluator import COLUMNS, Evaluation, compute_image_results, merge_shards
from resnext.evaluation.outputs import get_preprocessing
from resnext.files import atomic_write
from resnext.settings import Recipe
from resnext.weights import load

BATCH_SIZE = 64
MAX_FILE_BYTES = 16 << 30


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The outputs for all images, in the order of the data set."""

    evaluation: Evaluation
    probabilities: np.ndarray  # float64 [N, K]
    fold: np.ndarray  # int64 [N], from 1
    pictures: np.ndarray  # uint8 [N, S, S, C]: small pictures, to find near-duplicates
    preprocessing: Preprocessing


@dataclass(frozen=True, eq=False)
class _Shard:
    """The outputs for the held-out images of one fold, in their order."""

    logits: np.ndarray  # float32 [n, K]
    pictures: np.ndarray  # uint8 [n, S, S, C]


def compute_held_out(
    directory: CrossvalDirectory,
    recipe: Recipe,
    runs: Sequence[FoldRun],
    whole: Dataset,
    folds: np.ndarray,
    progress: Callable[[int], None] = lambda _: None,
) -> HeldOut:
    """Compute the outputs of each fold's last checkpoint on its held-out images, or read those computed before.

    Args:
        directory: Where the finished runs are, and the outputs are kept.
        recipe: The recipe of all folds.
        runs: The runs of all folds.
        whole: All images.
        folds: The fold of each image, from 0, int64 [N].
        progress: Called with the number of images done.

    Raises:
        WorkError: An image cannot be read, an output is not finite, or a file cannot be written.
    """
    logits: np.ndarray | None = None
    pictures: np.ndarray | None = None
    done = 0
    for run in runs:
        indices = np.flatnonzero(folds == run.number - 1)
        shard = _read_shard(directory, run, indices)
        if shard is None:
            shard = _compute_shard(directory, recipe, run, Subset(whole, indices), lambda n: progress(done + n))  # noqa: B023 - called before done changes
            _write_shard(directory, run, indices, shard)
        if logits is None or pictures is None:
            logits = np.zeros((len(whole), shard.logits.shape[1]), np.float32)
            pictures = np.zeros((len(whole), *shard.pictures.shape[1:]), np.uint8)
        logits[indices], pictures[indices] = shard.logits, shard.pictures
        done += len(indices)
        progress(done)
    assert logits is not None
    assert pictures is not None
    preprocessing = get_preprocessing(load(directory.fold(runs[0]), "last"))
    evaluations = [_evaluate(whole, logits, np.flatnonzero(folds == run.number - 1)) for run in runs]
    probabilities = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    return HeldOut(merge_shards(evaluations), probabilities, folds + 1, pictures, preprocessing)


def _evaluate(whole: Dataset, logits: np.ndarray, indices: np.ndarray) -> Evaluation:
    """Compute the results of the images at ``indices``."""
    paths = tuple(whole.image_path(index) for index in indices.tolist())
    labels = torch.from_numpy(np.asarray(whole.labels)[indices])
    results = compute_image_results(torch.from_numpy(logits[indices]), labels, paths)
    columns: dict[str, Any] = {
        name: np.asarray({"index": indices, **results}[name]).astype(kind) for name, kind in COLUMNS.items()
    }
    classes = tuple(whole.classes)
    return Evaluation(name=whole.name, dataset_size=len(whole), classes=classes, paths=paths, **columns)


def _compute_shard(
    directory: CrossvalDirectory, recipe: Recipe, run: FoldRun, images: Dataset, progress: Callable[[int], None]
) -> _Shard:
    device = pick_device(recipe.train.device)
    model = load(directory.fold(run), "last").to(device)
    preprocessing = get_preprocessing(model)
    workers = default_workers(images) if recipe.data.workers is None else recipe.data.workers
    batches = iterate_eval_batches(
        images,
        build_eval_transform(preprocessing),
        batch_size=BATCH_SIZE,
        workers=workers,
        start_method=recipe.data.start_method,
    )
    logits: list[np.ndarray] = []
    pictures: list[np.ndarray] = []
    done = 0
    try:
        with eval_mode(model), torch.inference_mode(), autocast(device, recipe.train.precision):
            for batch in batches:
                logits.append(model(normalize(batch.images, preprocessing, device)).float().cpu().numpy())
                pictures.append(_shrink(batch.images))
                done += len(batch.images)
                progress(done)
    except BadImageError as error:
        raise WorkError(
            f"{error}; every image is held out once, so none can be skipped: mend or remove it (resnext data check "
            "names all such images), and begin again with another --out"
        ) from None
    return _Shard(np.concatenate(logits), np.concatenate(pictures))


def _shrink(images: Tensor) -> np.ndarray:
    """Shrink images, uint8 [B, C, S, S], to uint8 [B, SIDE, SIDE, C], or keep them if they are smaller."""
    small = functional.adaptive_avg_pool2d(images.float(), min(SIDE, images.shape[-1]))
    shrunk: np.ndarray = small.round().byte().permute(0, 2, 3, 1).numpy()
    return shrunk


def _write_shard(directory: CrossvalDirectory, run: FoldRun, indices: np.ndarray, shard: _Shard) -> None:
    with atomic_write(directory.fold_outputs(run)) as file:
        np.savez(file, indices=indices, logits=shard.logits, pictures=shard.pictures)


def _read_shard(directory: CrossvalDirectory, run: FoldRun, indices: np.ndarray) -> _Shard | None:
    """Read the outputs that were computed before; None if there are none, or of other images."""
    path = directory.fold_outputs(run)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found, logits, pictures = file["indices"], file["logits"], file["pictures"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = logits.ndim == 2 and pictures.ndim == 4 and len(logits) == len(pictures) == len(indices)
    return _Shard(logits, pictures) if fits and np.array_equal(found, indices) else None
