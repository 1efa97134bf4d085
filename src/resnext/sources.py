"""The data sources, one row each. No imports of data code here, so that settings and commands can use the table fast.

A new source is one file in ``data/sources/`` and one row here; a new format of boxes is one class in
``detection/data/`` and one row in BOX_FORMATS. Functions are given as ``module:name`` and imported when called.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple


class SourceFacts(NamedTuple):
    """Size of a data set, for estimates of cost."""

    train_images: int | None
    classes: int
    channels: int
    image_size: int | None  # side in pixels


DataSource = Literal[
    "digits", "fashion_mnist", "cifar10", "cifar100", "folder", "imagenet", "imagenet5k", "webdataset", "parquet"
]
"""The names in SOURCES, for type checkers."""

BoxSource = Literal["coco", "voc"]
"""The names in BOX_FORMATS, for type checkers."""

UNKNOWN_FACTS = SourceFacts(None, 1000, 3, None)


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A value of ``data.source``: what it is, its functions, and the settings it takes."""

    name: str
    sentence: str
    open: str  # (DataSettings) -> Source
    open_split: str = ""  # (DataSettings, "train" or "val") -> Dataset, if one split can be opened without the other
    check: str = ""  # (DataSettings, workers, progress) -> CheckReport, if the images are files
    val_path: bool = False  # whether held-out images can have a path of their own
    val_fraction: bool = False  # whether a share of the images can be held out
    numbered: bool = False  # whether it can store class numbers without names
    facts: SourceFacts = UNKNOWN_FACTS

    @property
    def has_image_files(self) -> bool:
        """Whether images are encoded files of any size: they can be checked, and written as shards."""
        return bool(self.check)


CHECK = "resnext.data.tools.check_source:check_source"
SOURCES = {
    spec.name: spec
    for spec in (
        SourceSpec(
            name="digits",
            sentence="8x8 handwritten digits, which come with scikit-learn",
            open="resnext.data.sources.digits:open_digits",
            facts=SourceFacts(1_438, 10, 1, 8),
        ),
        SourceSpec(
            name="fashion_mnist",
            sentence="28x28 clothes, downloaded on first use",
            open="resnext.data.sources.fashion_mnist:open_fashion_mnist",
            facts=SourceFacts(60_000, 10, 1, 28),
        ),
        SourceSpec(
            name="cifar10",
            sentence="CIFAR-10, downloaded on first use",
            open="resnext.data.sources.cifar:open_cifar10",
            facts=SourceFacts(50_000, 10, 3, 32),
        ),
        SourceSpec(
            name="cifar100",
            sentence="CIFAR-100 with its 100 fine classes, downloaded on first use",
            open="resnext.data.sources.cifar:open_cifar100",
            facts=SourceFacts(50_000, 100, 3, 32),
        ),
        SourceSpec(
            name="folder",
            sentence="your own images: one folder for each class",
            open="resnext.data.sources.image_folder:open_folder",
            open_split="resnext.data.sources.image_folder:open_folder_split",
            check="resnext.data.tools.check_folder:check_image_folder",
            val_fraction=True,
        ),
        SourceSpec(
            name="imagenet",
            sentence="ImageNet-1K: class folders or the official archives",
            open="resnext.data.sources.imagenet1k:open_imagenet",
            open_split="resnext.data.sources.imagenet1k:open_imagenet_split",
            check=CHECK,
            val_path=True,
            facts=SourceFacts(1_281_167, 1000, 3, 224),
        ),
        SourceSpec(
            name="imagenet5k",
            sentence="ImageNet-5K (section 5.2 of the paper), from ImageNet-22K",
            open="resnext.data.sources.imagenet5k:open_imagenet5k",
            open_split="resnext.data.sources.imagenet5k:open_imagenet5k_split",
            check=CHECK,
            val_path=True,
            facts=SourceFacts(6_800_000, 5000, 3, 224),
        ),
        SourceSpec(
            name="webdataset",
            sentence="tar shards, on disks or object stores",
            open="resnext.data.sources.webdataset:open_webdataset",
            open_split="resnext.data.sources.webdataset:open_webdataset_split",
            check=CHECK,
            val_path=True,
            numbered=True,
        ),
        SourceSpec(
            name="parquet",
            sentence="Parquet files, or a data set of the Hugging Face hub",
            open="resnext.data.sources.parquet:open_parquet",
            open_split="resnext.data.sources.parquet:open_parquet_split",
            check=CHECK,
            val_path=True,
            numbered=True,
        ),
    )
}


class BoxFormat(NamedTuple):
    """A value of a detection recipe's ``data.source``."""

    sentence: str
    reader: str  # a subclass of AnnotatedSplit


BOX_FORMATS = {
    "coco": BoxFormat("COCO JSON files", "resnext.detection.data.annotated_split:CocoSplit"),
    "voc": BoxFormat("folders of Pascal VOC XML files", "resnext.detection.data.annotated_split:VocSplit"),
}


def list_sources(**wanted: bool) -> tuple[str, ...]:
    """List the names of the sources whose attributes have these values, such as ``val_path=True``."""
    return tuple(name for name, spec in SOURCES.items() if all(getattr(spec, k) == v for k, v in wanted.items()))


def import_function(path: str) -> Callable[..., Any]:
    """Import the function or class ``module:name``."""
    module, _, name = path.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
