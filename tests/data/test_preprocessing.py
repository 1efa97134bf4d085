"""Preprocessing: values it refuses, the order of settings, weights and source, and normalising as torchvision does."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.functional import normalize as normalize_v1
from torchvision.transforms.functional import to_tensor

from resnext.data.dataset import ArrayDataset, Source
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.settings import DataSettings
from resnext.sources import list_sources

GREY = Preprocessing(image_size=28, resize=28, mean=(0.286,), std=(0.353,), channels=1)
COLOUR = Preprocessing(image_size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), channels=3)


def source(channels: int = 3) -> Source:
    shape = (2, 32, 32, 3) if channels == 3 else (2, 32, 32)
    data = ArrayDataset("toy", ("a", "b"), channels, np.zeros(shape, np.uint8), np.array([0, 1]))
    return Source(data, data, 32, mean=(0.5,) * channels, std=(0.25,) * channels, split_rule="made")


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    size = draw(st.integers(1, 512))
    channels = draw(st.sampled_from((1, 3)))
    each = {"min_size": channels, "max_size": channels}
    return Preprocessing(
        image_size=size,
        resize=size + draw(st.integers(0, 64)),
        crop_mode=draw(st.sampled_from(("crop", "squash", "pad"))),
        interpolation=draw(st.sampled_from(("bicubic", "bilinear"))),
        mean=tuple(draw(st.lists(st.floats(0, 1), **each))),
        std=tuple(draw(st.lists(st.floats(0.001, 1), **each))),
        channels=channels,
        exif=draw(st.booleans()),
    )


@given(preprocessings())
def test_a_dictionary_through_json_comes_back_equal(p: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(p.to_dict()))) == p


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda s: st.lists(s, max_size=4)
)


@given(st.sampled_from(sorted(COLOUR.to_dict())), JSON)
def test_any_foreign_value_is_used_as_it_is_or_refused(key: str, value: Any) -> None:
    values = COLOUR.to_dict() | {key: value}
    try:
        p = Preprocessing.from_dict(values)
    except RequestError:
        return  # anything but RequestError fails the test
    assert p.to_dict()[key] == value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sise": 3}, "unknown key 'sise'"),
        ({"image_size": 0}, "image_size must be a whole number from 1"),
        ({"image_size": 10**9}, "image_size must be a whole number"),
        ({"image_size": True}, "image_size must be a whole number"),
        ({"resize": 200}, "resize 200 is smaller than image_size 224"),
        ({"fit": "crob"}, "did you mean 'crop'"),
        ({"interpolation": "nearest"}, "interpolation 'nearest' is unknown"),
        ({"channels": 2}, "choose 1 .grey. or 3"),
        ({"mean": [0.5]}, "mean has 1 values, but the images have 3 channels"),
        ({"mean": [123.7, 116.3, 103.5]}, "divide values of 0 to 255 by 255"),
        ({"mean": [float("nan")] * 3}, "mean must hold plain numbers"),
        ({"std": [0.2, 0, 0.2]}, "std .* must be above 0"),
        ({"std": "0.2"}, "std must be a list of 3 numbers"),
        ({"exif": 1}, "exif must be true or false"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Preprocessing.from_dict(COLOUR.to_dict() | changes)


def test_a_missing_key_and_a_wrong_kind_of_table_are_refused() -> None:
    values = COLOUR.to_dict()
    del values["std"]
    with pytest.raises(RequestError, match="lacks 'std'"):
        Preprocessing.from_dict(values)
    with pytest.raises(RequestError, match="must be a table"):
        Preprocessing.from_dict([1, 2])  # type: ignore[arg-type]


def test_the_source_fills_what_the_settings_leave_open() -> None:
    p = Preprocessing.from_settings(DataSettings(source="cifar10"), source())
    assert (p.image_size, p.resize, p.crop_mode, p.channels) == (32, 32, "crop", 3)
    assert (p.mean, p.std, p.interpolation, p.exif) == ((0.5,) * 3, (0.25,) * 3, "bicubic", True)


def test_the_settings_win() -> None:
    said = DataSettings(
        image_size=48, resize=56, interpolation="bilinear", exif=False, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    p = Preprocessing.from_settings(said, source())
    assert (p.image_size, p.resize, p.interpolation, p.exif) == (48, 56, "bilinear", False)
    assert (p.mean, p.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_settings(DataSettings(image_size=48), source()).resize == 48


WEIGHTS = Preprocessing(
    image_size=224, resize=236, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2,) * 3, channels=3, exif=False
)


def test_weights_bring_their_colours_and_filter_to_a_source_that_has_its_size() -> None:
    p = Preprocessing.from_settings(DataSettings(source="cifar10"), source(), WEIGHTS)
    assert (p.image_size, p.resize, p.crop_mode, p.exif) == (32, 32, "crop", True)
    assert (p.mean, p.std, p.interpolation) == (WEIGHTS.mean, WEIGHTS.std, "bilinear")


@pytest.mark.parametrize("kind", list_sources(has_image_files=True))
def test_pictures_of_any_size_are_seen_as_the_weights_see_them(kind: str) -> None:
    p = Preprocessing.from_settings(DataSettings(source=kind, path="x"), source(), WEIGHTS)
    assert p == replace(WEIGHTS, exif=True), "how files are opened is the folder's affair"
    padded = replace(WEIGHTS, crop_mode="pad", resize=224)
    assert Preprocessing.from_settings(DataSettings(source="folder"), source(), padded).crop_mode == "pad"


@pytest.mark.parametrize(
    ("said", "size", "resize", "crop_mode"),
    [
        ({"image_size": 160}, 160, 160, "crop"),
        ({"image_size": 160, "resize": 176}, 160, 176, "crop"),
        ({"resize": 256}, 224, 256, "crop"),
        ({"crop_mode": "squash"}, 224, 224, "squash"),
        ({"crop_mode": "pad", "image_size": 64}, 64, 64, "pad"),
    ],
)
def test_what_is_said_of_a_folder_wins_over_the_weights(
    said: dict[str, Any], size: int, resize: int, crop_mode: str
) -> None:
    p = Preprocessing.from_settings(DataSettings(source="folder", **said), source(), WEIGHTS)
    assert (p.image_size, p.resize, p.crop_mode) == (size, resize, crop_mode)
    everything = DataSettings(source="folder", interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5,) * 3)
    p = Preprocessing.from_settings(everything, source(), WEIGHTS)
    assert (p.interpolation, p.mean, p.std) == ("bicubic", (0.1, 0.2, 0.3), (0.5,) * 3)


def test_a_crop_said_of_a_folder_does_not_take_the_resize_of_weights_that_pad() -> None:
    padded = replace(WEIGHTS, crop_mode="pad", resize=100)  # without meaning there
    p = Preprocessing.from_settings(DataSettings(source="folder", crop_mode="crop"), source(), padded)
    assert (p.image_size, p.resize, p.crop_mode) == (224, 224, "crop")


def test_colours_of_weights_with_other_channels_are_of_no_use() -> None:
    p = Preprocessing.from_settings(DataSettings(source="digits"), source(channels=1), WEIGHTS)
    assert (p.mean, p.std, p.interpolation) == ((0.5,), (0.25,), "bilinear")


def test_contradicting_settings_are_refused() -> None:
    with pytest.raises(RequestError, match="resize 24 is smaller than image_size 32"):
        Preprocessing.from_settings(DataSettings(resize=24), source())
    with pytest.raises(RequestError, match=r"data\.resize 40 belongs to data\.crop_mode crop"):
        Preprocessing.from_settings(DataSettings(resize=40, crop_mode="pad"), source())
    with pytest.raises(RequestError, match="mean has 3 values, but the images have 1 channels"):
        Preprocessing.from_settings(DataSettings(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), source(channels=1))


@pytest.mark.parametrize("p", [GREY, COLOUR])
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalising_equals_totensor_and_normalize_of_torchvision(p: Preprocessing, channels_last: bool) -> None:
    images = torch.randint(0, 256, (5, p.channels, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scaled = torch.stack([to_tensor(image.permute(1, 2, 0).numpy()) for image in images])
    wanted = normalize_v1(scaled, list(p.mean), list(p.std))
    got = normalize(images, p, "cpu", channels_last=channels_last)
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert got.is_contiguous(memory_format=layout)
    floats = images.float() / 255
    before = floats.clone()
    assert torch.equal(normalize(floats, p, "cpu", channels_last=channels_last), wanted)
    assert torch.equal(floats, before), "the caller's tensor must stay as it was"


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(RequestError, match="3 input channels"):
        normalize(torch.zeros(2, 1, 4, 4), COLOUR, "cpu")


def test_the_mean_colour_is_rounded_to_bytes() -> None:
    assert COLOUR.mean_color == (124, 116, 104)
    assert replace(GREY, mean=(1.0,)).mean_color == (255,)


def test_a_source_needs_no_more_than_its_own_fields() -> None:
    bare = SimpleNamespace(train=SimpleNamespace(channels=1), image_size=8, mean=(0.5,), std=(0.5,))
    assert Preprocessing.from_settings(DataSettings(), bare).channels == 1  # type: ignore[arg-type]
