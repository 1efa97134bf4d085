"""Compute outputs of a network in memory for images of every kind: files, PIL images, arrays, bytes."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from resnext.data.normalization import normalize
from resnext.data.transforms.eval_view import prepare_pixels
from resnext.evaluation.classifier import Classifier, get_device
from resnext.evaluation.ensemble import eval_mode
from resnext.evaluation.images import ImageInput, open_image
from resnext.evaluation.outputs import compute_outputs, get_preprocessing


def compute_network_outputs(
    model: Classifier,
    compute: Callable[[Tensor], Tensor],
    images: ImageInput | Iterable[ImageInput],
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> list[tuple[str | None, np.ndarray | str]]:
    """Compute ``compute(inputs)`` of images prepared for ``model``, which is in eval mode meanwhile.

    Returns the path of each image, and its row of the output (float32) or why it could not be read.
    """
    preprocessing, device = get_preprocessing(model), get_device(model)

    def prepare(image: ImageInput) -> np.ndarray:
        return prepare_pixels(open_image(image, preprocessing.channels, preprocessing.exif), preprocessing)

    def compute_rows(inputs: list[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)
        rows: np.ndarray = compute(normalize(pixels, preprocessing, device)).cpu().float().numpy()
        return rows

    with eval_mode(model), torch.inference_mode():
        return compute_outputs(prepare, compute_rows, images, batch_size, progress)
