"""Open the data of the settings: a table of the functions for each ``data.source``."""

from collections.abc import Callable
from dataclasses import replace

from resnext.data.dataset import Dataset, Source, random_subset
from resnext.data.sources.cifar import open_cifar10, open_cifar100
from resnext.data.sources.digits import open_digits
from resnext.data.sources.fashion_mnist import open_fashion_mnist
from resnext.data.sources.image_folder import open_folder, open_folder_split
from resnext.data.sources.imagenet1k import open_imagenet, open_imagenet_split
from resnext.data.sources.imagenet5k import open_imagenet5k, open_imagenet5k_split
from resnext.data.sources.parquet import open_parquet, open_parquet_split
from resnext.data.sources.webdataset import open_webdataset, open_webdataset_split
from resnext.errors import RequestError, did_you_mean
from resnext.settings import DataSettings

SOURCE_OPENERS: dict[str, Callable[[DataSettings], Source]] = {
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
SPLIT_OPENERS: dict[
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
    source = _find_opener(settings)(settings)
    _check_channels(settings, source.train)
    _check_has_two_classes(source.train)
    train = random_subset(source.train, settings.max_train_images, settings.split_seed)
    val = random_subset(source.val, settings.max_val_images, settings.split_seed)
    parts = (("training", source.train, train), ("held-out", source.val, val))
    drawn = [f"{len(few):,} of {len(all_):,} {what} images" for what, all_, few in parts if few is not all_]
    split = f"{source.split_rule}; only {' and '.join(drawn)} are used" if drawn else source.split_rule
    return replace(source, train=train, val=val, split_rule=split)


def open_split(settings: DataSettings, split: str) -> Dataset:
    """Open ``train`` or ``val`` alone. For sources in SPLIT_OPENERS the other split need not exist."""
    if split not in ("train", "val"):
        raise RequestError(f"no split {split!r}{did_you_mean(split, ('train', 'val'))}")
    if settings.source not in SPLIT_OPENERS:
        source = open_data(settings)
        return source.train if split == "train" else source.val
    limit = settings.max_train_images if split == "train" else settings.max_val_images
    return random_subset(SPLIT_OPENERS[settings.source](settings, split), limit, settings.split_seed)


def _find_opener(settings: DataSettings) -> Callable[[DataSettings], Source]:
    if settings.source not in SOURCE_OPENERS:
        raise RequestError(f"no data.source {settings.source!r}{did_you_mean(settings.source, SOURCE_OPENERS)}")
    return SOURCE_OPENERS[settings.source]


def _check_has_two_classes(train: Dataset) -> None:
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
