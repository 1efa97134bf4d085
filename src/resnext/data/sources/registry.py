"""Open the data that the settings describe. The sources themselves are rows of ``resnext.sources``."""

from dataclasses import replace

from resnext.data.dataset import Dataset, Source, random_subset
from resnext.data.folds import hold_out_fold
from resnext.errors import RequestError, did_you_mean
from resnext.settings import DataSettings
from resnext.sources import SOURCES, SourceSpec, import_function


def get_source_spec(name: str) -> SourceSpec:
    """Return the table's row for a ``data.source``. Raises RequestError if there is none."""
    if name not in SOURCES:
        raise RequestError(f"no data.source {name!r}{did_you_mean(name, SOURCES)}")
    return SOURCES[name]


def open_data(settings: DataSettings) -> Source:
    """Open both splits of the data settings, limited to ``max_train_images`` and ``max_val_images``.

    With ``fold``, both are parts of the (limited) training images.

    Raises RequestError for settings or data that cannot be used, WorkError if a download or an archive fails.
    """
    source = _open_source(settings)
    train = random_subset(source.train, settings.max_train_images, settings.split_seed)
    if settings.fold is not None:
        train, val, split = hold_out_fold(train, settings)
        return replace(source, train=train, val=val, split_rule=split)
    val = random_subset(source.val, settings.max_val_images, settings.split_seed)
    parts = (("training", source.train, train), ("held-out", source.val, val))
    drawn = [f"{len(few):,} of {len(all_):,} {what} images" for what, all_, few in parts if few is not all_]
    split = f"{source.split_rule}; only {' and '.join(drawn)} are used" if drawn else source.split_rule
    return replace(source, train=train, val=val, split_rule=split)


def open_fold_images(settings: DataSettings) -> Dataset:
    """Open the images that are divided into folds: the training images, limited to ``max_train_images``.

    ``settings`` have a ``fold``. Raises as ``open_data``.
    """
    return random_subset(_open_source(settings).train, settings.max_train_images, settings.split_seed)


def _open_source(settings: DataSettings) -> Source:
    """Open both splits whole, and check them."""
    source: Source = import_function(get_source_spec(settings.source).open)(settings)
    if settings.channels not in (None, source.train.channels):
        raise RequestError(
            f"data.channels {settings.channels} does not fit {settings.source}, whose images have "
            f"{source.train.channels}"
        )
    _check_has_two_classes(source.train)
    return source


def open_split(settings: DataSettings, split: str) -> Dataset:
    """Open ``train`` or ``val`` alone. For sources with ``open_split`` the other split need not exist."""
    if split not in ("train", "val"):
        raise RequestError(f"no split {split!r}{did_you_mean(split, ('train', 'val'))}")
    spec = get_source_spec(settings.source)
    if not spec.open_split or settings.fold is not None:
        source = open_data(settings)
        return source.train if split == "train" else source.val
    limit = settings.max_train_images if split == "train" else settings.max_val_images
    dataset: Dataset = import_function(spec.open_split)(settings, split)
    return random_subset(dataset, limit, settings.split_seed)


def _check_has_two_classes(train: Dataset) -> None:
    """Raise RequestError if all training images are of one class."""
    if len(train.labels) and (train.labels == train.labels[0]).all():
        raise RequestError(
            f"all {len(train.labels)} images of {train.name} are of one class, {train.classes[train.labels[0]]!r}; "
            "a classifier needs at least two"
        )
