"""Views against torchvision, crops and colour noise against naive readings of their definitions.

Every distribution test draws from a fixed seed, so it gives the same p-value on every run.
"""

import math
import pickle
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest, chisquare, ks_2samp, kstest
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from resnext.data import crops
from resnext.data.augment import eval_transform, to_float, train_transform
from resnext.data.colour import Jitter, Lighting
from resnext.data.crops import PaperCrop, to_tensor
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.settings import AugmentSettings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The release's datasets/imagenet.lua, copied from paper/README 2.1 a second time.
EIGVAL = np.array([0.2175, 0.0188, 0.0045])
EIGVEC = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
UNLIKELY = 1e-3


def expects(size: int = 16, channels: int = 3, **changes: Any) -> Preprocessing:
    said = {"image_size": size, "resize": size, "mean": MEAN[:channels], "std": STD[:channels], "channels": channels}
    return Preprocessing(**(said | changes))


def picture(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


# ---- views


@given(
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    size=st.integers(1, 24),
    more=st.integers(0, 9),
    channels=st.sampled_from((1, 3)),
    interpolation=st.sampled_from(("bicubic", "bilinear")),
)
@settings(max_examples=150, deadline=None)
def test_the_cropped_view_equals_torchvision(
    width: int, height: int, size: int, more: int, channels: int, interpolation: str
) -> None:
    if max(width, height) > 32 * min(width, height):
        return
    image = picture(width, height, channels)
    reference = v2.Compose(
        [
            v2.Resize(size + more, InterpolationMode(interpolation), antialias=True),
            v2.CenterCrop(size),
            v2.PILToTensor(),
        ]
    )
    view = eval_transform(expects(size, channels, resize=size + more, interpolation=interpolation))(image)
    assert view.dtype == torch.uint8
    assert torch.equal(view, reference(image))


@pytest.mark.parametrize(("width", "height"), [(31, 17), (17, 31), (16, 16), (40, 2)])
def test_the_squashed_view_equals_torchvision(width: int, height: int) -> None:
    image = picture(width, height)
    reference = v2.Compose([v2.Resize((16, 16), InterpolationMode.BICUBIC, antialias=True), v2.PILToTensor()])
    assert torch.equal(eval_transform(expects(fit="squash"))(image), reference(image))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "height"), [(32, 20), (20, 32), (8, 5), (16, 16), (16, 10), (2000, 1)])
def test_the_padded_view_shows_the_whole_picture_on_the_mean_colour(width: int, height: int, channels: int) -> None:
    image, p = picture(width, height, channels), expects(16, channels, fit="pad")
    view = eval_transform(p)(image)
    w = max(1, round(16 * width / max(width, height)))
    h = max(1, round(16 * height / max(width, height)))
    assert max(w, h) == 16
    left, top = (16 - w) // 2, (16 - h) // 2
    inner = F.pil_to_tensor(F.resize(image, [h, w], InterpolationMode.BICUBIC, antialias=True))
    wanted = torch.tensor(p.mean_colour, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 16, 16).clone()
    wanted[:, top : top + h, left : left + w] = inner
    assert torch.equal(view, wanted)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_the_right_size_passes_unchanged(fit: str, channels: int) -> None:
    image = picture(16, 16, channels)
    assert torch.equal(eval_transform(expects(16, channels, fit=fit))(image), F.pil_to_tensor(image))


def test_a_picture_of_other_colours_is_converted() -> None:
    image = picture(16, 16)
    assert torch.equal(eval_transform(expects(channels=1))(image), F.pil_to_tensor(image.convert("L")))
    grey = picture(16, 16, 1)
    assert torch.equal(eval_transform(expects())(grey), F.pil_to_tensor(grey).expand(3, -1, -1))


