"""Compute outputs of a network in memory for images of every kind: files, PIL images, arrays, bytes."""

from collections.abc import Callable, Iterable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from resnext.data.normalization import normalize
from resnext.data.transforms.eval_view import prepare_pixels
from resnext.evaluation.classifier import Classifier, get_device
from resnext.evaluation.ensemble import eval_mode
from resnext.evaluation.images import ImageInput, open_image
from resnext.evaluation.outputs import Row, compute_outputs, get_preprocessing
from resnext.model.network import Network


def compute_network_outputs(
    model: Classifier,
    compute: Callable[[Tensor], Iterable[Row]],
    images: ImageInput | Iterable[ImageInput],
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> list[tuple[str | None, Row | str]]:
    """Compute ``compute(inputs)`` of images prepared for ``model``, which is in eval mode meanwhile.

    Returns the path of each image, and its row of the output or why it could not be read.
    """
    preprocessing, device = get_preprocessing(model), get_device(model)

    def prepare(image: ImageInput) -> np.ndarray:
        return prepare_pixels(open_image(image, preprocessing.channels, preprocessing.exif), preprocessing)

    def compute_rows(inputs: list[np.ndarray]) -> Iterable[Row]:
        pixels = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)
        return compute(normalize(pixels, preprocessing, device))

    with eval_mode(model), torch.inference_mode():
        return compute_outputs(prepare, compute_rows, images, batch_size, progress)


def compute_network_logits(model: Classifier, inputs: Tensor) -> np.ndarray:
    """Compute logits, float32 [N, K], of normalised images."""
    logits: np.ndarray = model(inputs).cpu().float().numpy()
    return logits


def compute_network_cam(network: Network, inputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Compute logits float32 [N, K] and class activation maps [N, K, h, w], without the bias, of normalised images."""
    fc = cast(nn.Linear, network.fc)
    maps = network.compute_score_map(inputs, window=1).permute(0, 3, 1, 2)
    cam = maps - fc.bias.view(-1, 1, 1)
    return maps.mean((2, 3)).cpu().float().numpy(), cam.cpu().float().numpy()
