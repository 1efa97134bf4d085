"""Training images for pruning: prepared as for evaluation, in a random order that depends on the seed alone."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor

from resnext.data.dataset import Dataset
from resnext.data.loader import TrainLoader, default_workers
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.evaluation.views import CENTER


def iterate_images(
    dataset: Dataset, preprocessing: Preprocessing, count: int, *, batch_size: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over about ``count`` images in whole batches: normalised images [B, C, S, S], labels int64 [B].

    No image comes twice; a smaller data set gives fewer. Raises RequestError for less than two images, and
    BadImageError for an image that cannot be read.
    """
    batch_size = min(batch_size, count, len(dataset))
    if batch_size < 2:
        raise RequestError(f"at least two images are needed, not {min(count, len(dataset))} of {dataset.name}")
    (transform,) = CENTER.build_transforms(preprocessing)
    loader = TrainLoader(
        dataset, transform, seed=seed, batch_size=batch_size, drop_last=True, workers=default_workers(dataset)
    )
    with closing(loader.batches(0)) as batches:  # type: ignore[type-var]  # a generator; closing stops its workers
        for batch in islice(batches, count // batch_size):
            yield normalize(batch.images, preprocessing, device), batch.labels.to(device)
