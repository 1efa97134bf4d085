"""Choose the images to verify an export with: of the run's held-out data, of a folder, or else example scans."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from resnext.data.dataset import Dataset
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.registry import open_data
from resnext.errors import RequestError
from resnext.evaluation.images import pick_evenly, read_some_images
from resnext.run_directory import read_run_recipe
from resnext.settings import DataSettings

VERIFY_IMAGES = 64  # number of images an export is verified with


class ExampleImages(NamedTuple):
    """Images, and where they come from in words."""

    images: list[Image.Image]
    source: str


def load_example_images(
    preprocessing: Preprocessing, run: Path | None, folder: str | None, count: int = VERIFY_IMAGES
) -> ExampleImages:
    """Load up to ``count`` evenly spaced images: from ``folder``, or else of ``run``, or else scans of digits.

    Raises RequestError if the folder has none, BadImageError for an image that cannot be read.
    """
    if folder is not None:
        images = read_some_images(folder, count, preprocessing.channels, preprocessing.exif)
        return ExampleImages(list(images), folder)
    if run is not None:
        dataset = open_data(read_run_recipe(run).data).val
        return ExampleImages(_sample(dataset, count), f"{dataset.name}, held out from training")
    digits = open_data(DataSettings(source="digits")).val
    return ExampleImages(_sample(digits, count), f"example scans ({digits.name}); --images DIR takes others")


def _sample(dataset: Dataset, count: int) -> list[Image.Image]:
    if not len(dataset):
        raise RequestError(f"{dataset.name} has no images; give --images DIR")
    return [dataset.image(index) for index in pick_evenly(range(len(dataset)), count)]
