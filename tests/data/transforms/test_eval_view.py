"""Tests of the evaluation view without torch: the same bits as the one with torch and torchvision."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import normalize_pixels, prepare_pixels
from resnext.data.transforms.pipeline import build_eval_transform

MEANS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def make_image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize("crop_mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(40, 31), (31, 90), (24, 24), (7, 300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_normalised_values_have_the_bits_of_torch(
    crop_mode: str, size: tuple[int, int], channels: int
) -> None:
    means = {name: values[:channels] for name, values in MEANS.items()}
    p = Preprocessing(image_size=24, resize=27, crop_mode=crop_mode, channels=channels, **means)  # type: ignore[arg-type]
    for mode in ("RGB", "L"):
        image = make_image(*size, mode)
        pixels = prepare_pixels(image, p)
        of_torch = build_eval_transform(p)(image)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, of_torch.permute(1, 2, 0).numpy())
        expected = normalize(of_torch[None], p, "cpu").numpy()
        assert np.array_equal(normalize_pixels(pixels[None], p), expected)


def test_the_centre_crop_is_that_of_torchvision() -> None:
    p = Preprocessing(image_size=24, resize=27, channels=3, interpolation="bicubic", **MEANS)
    theirs = v2.Compose([v2.Resize(27, v2.InterpolationMode.BICUBIC), v2.CenterCrop(24), v2.PILToTensor()])
    for size in ((40, 31), (31, 90), (28, 27), (500, 375)):
        image = make_image(*size)
        assert np.array_equal(prepare_pixels(image, p), theirs(image).permute(1, 2, 0).numpy())


def test_neither_torch_nor_torchvision_is_imported() -> None:
    code = (
        "import sys, numpy as np; from PIL import Image; from resnext.data.preprocessing import Preprocessing; "
        "from resnext.data.transforms.eval_view import normalize_pixels, prepare_pixels; "
        "import resnext.evaluation.predict; "
        "p = Preprocessing(image_size=8, resize=8, channels=1, mean=(0.5,), std=(0.5,)); "
        "print(normalize_pixels(prepare_pixels(Image.new('L', (9, 9)), p)[None], p).shape, "
        "'torch' in sys.modules, 'torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["(1,", "1,", "8,", "8)", "False", "False"]


def test_values_do_not_depend_on_the_memory_layout() -> None:
    p = Preprocessing(image_size=4, resize=4, channels=3, **MEANS)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    expected = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), p, "cpu").numpy()
    assert np.array_equal(normalize_pixels(np.asfortranarray(pixels), p), expected)
