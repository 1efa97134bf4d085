"""Views against torchvision, crops against naive readings of their definitions."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest, chisquare, ks_2samp
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from resnext.data.transforms import crops
from resnext.data.transforms.crops import PaperCrop, to_tensor
from resnext.data.transforms.pipeline import build_eval_transform, build_train_transform
from resnext.settings import AugmentSettings
from tests.data.sample_images import MIN_P_VALUE, make_image, make_preprocessing


@given(
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    size=st.integers(1, 24),
    more=st.integers(0, 9),
    channels=st.sampled_from((1, 3)),
    interpolation=st.sampled_from(("bicubic", "bilinear")),
)
@settings(max_examples=150)
def test_the_cropped_view_equals_torchvision(
    width: int, height: int, size: int, more: int, channels: int, interpolation: str
) -> None:
    if max(width, height) > 32 * min(width, height):
        return
    image = make_image(width, height, channels)
    resize = v2.Resize(size + more, InterpolationMode(interpolation), antialias=True)
    reference = v2.Compose([resize, v2.CenterCrop(size), v2.PILToTensor()])
    p = make_preprocessing(size, channels, resize=size + more, interpolation=interpolation)
    assert torch.equal(build_eval_transform(p)(image), reference(image))


@pytest.mark.parametrize(("width", "height"), [(31, 17), (17, 31), (16, 16), (40, 2)])
def test_the_squashed_view_equals_torchvision(width: int, height: int) -> None:
    image = make_image(width, height)
    reference = v2.Compose([v2.Resize((16, 16), InterpolationMode.BICUBIC, antialias=True), v2.PILToTensor()])
    assert torch.equal(build_eval_transform(make_preprocessing(crop_mode="squash"))(image), reference(image))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "height"), [(32, 20), (20, 32), (8, 5), (16, 16), (16, 10), (2000, 1)])
def test_the_padded_view_shows_the_whole_picture_on_the_mean_colour(width: int, height: int, channels: int) -> None:
    image, p = make_image(width, height, channels), make_preprocessing(16, channels, crop_mode="pad")
    view = build_eval_transform(p)(image)
    w = max(1, round(16 * width / max(width, height)))
    h = max(1, round(16 * height / max(width, height)))
    assert max(w, h) == 16
    left, top = (16 - w) // 2, (16 - h) // 2
    inner = F.pil_to_tensor(F.resize(image, [h, w], InterpolationMode.BICUBIC, antialias=True))
    wanted = torch.tensor(p.mean_color, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 16, 16).clone()
    wanted[:, top : top + h, left : left + w] = inner
    assert torch.equal(view, wanted)


@pytest.mark.parametrize("crop_mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_the_right_size_passes_unchanged(crop_mode: str, channels: int) -> None:
    image, p = make_image(16, 16, channels), make_preprocessing(16, channels, crop_mode=crop_mode)
    assert torch.equal(build_eval_transform(p)(image), F.pil_to_tensor(image))


def test_a_picture_of_other_colours_is_converted() -> None:
    image = make_image(16, 16)
    assert torch.equal(build_eval_transform(make_preprocessing(channels=1))(image), F.pil_to_tensor(image.convert("L")))
    grey = make_image(16, 16, 1)
    assert torch.equal(build_eval_transform(make_preprocessing())(grey), F.pil_to_tensor(grey).expand(3, -1, -1))


@pytest.mark.parametrize("shape", [(300_000, 1), (1, 300_000)])
@pytest.mark.parametrize(
    "transform", [build_eval_transform, lambda p: build_train_transform(AugmentSettings(crop="paper_imagenet"), p)]
)
def test_a_long_strip_does_not_fill_memory(shape: tuple[int, int], transform: Any) -> None:
    """torchvision would resize the whole strip: 1024 x 307,200,000 pixels."""
    view = transform(make_preprocessing(1024, 1))(Image.new("L", shape, 77))
    assert view.shape == (1, 1024, 1024)
    assert (view == 77).all()


# ---- the paper's ImageNet crop


def lua_crops(width: int, height: int, n: int, seed: int) -> list[tuple[int, int, int, int] | None]:
    """(y, x, h, w) as RandomSizedCrop of the release reads, with numpy's generator."""
    rng = np.random.default_rng(seed)
    boxes: list[tuple[int, int, int, int] | None] = []
    for _ in range(n):
        found = None
        for _attempt in range(10):
            target = rng.uniform(0.08, 1.0) * (width * height)
            ratio = rng.uniform(3 / 4, 4 / 3)
            w = int(math.sqrt(target * ratio) + 0.5)
            h = int(math.sqrt(target / ratio) + 0.5)
            if rng.uniform() < 0.5:
                w, h = h, w
            if h <= height and w <= width:
                found = (rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w)
                break
        boxes.append(found)
    return boxes


