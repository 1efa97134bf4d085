"""Data: sources of labelled images, their transforms, and the loader that makes batches of them."""

from resnext.data.classes import check_same_classes
from resnext.data.dataset import ArrayDataset, BadImageError, Dataset, Source, Subset
from resnext.data.sources.registry import open_data, open_split

__all__ = [
    "ArrayDataset",
    "BadImageError",
    "Dataset",
    "Source",
    "Subset",
    "check_same_classes",
    "open_data",
    "open_split",
]
