"""Quantise a network to int8 with NNCF, and load the images it is calibrated on.

Weights are quantised per channel and activations by their statistics over the calibration images; biases are corrected.
Calibrate on training images: with test images, the measured error would be too low.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from resnext.deploy.openvino_engine import hushed
from resnext.deploy.signal_stack import signal_stack_kept
from resnext.errors import RequestError

if TYPE_CHECKING:
    from resnext.data.preprocessing import Preprocessing
    from resnext.data.source import Dataset
    from resnext.model.network import Network

IMAGES = 300  # number of calibration images, NNCF's default


def check_calibration(images: Tensor | None) -> Tensor:
    """Return the images; raise RequestError if there are none."""
    if images is None or not len(images):
        raise RequestError("int8 needs calibration images from the training data; without them, use bf16 or fp32")
    return images


def quantize(model: Any, calibration: Tensor | None) -> Any:
    """Quantise an openvino.Model to int8. Raises RequestError if calibration images or NNCF are missing."""
    images = check_calibration(calibration)
    try:
        with hushed():
            import nncf
    except ImportError:
        raise RequestError("int8 needs nncf: pip install 'resnext[openvino]'") from None
    nncf.set_log_level(logging.ERROR)
    batches = [image[None].numpy() for image in images.contiguous()]
    with nncf_quiet(), signal_stack_kept():
        return nncf.quantize(
            model, nncf.Dataset(batches), subset_size=len(batches), preset=nncf.QuantizationPreset.MIXED
        )


def nncf_quiet() -> Any:
    """Discard what NNCF prints on stdout (progress bars), where the commands print their results."""
    import contextlib
    import io

    return contextlib.redirect_stdout(io.StringIO())


def calibration_images(dataset: "Dataset", preprocessing: "Preprocessing", count: int = IMAGES) -> Tensor:
    """Sample ``count`` evenly spaced images of ``dataset``; return them preprocessed, float32 [N, C, S, S]."""
    from resnext.data.augment import eval_transform
    from resnext.data.preprocessing import normalize

    if not len(dataset):
        raise RequestError(f"{dataset.name} has no images to calibrate on")
    view, step = eval_transform(preprocessing), max(1, len(dataset) // count)
    indices = range(0, len(dataset), step)[:count]
    return normalize(torch.stack([view(dataset.image(i)) for i in indices]), preprocessing, "cpu")


def calibration_of(network: "Network", run: Path | None, folder: str | None) -> Tensor:
    """Load calibration images for a network from ``folder``, or else from the training data of ``run``.

    Raises RequestError if both are None.
    """
    from resnext.evaluate.predict import preprocessing_of

    preprocessing = preprocessing_of(network)
    if folder is not None:
        return _of_files(folder, preprocessing)
    if run is None:
        raise RequestError("int8 needs calibration images from the training data: give --calibration DIR")
    from resnext.data.open import open_data
    from resnext.recipe import read_recipe

    return calibration_images(open_data(read_recipe(run / "recipe.yaml").data).train, preprocessing)


def _of_files(folder: str, preprocessing: "Preprocessing") -> Tensor:
    from resnext.data.augment import eval_transform
    from resnext.data.images import read_image
    from resnext.data.preprocessing import normalize
    from resnext.evaluate.predict import find_images

    paths, _ = find_images([folder])
    view, step = eval_transform(preprocessing), max(1, len(paths) // IMAGES)
    pictures = [read_image(path, preprocessing.channels, preprocessing.exif) for path in paths[::step][:IMAGES]]
    return normalize(torch.stack([view(picture) for picture in pictures]), preprocessing, "cpu")