@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 300), (400, 1000)])
def test_the_paper_s_crop_follows_the_release(width: int, height: int) -> None:
    n = 3000
    torch.manual_seed(0)
    ours = [PaperCrop(224).draw_box(width, height) for _ in range(n)]
    theirs = lua_crops(width, height, n, seed=1)
    missed, theirs_missed = (sum(box is None for box in boxes) for boxes in (ours, theirs))
    if missed or theirs_missed:
        assert binomtest(missed, n, max(theirs_missed, 1) / n).pvalue > MIN_P_VALUE
    x, y, w, h = np.array([box for box in ours if box is not None]).T
    y2, x2, h2, w2 = np.array([box for box in theirs if box is not None]).T
    for mine, its in ((h * w, h2 * w2), (w / h, w2 / h2), (x, x2), (y, y2)):
        assert ks_2samp(mine, its).pvalue > MIN_P_VALUE
    for start, length, side in ((x, w, width), (y, h, height)):
        assert (start >= 0).all()
        assert (start + length <= side).all()


def test_the_paper_s_crop_makes_of_given_draws_what_the_release_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The swap hides how the aspect is drawn from the test above (uniform, not uniform in the logarithm)."""
    rng = np.random.default_rng(0)
    width, height = 640, 480
    for _ in range(300):
        shares = iter(drawn := rng.uniform(size=30))
        monkeypatch.setattr(crops, "_draw_uniform", lambda low, high, s=shares: low + (high - low) * next(s))
        box = PaperCrop(224).draw_box(width, height)
        wanted = None
        for area, ratio, coin in drawn.reshape(10, 3):
            target, aspect = (0.08 + 0.92 * area) * width * height, 3 / 4 + (4 / 3 - 3 / 4) * ratio
            w, h = int(math.sqrt(target * aspect) + 0.5), int(math.sqrt(target / aspect) + 0.5)
            w, h = (h, w) if coin < 0.5 else (w, h)
            if h <= height and w <= width:
                wanted = (w, h)
                break
        assert (box and box[2:]) == wanted


def test_the_paper_s_crop_treats_width_and_height_alike_on_a_square() -> None:
    """U(3/4, 4/3) leans to wide crops; the swap makes up for it. Without it this test fails."""
    torch.manual_seed(0)
    boxes = np.array([PaperCrop(224).draw_box(600, 600) for _ in range(6000)])
    ratio = np.log(boxes[:, 2] / boxes[:, 3])
    assert ks_2samp(ratio[::2], -ratio[1::2]).pvalue > MIN_P_VALUE
    assert binomtest(int((ratio > 0).sum()), int((ratio != 0).sum())).pvalue > MIN_P_VALUE


def test_positions_of_the_paper_s_crop_are_uniform_and_reach_both_ends() -> None:
    torch.manual_seed(0)
    boxes = [PaperCrop(8, min_area=0.9).draw_box(12, 12) for _ in range(12000)]
    counts = Counter(left for box in boxes if box and box[2] == 10 for left in [box[0]])
    assert set(counts) == {0, 1, 2}
    assert chisquare(list(counts.values())).pvalue > MIN_P_VALUE


def test_the_paper_s_crop_resizes_its_box_and_falls_back_to_the_centre() -> None:
    image, crop = make_image(40, 30), PaperCrop(16)
    wanted = F.resized_crop(image, 3, 5, 20, 22, [16, 16], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(to_tensor(crop.apply(image, (5, 3, 22, 20))), F.pil_to_tensor(wanted))
    scaled = F.resize(image, [16], InterpolationMode.BICUBIC, antialias=True)  # 16 x 21
    wanted = F.crop(scaled, 0, 3, 16, 16)  # ceil((21 - 16) / 2) = 3, where torchvision's centre is 2
    assert torch.equal(to_tensor(crop.apply(image, None)), F.pil_to_tensor(wanted))


def test_a_picture_too_narrow_for_any_crop_takes_the_centre() -> None:
    torch.manual_seed(0)
    assert PaperCrop(8).draw_box(1000, 20) is None
    transform = build_train_transform(AugmentSettings(crop="paper_imagenet"), make_preprocessing(8))
    for size in ((1, 1), (1, 3), (2, 500)):
        assert transform(Image.new("RGB", size)).shape == (3, 8, 8)


def test_a_smallest_area_given_by_hand_is_kept() -> None:
    torch.manual_seed(0)
    boxes = [PaperCrop(8, min_area=0.5).draw_box(200, 200) for _ in range(300)]
    shares = [box[2] * box[3] / 40000 for box in boxes if box]
    assert min(shares) > 0.49


def test_the_resized_crop_is_torchvision_s() -> None:
    image = make_image(40, 30)
    ours = build_train_transform(AugmentSettings(crop="random_resized", min_area=0.3), make_preprocessing())
    theirs = v2.RandomResizedCrop(16, (0.3, 1), interpolation=InterpolationMode.BICUBIC, antialias=True)
    for seed in range(5):
        torch.manual_seed(seed)
        view = ours(image)
        torch.manual_seed(seed)
        assert torch.equal(view, F.pil_to_tensor(theirs(image)))