@pytest.mark.parametrize("shape", [(300_000, 1), (1, 300_000)])
@pytest.mark.parametrize(
    "transform", [eval_transform, lambda p: train_transform(AugmentSettings(crop="paper_imagenet"), p)]
)
def test_a_long_strip_does_not_fill_memory(shape: tuple[int, int], transform: Any) -> None:
    """torchvision would resize the whole strip: 1024 x 307,200,000 pixels."""
    view = transform(expects(1024, 1))(Image.new("L", shape, 77))
    assert view.shape == (1, 1024, 1024)
    assert (view == 77).all()


# ---- pad and flip: the paper's CIFAR recipe


@pytest.mark.parametrize("channels", [1, 3])
def test_padded_crops_are_windows_of_the_padded_picture_at_uniform_offsets(channels: int) -> None:
    size, pad, n = 8, 2, 5000
    image, p = picture(size, size, channels), expects(size, channels)
    transform = train_transform(AugmentSettings(crop="pad", pad=pad), p)
    padded = np.empty((channels, size + 2 * pad, size + 2 * pad), np.uint8)
    padded[:] = np.array(p.mean_colour)[:, None, None]
    padded[:, pad : pad + size, pad : pad + size] = F.pil_to_tensor(image).numpy()
    windows = {
        padded[:, y : y + size, x : x + size].tobytes(): (y, x) for y in range(2 * pad + 1) for x in range(2 * pad + 1)
    }
    torch.manual_seed(0)
    seen = Counter(windows[transform(image).numpy().tobytes()] for _ in range(n))
    assert len(seen) == (2 * pad + 1) ** 2
    assert chisquare(list(seen.values())).pvalue > UNLIKELY


