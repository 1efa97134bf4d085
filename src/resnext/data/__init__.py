"""Data: sources of labelled images, their transforms, and the loader that makes batches of them."""

from resnext.data.classes import compare_classes
from resnext.data.open import open_data, open_split
from resnext.data.source import ArrayDataset, BadImage, Dataset, Source, Subset

__all__ = ["ArrayDataset", "BadImage", "Dataset", "Source", "Subset", "compare_classes", "open_data", "open_split"]
