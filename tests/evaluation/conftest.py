"""Tiny data sets and networks with known outputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from resnext.data.dataset import ArrayDataset
from resnext.data.preprocessing import Preprocessing
from resnext.evaluation.evaluator import COLUMNS, Evaluation
from resnext.model.architecture import Architecture
from resnext.model.network import Network, create_model

PREPROCESSING = Preprocessing(image_size=4, resize=4, mean=(0.0,), std=(1.0,), channels=1)


class LookupModel(nn.Module):
    """A network whose logits for an image filled with the value i are row i of ``table``."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table
        self.architecture = Architecture.parse("resnext11_2x4d", num_classes=table.shape[1])
        self.preprocessing, self.classes = PREPROCESSING, None
        self.norm = nn.BatchNorm1d(1)  # something that has a mode

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.table[(images.mean(dim=(1, 2, 3)) * 255).round().long()]


def make_dataset(labels: np.ndarray, classes: int, names: tuple[str, ...] | None = None) -> ArrayDataset:
    """A data set whose image i is filled with the value i (at most 256 of them)."""
    images = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None], (len(labels), 4, 4)).copy()
    names = names or tuple(f"c{i}" for i in range(classes))
    return ArrayDataset("numbers test", names, 1, images, labels.astype(np.int64))


def make_evaluation(
    label: list[int], predicted: list[int], classes: tuple[str, ...], probability: float = 0.8
) -> Evaluation:
    """An evaluation with the given predictions, and losses that rise from image to image."""
    n = len(label)
    values = {
        "index": np.arange(n),
        "label": label,
        "predicted": predicted,
        "rank": [int(a != b) for a, b in zip(label, predicted, strict=True)],
        "probability": [probability] * n,
        "probability_of_label": [0.1] * n,
        "losses": np.arange(n) / 10,
    }
    columns = {name: np.asarray(values[name], dtype=kind) for name, kind in COLUMNS.items()}
    where = tuple(f"test[{i}]" for i in range(n))
    return Evaluation(name="numbers test", dataset_size=n, classes=classes, paths=where, **columns)


@pytest.fixture
def tiny_network() -> Callable[..., Network]:
    """A small real network for 8x8 grey images, with preprocessing and class names."""

    def build(classes: int = 3, channels: int = 1, **view: object) -> Network:
        model = create_model("resnext11_2x4d", seed=0, num_classes=classes, in_channels=channels, base_channels=4)
        values = {"image_size": 8, "resize": 8, "mean": (0.5,) * channels, "std": (0.25,) * channels}
        model.preprocessing = Preprocessing(**(values | {"channels": channels} | view))
        model.classes = tuple(f"c{i}" for i in range(classes))
        return model.eval()

    return build


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Five readable images in two folders, one broken image and one other file."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png", "c.JPG", "below/d.png", "below/e.png"):
        Image.fromarray(rng.integers(0, 256, (10, 12), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes((folder / "a.png").read_bytes())
    return folder
