"""Quantise a network to int8 with NNCF, and load the images it is calibrated on.

Weights are quantised per channel and activations by their statistics over the calibration images; biases are corrected.
Calibrate on training images: with test images, the measured error would be too low.
"""

import io
import logging
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from resnext.deploy.openvino_engine import suppress_warnings
from resnext.deploy.signal_stack import preserve_signal_stack
from resnext.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

    from resnext.data.dataset import Dataset
    from resnext.data.preprocessing import Preprocessing
    from resnext.model.network import Network

CALIBRATION_IMAGES = 300  # number of calibration images, NNCF's default


def check_calibration(images: Tensor | None) -> Tensor:
    """Return the images; raise RequestError if there are none."""
    if images is None or not len(images):
        raise RequestError("int8 needs calibration images from the training data; without them, use bf16 or fp32")
    return images


def quantize_int8(model: Any, calibration: Tensor | None) -> Any:
    """Quantise an openvino.Model to int8. Raises RequestError if calibration images or NNCF are missing."""
    images = check_calibration(calibration)
    try:
        with suppress_warnings():
            import nncf
    except ImportError:
        raise RequestError("int8 needs nncf: pip install 'resnext[openvino]'") from None
    nncf.set_log_level(logging.ERROR)
    batches = [image[None].numpy() for image in images.contiguous()]
    with redirect_stdout(io.StringIO()), preserve_signal_stack():  # NNCF prints progress bars
        return nncf.quantize(
            model, nncf.Dataset(batches), subset_size=len(batches), preset=nncf.QuantizationPreset.MIXED
        )


def sample_calibration_images(
    dataset: "Dataset", preprocessing: "Preprocessing", count: int = CALIBRATION_IMAGES
) -> Tensor:
    """Sample ``count`` evenly spaced images of ``dataset``; return them preprocessed, float32 [N, C, S, S]."""
    if not len(dataset):
        raise RequestError(f"{dataset.name} has no images to calibrate on")
    indices = range(0, len(dataset), max(1, len(dataset) // count))[:count]
    return _preprocess((dataset.image(i) for i in indices), preprocessing)


def load_calibration_images(network: "Network", run: Path | None, folder: str | None) -> Tensor:
    """Load calibration images from ``folder``, or else from the training data of ``run``; one must be given."""
    from resnext.evaluation.images import find_images
    from resnext.evaluation.outputs import get_preprocessing

    preprocessing = get_preprocessing(network)
    if folder is not None:
        from resnext.data.decode.pillow import read_image

        paths, _ = find_images([folder])
        some = paths[:: max(1, len(paths) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]
        images = (read_image(path, preprocessing.channels, preprocessing.exif) for path in some)
        return _preprocess(images, preprocessing)
    if run is None:
        raise RequestError("int8 needs calibration images from the training data: give --calibration DIR")
    from resnext.data.sources.registry import open_data
    from resnext.recipe import read_recipe

    return sample_calibration_images(open_data(read_recipe(run / "recipe.yaml").data).train, preprocessing)


def _preprocess(images: Iterable["Image"], preprocessing: "Preprocessing") -> Tensor:
    from resnext.data.transforms.eval_view import normalize_pixels, prepare_pixels

    pixels = np.stack([prepare_pixels(image, preprocessing) for image in images])
    return torch.from_numpy(normalize_pixels(pixels, preprocessing))
