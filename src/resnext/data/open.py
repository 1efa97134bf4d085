"""Open the data of the settings: a table of the functions for each ``data.source``."""

from collections.abc import Callable
from dataclasses import replace

from resnext.data.cifar import open_cifar10, open_cifar100
from resnext.data.digits import open_digits
from resnext.data.fashion_mnist import open_fashion_mnist
from resnext.data.folder import open_folder, open_folder_split
from resnext.data.ilsvrc import open_imagenet, open_imagenet_split
from resnext.data.imagenet5k import open_imagenet5k, open_imagenet5k_split
from resnext.data.parquet import open_parquet, open_parquet_split
from resnext.data.source import Dataset, Source, limited
from resnext.data.webdataset import open_webdataset, open_webdataset_split
from resnext.errors import RequestError, nearest
from resnext.settings import DataSettings

SOURCES: dict[str, Callable[[DataSettings], Source]] = {
    "digits": open_digits,
    "fashion_mnist": open_fashion_mnist,
    "cifar10": open_cifar10,
    "cifar100": open_cifar100,
    "folder": open_folder,
    "imagenet": open_imagenet,
    "imagenet5k": open_imagenet5k,
    "webdataset": open_webdataset,
    "parquet": open_parquet,
}
SPLITS: dict[
    str, Callable[[DataSettings, str], Dataset]
] = {  # sources whose splits can be opened one without the other
    "folder": open_folder_split,
    "imagenet": open_imagenet_split,
    "imagenet5k": open_imagenet5k_split,
    "webdataset": open_webdataset_split,
    "parquet": open_parquet_split,
}


def open_data(settings: DataSettings) -> Source:
    """Open both splits of the data settings, limited to ``max_train_images`` and ``max_val_images``.

    Raises RequestError for settings or data that cannot be used, WorkError if a download or an archive fails.
    """
    source = _opener(settings)(settings)
    _check_channels(settings, source.train)
    _check_classes(source.train)
    train = limited(source.train, settings.limit_train, settings.split_seed)
    val = limited(source.val, settings.limit_val, settings.split_seed)
    parts = (("training", source.train, train), ("held-out", source.val, val))
    drawn = [f"{len(few):,} of {len(all_):,} {what} images" for what, all_, few in parts if few is not all_]
    split = f"{source.split}; only {' and '.join(drawn)} are used" if drawn else source.split
    return replace(source, train=train, val=val, split=split)


def open_split(settings: DataSettings, split: str) -> Dataset:
    """Open ``train`` or ``val`` alone. For sources in SPLIT_OPENERS the other split need not exist."""
    if split not in ("train", "val"):
        raise RequestError(f"no split {split!r}{nearest(split, ('train', 'val'))}")
    if settings.source not in SPLITS:
        source = open_data(settings)
        return source.train if split == "train" else source.val
    limit = settings.limit_train if split == "train" else settings.limit_val
    return limited(SPLITS[settings.source](settings, split), limit, settings.split_seed)


def _opener(settings: DataSettings) -> Callable[[DataSettings], Source]:
    if settings.source not in SOURCES:
        raise RequestError(f"no data.source {settings.source!r}{nearest(settings.source, SOURCES)}")
    return SOURCES[settings.source]


def _check_classes(train: Dataset) -> None:
    """Raise RequestError if all training images are of one class."""
    if len(train.labels) and (train.labels == train.labels[0]).all():
        raise RequestError(
            f"all {len(train.labels)} images of {train.name} are of one class, {train.classes[train.labels[0]]!r}; "
            "a classifier needs at least two"
        )


def _check_channels(settings: DataSettings, dataset: Dataset) -> None:
    if settings.channels not in (None, dataset.channels):
        raise RequestError(
            f"data.channels {settings.channels} does not fit {settings.source}, whose images have {dataset.channels}"
        )
