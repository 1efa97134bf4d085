"""Where images come from, and what happens to them on the way to a network."""

from resnext.data.classes import compare_classes
from resnext.data.open import open_data, open_split
from resnext.data.source import ArrayDataset, BadImage, Dataset, Source, Subset

__all__ = ["ArrayDataset", "BadImage", "Dataset", "Source", "Subset", "compare_classes", "open_data", "open_split"]
