"""Detection on pictures that Python code hands over: paths, PIL images and arrays, alone and mixed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnext.detection.predict import DetectPrediction, predict, summarize_prediction
from resnext.errors import RequestError
from tests.detection.tiny_detector import CIFAR, CLASSES, detector, noise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def path(tmp_path: Path) -> str:
    noise(60, 44).save(tmp_path / "x.png")
    return str(tmp_path / "x.png")


def assert_same(one: DetectPrediction, other: DetectPrediction) -> None:
    assert len(one.boxes)
    for name in ("boxes", "labels", "scores"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.size == other.size == (60, 44)


def test_one_picture_may_be_given_in_any_way_and_alone(path: str) -> None:
    model = detector(CIFAR)
    (usual,) = predict(model, [path], torch.device("cpu"))
    picture = Image.open(path)
    for given in (path, Path(path), picture, np.asarray(picture)):
        (one,) = predict(model, given, "cpu")
        assert_same(one, usual)
        assert one.path == (path if isinstance(given, str | Path) else None)


def test_a_mixture_has_an_entry_each_in_its_order(path: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    other = Image.new("RGB", (30, 20), (200, 30, 90))
    given: list[Any] = [np.asarray(other), path, str(tmp_path / "broken.png"), Path(path), Image.open(path)]
    for batch_size in (1, 3, 10):
        found = predict(detector(CIFAR), iter(given), batch_size=batch_size)
        assert [one.size for one in found] == [(30, 20), (60, 44), None, (60, 44), (60, 44)]
        assert [one.error is None for one in found] == [True, True, False, True, True]
        assert len(found[3].boxes) == len(found[1].boxes) > 0


def test_where_nothing_is_found_there_is_an_entry_all_the_same(path: str) -> None:
    found = predict(detector(CIFAR, score=1.0), [path, path])
    assert [len(one.boxes) for one in found] == [0, 0]
    assert summarize_prediction(found[0], CLASSES) == f"{path}: nothing"
    assert predict(detector(CIFAR), []) == []


def test_grey_pictures_and_photographs_that_lie_are_as_from_a_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(60, 44).save(tmp_path / "turned.jpg", exif=exif)
    grey = noise(60, 44).convert("L")
    grey.save(tmp_path / "grey.png")
    model = detector(CIFAR)
    for name, given in (("turned.jpg", Image.open(tmp_path / "turned.jpg")), ("grey.png", np.asarray(grey))):
        from_file, from_memory = predict(model, [str(tmp_path / name), given])
        np.testing.assert_array_equal(from_file.boxes, from_memory.boxes)
        assert from_file.size == from_memory.size


def test_the_mode_of_the_detector_is_as_before(path: str) -> None:
    model = detector(CIFAR)
    assert model.training
    predict(model, path)
    assert model.training


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "image 0 is a int"),
        ([3], "image 0 is a int; expected a path, a PIL image, an array of pixels, or the bytes of an image file"),
        ([torch.zeros(3, 4, 4)], "image 0 is a Tensor"),
        (np.zeros((3, 40, 40), np.uint8), r"an array of uint8 \[3, 40, 40\]; expected .*uint8 \[height, width, 3\]"),
        (np.zeros((40, 40, 3), np.float32), r"an array of float32 \[40, 40, 3\]"),
        (np.zeros((2, 40, 40, 3), np.uint8), r"an array of uint8 \[2, 40, 40, 3\]"),
    ],
)
def test_what_is_no_picture_is_refused(given: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        predict(detector(CIFAR), given)


def test_a_device_that_is_not_here_is_refused(path: str) -> None:
    with pytest.raises(RequestError, match="device 'gpu' is unknown"):
        predict(detector(CIFAR), path, "gpu")
