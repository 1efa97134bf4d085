"""Views: parsing, crops, and averaging of logits, against torchvision and loops."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from resnext.data.decode.pillow import read_image
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.crops import to_tensor
from resnext.errors import RequestError
from resnext.evaluation.views import CENTER, DEFAULT_SCALES, Views, average_logits, crop_ten, resize_whole

P = Preprocessing(image_size=24, resize=29, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)

looks = st.one_of(
    st.builds(Views, kind=st.just("center"), flip=st.booleans()),
    st.just(Views(kind="ten-crop")),
    st.builds(
        Views,
        kind=st.just("dense"),
        flip=st.booleans(),
        scales=st.lists(st.integers(1, 8192), min_size=1, max_size=5, unique=True).map(tuple),
    ),
)


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@given(looks)
def test_a_view_is_read_as_it_is_written(view: Views) -> None:
    assert Views.parse(str(view)) == view


@given(st.text(alphabet="centrdsop-:+flip,0123456789 ", max_size=30))
def test_any_text_is_a_view_or_one_sentence(text: str) -> None:
    try:
        assert str(Views.parse(text)).split(":")[0].split("+")[0] in text
    except RequestError as error:
        assert len(str(error)) < 400


def test_dense_has_the_scales_of_the_residual_networks_paper() -> None:
    assert Views.parse("dense").scales == DEFAULT_SCALES == (224, 256, 384, 480, 640)
    assert str(Views.parse("dense+flip")) == "dense:224,256,384,480,640+flip"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("centre", "did you mean 'center'"),
        ("ten-crop+flip", "already includes mirror images"),
        ("center:256", "scales belong to the view dense"),
        ("dense:256,256", "different scales"),
        ("dense:0", "1 to 8192"),
        ("dense:9999", "1 to 8192"),
        ("dense:a", "whole numbers separated by commas"),
        ("dense:", "whole numbers separated by commas"),
        ("center+mirror", "cannot be read"),
    ],
)
def test_views_that_make_no_sense_are_refused(text: str, part: str) -> None:
    with pytest.raises(RequestError, match=part.replace("+", r"\+")):
        Views.parse(text)
    with pytest.raises(RequestError, match="did you mean 'logits'"):
        Views(combine="logit")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(29, 29), (40, 31), (31, 47), (24, 90), (30, 29), (100, 61)])
@pytest.mark.parametrize("resize", [24, 29, 30])
def test_ten_crops_are_torchvisions(size: tuple[int, int], mode: str, resize: int) -> None:
    p = Preprocessing(image_size=24, resize=resize, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
    image = picture(*size, mode)
    bicubic = F.InterpolationMode.BICUBIC
    theirs = F.ten_crop(F.resize(image.convert("RGB"), [resize], bicubic, antialias=True), [24, 24])
    ours = crop_ten(image, p)
    assert ours.shape == (10, 3, 24, 24)
    assert torch.equal(ours, torch.stack([to_tensor(crop) for crop in theirs]))


@pytest.mark.parametrize("size", [(50, 40), (40, 50), (40, 40), (37, 61)])
def test_a_whole_picture_has_the_shorter_side_asked_for(size: tuple[int, int]) -> None:
    image = picture(*size)
    theirs = v2.Resize(32, F.InterpolationMode.BILINEAR, antialias=True)(image)
    assert torch.equal(resize_whole(image, 32, replace(P, interpolation="bilinear")), to_tensor(theirs))


def test_a_strip_is_cut_before_it_fills_memory() -> None:
    image = picture(1000, 10)
    cut = resize_whole(image, 20, replace(P, interpolation="bilinear"))
    assert cut.shape == (3, 20, 160)
    middle = image.crop((460, 0, 540, 10))
    assert torch.equal(cut, to_tensor(middle.resize((160, 20), Image.Resampling.BILINEAR)))


def test_what_the_weights_ask_for_and_a_view_cannot_give_is_refused() -> None:
    squash = Preprocessing(image_size=24, resize=24, crop_mode="squash", mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
    assert len(CENTER.build_transforms(squash)) == 1
    for text in ("ten-crop", "dense:32"):
        with pytest.raises(RequestError, match="but these squash them"):
            Views.parse(text).build_transforms(squash)
    with pytest.raises(RequestError, match="scale 23 is smaller than the 24 pixels"):
        Views.parse("dense:32,23").build_transforms(P)


@given(st.data())
def test_answers_are_averaged_as_explicit_loops_do(data: st.DataObject) -> None:
    b, n, k = (data.draw(st.integers(1, 4)) for _ in range(3))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).normal(0, 5, (b, n, k))
    logits = average_logits(torch.from_numpy(values), "logits")
    mixed = torch.softmax(average_logits(torch.from_numpy(values), "probabilities"), dim=1)
    for i in range(b):
        means, shares = [0.0] * k, [0.0] * k
        for row in values[i]:
            total = sum(math.exp(value) for value in row)
            for j in range(k):
                means[j] += row[j] / n
                shares[j] += math.exp(row[j]) / total / n
        assert logits[i].tolist() == pytest.approx(means, rel=1e-12, abs=1e-12)
        assert mixed[i].tolist() == pytest.approx(shares, rel=1e-12)


def test_a_certain_answer_and_its_opposite_do_not_overflow() -> None:
    opposite = torch.tensor([[[2000.0, -2000.0], [-2000.0, 2000.0]]], dtype=torch.float64)
    assert torch.softmax(average_logits(opposite, "probabilities"), 1).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("how", ["logits", "probabilities"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_look_that_is_not_finite_cannot_hide(how: str, bad: float) -> None:
    answers = torch.zeros((2, 3, 4), dtype=torch.float64)
    answers[1, 2, 0] = bad
    finite = torch.isfinite(average_logits(answers, how)).all(dim=1)
    assert finite.tolist() == [True, False]


def test_ten_crops_of_real_photographs_are_torchvisions(photographs: list[bytes]) -> None:
    p = Preprocessing(image_size=224, resize=256, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
    images = [read_image(io.BytesIO(file)) for file in photographs[:8]]
    assert len({image.size for image in images}) > 3
    for image in images:
        resized = F.resize(image, [256], F.InterpolationMode.BICUBIC, antialias=True)
        theirs = torch.stack([to_tensor(crop) for crop in F.ten_crop(resized, [224, 224])])
        assert torch.equal(crop_ten(image, p), theirs)
        for scale in (224, 384):
            assert min(resize_whole(image, scale, p).shape[1:]) == scale
