"""A real network whose class activation map is known, the mean brightness of each cell; exported as any other."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resnext import Network, create_model
from resnext.data.preprocessing import Preprocessing
from resnext.deploy.export import ExportRequest, export_classifier
from resnext.settings import CropMode

SIDE = 64  # pixels of the network's input
CELLS = SIDE // 4  # of the map's side: two stages halve the resolution
DARK = 0.3  # brightness below which there is no evidence
STRENGTH = 40.0  # logits per unit of mean brightness


def build_known_network(classes: tuple[str, str], crop_mode: CropMode) -> Network:
    """Build a network whose map of the first class is STRENGTH * mean(max(brightness - DARK, 0)) over 4 x 4 pixels."""
    network = create_model("resnext11_2x4d", base_channels=4, num_classes=2, seed=0).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(1.0 if "bn" in name and name.endswith("weight") else 0.0)
        network.conv1.weight[0, :, 1, 1] = 1 / 3  # brightness
        network.bn1.bias[0] = -DARK
        for block in (network.layer1[0], network.layer2[0], network.layer3[0]):
            block.conv1.weight[0, 0] = block.conv3.weight[0, 0] = 1.0
            if block.conv2.stride == (1, 1):
                block.conv2.weight[0, 0, 1, 1] = 1.0
            else:
                block.conv2.weight[0, 0, 1:, 1:] = 1 / 4  # with stride 2: the mean of 2 x 2 pixels
        network.fc.weight[0, 0] = STRENGTH
    network.classes = classes
    network.preprocessing = Preprocessing(
        image_size=SIDE,
        resize=72 if crop_mode == "crop" else SIDE,
        crop_mode=crop_mode,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        channels=3,
    )
    return network


def export_known_network(file: Path, classes: tuple[str, str], crop_mode: CropMode) -> Path:
    """Export the known network for ONNX Runtime, with its maps."""
    noise = np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE, 3), dtype=np.uint8)
    request = ExportRequest(format="onnx", with_cam=True)
    return export_classifier(
        build_known_network(classes, crop_mode), file, request, [Image.fromarray(pixels) for pixels in noise]
    ).path


def compute_known_map(pixels: np.ndarray) -> np.ndarray:
    """Compute the map of the first class from the network's input, uint8 [SIDE, SIDE, 3], by plain arithmetic."""
    bright = np.maximum(pixels.astype(float).mean(2) / 255 - DARK, 0)
    return STRENGTH * bright.reshape(CELLS, 4, CELLS, 4).mean((1, 3))
