"""RoIAlign as bags of pixels against torchvision's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from resnext.detection.model.roi_align import RoiAlign, align_regions

SIZE = (96, 128)  # of the images
STRIDES = (4, 8, 16)  # of the maps


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast paths are off in other tests."""
    monkeypatch.setenv("RESNEXT_FAST", "1")


def pyramid(images: int, dtype: torch.dtype = torch.float64, levels: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        str(i): torch.randn(images, 5, SIZE[0] // 4 >> i, SIZE[1] // 4 >> i, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for i in range(levels)
    }


def boxes_of(count: int, seed: int = 0) -> Tensor:
    """Boxes of all sizes, inside the image, across its edge and far outside."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 180 - 30
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 3 * 150
    return torch.cat([corner, corner + side], 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(("levels", "size"), [(3, 7), (1, 14)])
def test_regions_and_gradients_are_torchvisions(levels: int, size: int, layout: torch.memory_format) -> None:
    boxes = [boxes_of(40), boxes_of(0), boxes_of(17, 1)]
    names = [str(i) for i in range(levels)]
    found = []
    for pool in (MultiScaleRoIAlign(names, size, 2), RoiAlign(names, size, STRIDES[:levels])):
        drawn = pyramid(3, levels=levels)
        maps = {k: m.detach().contiguous(memory_format=layout).requires_grad_() for k, m in drawn.items()}
        y = pool(maps, boxes, [SIZE] * 3)
        (torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape) * y).sum().backward()
        found.append((y.detach(), [m.grad for m in maps.values()]))
    (expected, wanted), (y, gradients) = found
    assert y.shape == (57, 5, size, size)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


side = st.floats(-60, 200, allow_nan=False, width=32)


@settings(max_examples=200)
@given(st.lists(st.tuples(side, side, side, side), min_size=1, max_size=4), st.sampled_from([0.25, 1.0, 1 / 16]))
def test_any_box_at_all_reads_what_torchvision_reads(boxes: list[tuple[float, ...]], scale: float) -> None:
    image = torch.randn(1, 2, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    regions = torch.cat([torch.zeros(len(boxes), 1), torch.tensor(boxes)], 1).double()
    expected = roi_align(image, regions, 3, scale, 2)
    torch.testing.assert_close(align_regions([image], regions, None, [scale], 3), expected, rtol=1e-9, atol=1e-9)


def test_without_regions_there_is_nothing_and_the_gradient_is_zero() -> None:
    maps = pyramid(1)
    y = RoiAlign(list(maps), 7, STRIDES)(maps, [boxes_of(0)], [SIZE])
    assert y.shape == (0, 5, 7, 7)
    y.sum().backward()
    assert all(m.grad is not None and not m.grad.any() for m in maps.values())


def test_what_is_no_number_reads_zero_and_no_foreign_memory() -> None:
    maps = pyramid(1)
    nothing = torch.tensor([[float("nan")] * 4, [float("inf")] * 4, [-float("inf"), 0, float("inf"), 9]])
    y = RoiAlign(list(maps), 7, STRIDES)(maps, [nothing.double()], [SIZE])
    assert not y.isnan().any()


def test_bf16_maps_are_added_up_in_float32() -> None:
    maps = pyramid(2, torch.bfloat16)
    boxes = [boxes_of(9).float(), boxes_of(9, 1).float()]
    with torch.autocast("cpu", torch.bfloat16):
        y = RoiAlign(list(maps), 7, STRIDES)(maps, boxes, [SIZE] * 2)
    wide = {name: m.detach().float() for name, m in maps.items()}
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, MultiScaleRoIAlign(list(maps), 7, 2)(wide, boxes, [SIZE] * 2))


def test_one_switch_leaves_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_FAST", "0")
    monkeypatch.setattr("resnext.detection.model.roi_align.align_regions", None)
    maps = pyramid(1)
    assert RoiAlign(list(maps), 7, STRIDES)(maps, [boxes_of(3)], [SIZE]).shape == (3, 5, 7, 7)
