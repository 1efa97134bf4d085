"""Lay out a folder in which the pages' commands run as they stand: what they name is there, in a size that is quick.

Recipes of the package that pages train are shadowed by small ones of the same name ("a file of that name in the working
directory wins"), and placeholders such as WEIGHTS, RECIPE and RUN are files and folders of these names.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import resnext
from resnext.data.imagenet_classes import imagenet_synsets
from resnext.data.preprocessing import Preprocessing
from resnext.model.network import Network
from tests.detection import shape_images
from tests.docs.pages import ROOT

DIGITS = """
model: {name: resnext20_4x8d, base_channels: 16}
data: {source: digits, image_size: 16, max_train_images: 128, max_val_images: 20, workers: 0}
augment: {crop: pad, pad: 2}
optimizer: {lr: 0.05}
train: {epochs: 1, batch_size: 32, device: cpu}
"""
PHOTOS = """
model: {name: resnext11_2x4d, base_channels: 8}
data: {source: folder, path: photos, image_size: 32, workers: 0}
augment: {crop: pad, pad: 2}
optimizer: {lr: 0.01}
train: {epochs: 1, batch_size: 4, device: cpu}
"""


def write_stage(root: Path) -> Path:
    """Write everything into ``root``, which trains three small runs."""
    _write_photos(root)
    _write_imagenet(root)
    _write_weights(root)
    for name, text in (("small/digits", DIGITS), ("RECIPE", PHOTOS)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    resnext.train(root / "small/digits", root / "runs/digits", quiet=True)
    resnext.train(root / "RECIPE", root / "runs/NAME", overrides={"data.path": str(root / "photos")}, quiet=True)
    for copy in ("runs/a", "runs/b", "runs/c", "RUN"):
        shutil.copytree(root / "runs/digits", root / copy)
    for copy in ("runs/photos", "runs/flowers"):
        shutil.copytree(root / "runs/NAME", root / copy)
    shape_images.folder(root / "cells")
    shutil.copytree(root / "cells", root / "other-cells")
    shape_images.recipe(root / "cells.yaml", root / "cells", train__epochs=1, train__checkpoint_steps=None)
    resnext.train(root / "cells.yaml", root / "runs/cells", quiet=True)
    return root


def _write_photos(root: Path) -> None:
    places = [
        f"photos/{split}/{name}/{number}.jpg"
        for split, count in (("train", 32), ("val", 6))  # a batch of modern/finetune has 64
        for name in ("cat", "dog")
        for number in range(count)
    ]
    slides = [
        f"slides/{name}/patient{patient}-{number}.jpg"
        for at, name in enumerate(("healthy", "ill"))
        for patient in range(5 * at, 5 * at + 5)
        for number in range(3)
    ]
    others = [
        "holiday/1.jpg",
        "holiday/2.jpg",
        "more/deep/3.jpg",
        "one.png",
        "a.jpg",
        "b.jpg",
        "photo.jpg",
        "street.jpg",
    ]
    for seed, name in enumerate(places + slides + others):
        _write_noise(root / name, seed)
    shutil.copy(root / "one.png", root / "IMAGE")


def _write_noise(path: Path, seed: int, size: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(colours).resize((size, size)).save(path)


def _write_imagenet(root: Path) -> None:
    names = imagenet_synsets()[:2]
    for seed, name in enumerate(names):
        for number in range(2):
            file = f"ILSVRC2012_val_{2 * seed + number + 1:08}.JPEG"
            _write_noise(root / "imagenet/val" / name / file, seed)
            _write_noise(root / "imagenet-r" / name / file, seed)
            _write_noise(root / "imagenet-c/noise/gaussian_noise/1" / name / file, seed)
            _write_noise(root / "imagenetv2-matched-frequency-format-val" / str(seed) / f"{number}.jpeg", seed)
    (root / "real.json").write_text(json.dumps([[0]] * 50_000))


def _write_weights(root: Path) -> None:
    shape = {"stem": "imagenet", "blocks": (1, 1, 1, 1), "base_channels": 64}  # as torchvision's, for convert
    model = resnext.create_model("resnext14_2x4d", num_classes=1000, seed=0, **shape).eval()
    view = Preprocessing(channels=3, image_size=32, resize=36, mean=(0.5,) * 3, std=(0.25,) * 3)
    _save(model, view, imagenet_synsets(), root / "x50.safetensors")
    for copy in ("WEIGHTS", "weights.t7", "resnext_50_32x4d.t7", "resnext_101_64x4d.t7", "model.t7", "R-50.pkl"):
        shutil.copy(root / "x50.safetensors", root / copy)
    torch.save(model.state_dict(), root / "my.pth")
    with tarfile.open(ROOT / "tests/assets/torch7.tar.xz") as tar:
        (root / "optimState_90.t7").write_bytes(tar.extractfile("basics.t7").read())
    (root / "pets.txt").write_text("\n".join(f"pet {number}" for number in range(1000)))
    pair = resnext.create_model("resnext11_2x4d", base_channels=8, num_classes=2, seed=0).eval()
    _save(pair, view, ("cat", "dog"), root / "weights.safetensors")
    cifar = resnext.create_model("resnext29_2x2d", base_channels=8, num_classes=10, seed=0, form="concatenated").eval()
    _save(cifar, view, tuple(map(str, range(10))), root / "B_cifar11_nn_float.t7")


def _save(model: Network, preprocessing: Preprocessing, classes: tuple[str, ...], path: Path) -> None:
    model.preprocessing, model.classes = preprocessing, classes
    resnext.save(model, path.with_suffix(".safetensors"))
    if path.suffix != ".safetensors":
        path.with_suffix(".safetensors").rename(path)
