"""Corruptions on the fly: all fifteen run with the installed libraries, change images and depend on the seed only."""

import builtins
import importlib.util
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext.data.dataset import ArrayDataset
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.evaluation.suites import corruptions
from resnext.evaluation.suites.corruptions import CorruptedDataset, corrupt, load_library
from resnext.evaluation.suites.imagenet_c import CORRUPTIONS

P = Preprocessing(image_size=48, resize=56, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
FIXED = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}  # nothing is drawn


def photograph(side: int = 48) -> np.ndarray:
    """An image of smooth shapes, closer to a photograph than noise: uint8 [side, side, 3]."""
    y, x = np.mgrid[:side, :side] / side
    channels = (np.sin(6 * x) * np.cos(5 * y), np.sin(9 * x * y), np.cos(7 * (x - y)))
    return np.stack([127 + 90 * channel for channel in channels], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_each_corruption_runs_here_and_is_a_function_of_the_seed(corruption: str) -> None:
    pixels = photograph()
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    one, again, other = (corrupt(pixels, corruption, 3, seed) for seed in (5, 5, 6))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert one.shape == pixels.shape
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert np.array_equal(one, other) == (corruption in FIXED)
    assert not np.array_equal(one, pixels)
    assert np.array_equal(pixels, photograph())


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_higher_severity_is_farther_from_the_picture(corruption: str) -> None:
    pixels = photograph(64)
    mild, strong = (corrupt(pixels, corruption, severity, 1).astype(float) for severity in (1, 5))
    assert np.abs(mild - pixels).mean() < np.abs(strong - pixels).mean()


def test_impulse_noise_salts_the_share_of_pixels_that_the_paper_says() -> None:
    grey = np.full((200, 200, 3), 100, np.uint8)
    noisy = corrupt(grey, "impulse_noise", 5, 0)
    assert np.mean(noisy != 100) == pytest.approx(0.27, abs=0.01)
    assert set(np.unique(noisy)) == {0, 100, 255}


def numbers(channels: int = 3) -> ArrayDataset:
    shape = (3, 60, 70) if channels == 1 else (3, 60, 70, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return ArrayDataset("noise test", ("a", "b", "c"), channels, images, np.array([2, 0, 1]))


def test_a_corrupted_data_set_is_the_view_corrupted_by_index() -> None:
    data = CorruptedDataset(numbers(), P, "gaussian_noise", 2)
    assert data.name == "noise test, gaussian_noise 2"
    assert data.labels.tolist() == [2, 0, 1]
    assert data.image_path(1) == "test[1]"
    assert data.image(1).size == (48, 48)
    in_worker = pickle.loads(pickle.dumps(data))
    assert np.array_equal(np.asarray(data.image(1)), np.asarray(in_worker.image(1)))
    plain = Image.fromarray(np.full((60, 70, 3), 90, np.uint8))
    same = ArrayDataset("noise test", ("a", "b"), 3, np.stack([np.asarray(plain)] * 2), np.array([0, 1]))
    first, second = (np.asarray(CorruptedDataset(same, P, "shot_noise", 2).image(i)) for i in (0, 1))
    assert not np.array_equal(first, second)


def test_grey_pictures_stay_grey() -> None:
    grey = Preprocessing(image_size=48, resize=56, mean=(0.5,), std=(0.2,), channels=1)
    assert CorruptedDataset(numbers(1), grey, "fog", 2).image(0).mode == "L"


def test_what_cannot_be_had_is_one_sentence() -> None:
    with pytest.raises(RequestError, match="unknown corruption 'frog'; did you mean 'fog' or 'frost'"):
        CorruptedDataset(numbers(), P, "frog", 1)
    with pytest.raises(RequestError, match="1 to 5, not 6"):
        CorruptedDataset(numbers(), P, "fog", 6)
    small = Preprocessing(image_size=31, resize=31, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
    with pytest.raises(RequestError, match="at least 32 pixels"):
        CorruptedDataset(numbers(), small, "fog", 1)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == corruptions.LIBRARY else found(name, *a)
    )
    load_library.cache_clear()
    with pytest.raises(RequestError, match=r"pip install 'resnext\[corruptions\]'"):
        load_library()
    monkeypatch.undo()
    load_library()


def test_the_library_is_our_own_copy_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    module: Any = load_library()
    assert corruptions.LIBRARY not in sys.modules
    assert builtins.print is not module.print
    corrupt(photograph(50), "zoom_blur", 3, 0)
    assert capsys.readouterr().out == ""