def test_the_padding_is_the_release_s_zero_after_normalising() -> None:
    p = expects(8)
    transform = train_transform(AugmentSettings(crop="pad", pad=8), p)
    torch.manual_seed(3)
    views = torch.stack([transform(Image.new("RGB", (8, 8), (255, 0, 255))) for _ in range(50)])
    normal = (views.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    inside = (
        (views == torch.tensor([255, 0, 255], dtype=torch.uint8).view(3, 1, 1)).all(1, keepdim=True).expand_as(views)
    )
    assert not inside.all()
    assert normal[~inside].abs().max() <= 0.5 / 255 / min(STD) + 1e-6  # half a step of 0..255


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_flips_come_as_often_as_asked(probability: float) -> None:
    image = picture(8, 8)
    transform = train_transform(AugmentSettings(flip=probability), expects(8))
    plain = F.pil_to_tensor(image)
    torch.manual_seed(0)
    views = [transform(image) for _ in range(1500)]
    flipped = sum(torch.equal(view, plain.flip(-1)) for view in views)
    assert flipped + sum(torch.equal(view, plain) for view in views) == len(views)
    assert binomtest(flipped, len(views), probability).pvalue > UNLIKELY


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
    crop, image = PaperCrop(224), Image.new("L", (width, height))
    torch.manual_seed(0)
    ours = [crop.make_params([image])["box"] for _ in range(n)]
    theirs = lua_crops(width, height, n, seed=1)
    missed, theirs_missed = (sum(box is None for box in boxes) for boxes in (ours, theirs))
    if missed or theirs_missed:
        assert binomtest(missed, n, max(theirs_missed, 1) / n).pvalue > UNLIKELY
    y, x, h, w = np.array([box for box in ours if box is not None]).T
    y2, x2, h2, w2 = np.array([box for box in theirs if box is not None]).T
    assert ks_2samp(h * w, h2 * w2).pvalue > UNLIKELY
    assert ks_2samp(w / h, w2 / h2).pvalue > UNLIKELY
    assert ks_2samp(x, x2).pvalue > UNLIKELY
    assert ks_2samp(y, y2).pvalue > UNLIKELY
    assert (y >= 0).all()
    assert (x >= 0).all()
    assert (y + h <= height).all()
    assert (x + w <= width).all()


def test_the_paper_s_crop_makes_of_given_draws_what_the_release_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The swap hides how the aspect is drawn from the test above (uniform, not uniform in the logarithm)."""
    rng = np.random.default_rng(0)
    width, height = 640, 480
    for _ in range(300):
        shares = iter(drawn := rng.uniform(size=30))
        monkeypatch.setattr(crops, "_uniform", lambda low, high, s=shares: low + (high - low) * next(s))
        box = PaperCrop(224).make_params([Image.new("L", (width, height))])["box"]
        wanted = None
        for area, ratio, coin in drawn.reshape(10, 3):
            target, aspect = (0.08 + 0.92 * area) * width * height, 3 / 4 + (4 / 3 - 3 / 4) * ratio
            w, h = int(math.sqrt(target * aspect) + 0.5), int(math.sqrt(target / aspect) + 0.5)
            w, h = (h, w) if coin < 0.5 else (w, h)
            if h <= height and w <= width:
                wanted = (h, w)
                break
        assert (box and box[2:]) == wanted


def test_the_paper_s_crop_treats_width_and_height_alike_on_a_square() -> None:
    """U(3/4, 4/3) leans to wide crops; the swap makes up for it. Without it this test fails."""
    crop, image = PaperCrop(224), Image.new("L", (600, 600))
    torch.manual_seed(0)
    boxes = np.array([crop.make_params([image])["box"] for _ in range(6000)])
    ratio = np.log(boxes[:, 3] / boxes[:, 2])
    assert ks_2samp(ratio[::2], -ratio[1::2]).pvalue > UNLIKELY
    assert binomtest(int((ratio > 0).sum()), int((ratio != 0).sum())).pvalue > UNLIKELY


def test_positions_of_the_paper_s_crop_are_uniform_and_reach_both_ends() -> None:
    crop, image = PaperCrop(8, min_area=0.9), Image.new("L", (12, 12))
    torch.manual_seed(0)
    boxes = [crop.make_params([image])["box"] for _ in range(12000)]
    counts = Counter(left for box in boxes if box and box[3] == 10 for left in [box[1]])
    assert set(counts) == {0, 1, 2}
    assert chisquare(list(counts.values())).pvalue > UNLIKELY


def test_the_paper_s_crop_resizes_its_box_and_falls_back_to_the_centre() -> None:
    image, crop = picture(40, 30), PaperCrop(16)
    wanted = F.resized_crop(image, 3, 5, 20, 22, [16, 16], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(to_tensor(crop.transform(image, {"box": (3, 5, 20, 22)})), F.pil_to_tensor(wanted))
    scaled = F.resize(image, [16], InterpolationMode.BICUBIC, antialias=True)  # 16 x 21
    wanted = F.crop(scaled, 0, 3, 16, 16)  # ceil((21 - 16) / 2) = 3, where torchvision's centre is 2
    assert torch.equal(to_tensor(crop.transform(image, {"box": None})), F.pil_to_tensor(wanted))


def test_a_picture_too_narrow_for_any_crop_takes_the_centre() -> None:
    torch.manual_seed(0)
    assert PaperCrop(8).make_params([Image.new("L", (1000, 20))])["box"] is None
    for size in ((1, 1), (1, 3), (2, 500)):
        view = train_transform(AugmentSettings(crop="paper_imagenet"), expects(8))(Image.new("RGB", size))
        assert view.shape == (3, 8, 8)


def test_a_smallest_area_given_by_hand_is_kept() -> None:
    crop, image = PaperCrop(8, min_area=0.5), Image.new("L", (200, 200))
    torch.manual_seed(0)
    boxes = [crop.make_params([image])["box"] for _ in range(300)]
    shares = [box[2] * box[3] / 40000 for box in boxes if box]
    assert min(shares) > 0.49


def test_the_resized_crop_is_torchvision_s() -> None:
    image = picture(40, 30)
    ours = train_transform(AugmentSettings(crop="random_resized", min_area=0.3), expects())
    theirs = v2.RandomResizedCrop(16, (0.3, 1), interpolation=InterpolationMode.BICUBIC, antialias=True)
    for seed in range(5):
        torch.manual_seed(seed)
        view = ours(image)
        torch.manual_seed(seed)
        assert torch.equal(view, F.pil_to_tensor(theirs(image)))


# ---- colour


def naive_jitter(image: np.ndarray, steps: tuple[tuple[str, float], ...]) -> np.ndarray:
    """Float64, [3, H, W], straight from datasets/transforms.lua."""
    for operation, alpha in steps:
        grey = np.repeat((0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])[None], 3, 0)
        target = {
            "brightness": np.zeros_like(image),
            "contrast": np.full_like(image, grey[0].mean()),
            "saturation": grey,
        }[operation]
        image = image * alpha + (1 - alpha) * target
    return image


def test_jitter_equals_the_naive_blends_in_every_order_and_never_clamps() -> None:
    image = np.random.default_rng(0).random((3, 9, 7))
    jitter, outside = Jitter(0.4), 0
    for seed, order in enumerate(permutations(("brightness", "contrast", "saturation"))):
        alphas = np.random.default_rng(seed).uniform(0.6, 1.4, 3)
        steps = tuple(zip(order, alphas.tolist(), strict=True))
        source = torch.from_numpy(image).float()
        kept = source.clone()
        got = jitter.transform(source, {"steps": steps})
        np.testing.assert_allclose(got.numpy(), naive_jitter(image, steps), atol=2e-6)
        assert torch.equal(source, kept)
        outside += int(((got < 0) | (got > 1)).sum())
    assert outside > 0


def test_jitter_draws_all_six_orders_alike_and_uniform_alphas() -> None:
    jitter = Jitter(0.4)
    torch.manual_seed(0)
    draws = [jitter.make_params([])["steps"] for _ in range(4000)]
    orders = Counter(tuple(operation for operation, _ in steps) for steps in draws)
    assert len(orders) == 6
    assert chisquare(list(orders.values())).pvalue > UNLIKELY
    for operation in ("brightness", "contrast", "saturation"):
        alphas = np.array([dict(steps)[operation] for steps in draws])
        assert kstest(alphas, "uniform", args=(0.6, 0.8)).pvalue > UNLIKELY
    three = np.array([[dict(s)[o] for o in ("brightness", "contrast", "saturation")] for s in draws])
    assert np.abs(np.corrcoef(three.T) - np.eye(3)).max() < 0.06


def test_lighting_adds_noise_of_the_pca_s_covariance() -> None:
    lighting = Lighting(0.1)
    torch.manual_seed(0)
    shifts = np.array([lighting.make_params([])["shift"].numpy() for _ in range(20000)])
    wanted = EIGVEC @ np.diag((0.1 * EIGVAL) ** 2) @ EIGVEC.T
    assert np.abs(np.cov(shifts.T) - wanted).max() < 0.03 * np.abs(wanted).max()
    assert np.abs(shifts.mean(0)).max() < 4 * np.sqrt(wanted.max() / len(shifts))
    # Undone, the three draws are independent normals: this sees the two small components too.
    alphas = np.linalg.solve(EIGVEC * EIGVAL, shifts.T)
    for alpha in alphas:
        assert kstest(alpha, "norm", args=(0, 0.1)).pvalue > UNLIKELY
    assert np.abs(np.corrcoef(alphas) - np.eye(3)).max() < 0.03


def test_lighting_adds_one_colour_to_every_pixel() -> None:
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    got = Lighting(0.1).transform(image, {"shift": shift})
    np.testing.assert_allclose(got.numpy(), image.numpy() + shift.numpy()[:, None, None], rtol=1e-6)
    assert got.dtype == torch.float32


def test_the_paper_s_imagenet_recipe_runs_in_the_release_s_order() -> None:
    """Each draw is taken again in the order crop, jitter, lighting, flip, and applied by hand."""
    image, p = picture(60, 45), expects()
    transform = train_transform(AugmentSettings(crop="paper_imagenet", jitter=0.4, lighting=0.1, flip=0.5), p)
    flips = 0
    for seed in range(12):
        torch.manual_seed(seed)
        got = transform(image)
        torch.manual_seed(seed)
        box = PaperCrop(16).make_params([image])["box"]
        steps = Jitter(0.4).make_params([])["steps"]
        shift = Lighting(0.1).make_params([])["shift"].numpy()
        flip = torch.rand(1).item() < 0.5
        assert box is not None
        y, x, h, w = box
        crop = F.resized_crop(image, y, x, h, w, [16, 16], InterpolationMode.BICUBIC, antialias=True)
        wanted = naive_jitter(F.pil_to_tensor(crop).numpy() / 255, steps) + shift[:, None, None]
        wanted = wanted[:, :, ::-1] if flip else wanted
        flips += flip
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), wanted, atol=3e-6)
    assert 0 < flips < 12


# ---- the modern set, and what is refused


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["center", "pad", "random_resized", "paper_imagenet"])
def test_the_modern_set_gives_bytes_of_the_right_shape(crop: str, channels: int) -> None:
    augment = AugmentSettings(crop=crop, flip=0.5, trivial_augment=True, erase=0.5)
    transform = train_transform(augment, expects(16, channels))
    torch.manual_seed(0)
    for seed in range(40):
        view = transform(picture(20, 18, channels, seed))
        assert view.dtype == torch.uint8
        assert view.shape == (channels, 16, 16)


@pytest.mark.parametrize("jitter", [0.0, 0.0001])
def test_erasing_fills_a_box_with_the_mean_colour(jitter: float) -> None:
    p = expects(16)
    transform = train_transform(AugmentSettings(erase=1.0, jitter=jitter), p)
    image = Image.new("RGB", (16, 16), (255, 0, 255))
    colour = torch.tensor(p.mean_colour).view(3, 1, 1)
    torch.manual_seed(0)
    for _ in range(20):
        view = transform(image)
        scaled = (view * 255).round() if jitter else view
        erased = (scaled == colour).all(0)
        rows, columns = erased.any(1).sum(), erased.any(0).sum()
        assert 0 < erased.sum() == rows * columns


def test_trivial_augment_is_torchvision_s_on_the_crop() -> None:
    image = picture(16, 16)
    ours, theirs = train_transform(AugmentSettings(trivial_augment=True), expects()), v2.TrivialAugmentWide()
    for seed in range(20):
        torch.manual_seed(seed)
        view = ours(image)
        torch.manual_seed(seed)
        assert torch.equal(view, F.pil_to_tensor(theirs(image)))


@pytest.mark.parametrize("noise", [{"jitter": 0.4}, {"lighting": 0.1}])
def test_colour_noise_on_grey_images_is_refused(noise: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=f"augment.{next(iter(noise))} works on RGB"):
        train_transform(AugmentSettings(**noise), expects(channels=1))  # type: ignore[arg-type]


def test_an_unknown_crop_is_refused() -> None:
    with pytest.raises(RequestError, match="did you mean 'center'"):
        train_transform(AugmentSettings(crop="centre"), expects())


def test_nothing_on_is_the_evaluation_view() -> None:
    image, p = picture(50, 31), expects(16, resize=20)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(train_transform(AugmentSettings(), p)(image), eval_transform(p)(image))
    assert torch.equal(torch.get_rng_state(), before)


def test_transforms_survive_pickling() -> None:
    full = AugmentSettings(crop="paper_imagenet", flip=0.5, jitter=0.4, lighting=0.1, trivial_augment=True, erase=0.5)
    image = picture(40, 30)
    for transform in (train_transform(full, expects()), eval_transform(expects())):
        torch.manual_seed(4)
        wanted = transform(image)
        torch.manual_seed(4)
        assert torch.equal(pickle.loads(pickle.dumps(transform))(image), wanted)


def test_to_float_divides_by_255() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_float(every), (every.double() / 255).float())
