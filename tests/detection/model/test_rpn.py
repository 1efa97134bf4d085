"""The RPN's loss where it samples: torchvision's numbers and gradients."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork, permute_and_flatten

from resnext import Architecture
from resnext.detection.model.faster_rcnn import FasterRcnn, build_detector
from resnext.detection.model.rpn import Rpn, locate_anchors
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings

TINY = Architecture.parse("resnext11_2x4d", stem="imagenet", blocks=(1, 1, 1), base_channels=8)
TARGETS = [
    {"boxes": torch.tensor([[10.0, 20, 60, 80], [30, 30, 60, 60]]).double(), "labels": torch.tensor([0, 1])},
    {"boxes": torch.zeros(0, 4).double(), "labels": torch.zeros(0, dtype=torch.long)},
]


def learnt(model: FasterRcnn, images: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses, and the gradient of every parameter."""
    torch.manual_seed(0)
    losses = model.compute_losses(images, TARGETS)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("layout", ["fpn", "c4"])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_losses_and_gradients_are_torchvisions(
    layout: str, memory: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DetectorSettings(layout=layout, fpn_channels=16, head_channels=32)
    model = build_detector(TINY, settings, ("a", "b"), DetectPreprocessing()).double().to(memory_format=memory)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, h, w, generator=generator, dtype=torch.float64) for h, w in ((90, 130), (120, 70))]
    monkeypatch.setenv("RESNEXT_FAST", "1")
    ours, gradients = learnt(copy.deepcopy(model), images)
    monkeypatch.setattr(Rpn, "forward", RegionProposalNetwork.forward)
    theirs, expected = learnt(copy.deepcopy(model), images)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-11 * scale, msg=name)


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    st.integers(1, 4),
)
def test_anchors_are_found_where_torchvision_puts_them(images: int, sizes: list[tuple[int, int]], kinds: int) -> None:
    """Each place's number goes through torchvision's own flattening."""
    flat = []
    for level, (height, width) in enumerate(sizes):
        shape = (images, kinds, height, width)
        numbers = torch.arange(images * kinds * height * width).view(shape) + 1000 * level
        flat.append(permute_and_flatten(numbers, images, kinds, 1, height, width))
    expected = torch.cat(flat, dim=1).flatten()
    found = locate_anchors(torch.arange(len(expected)), sizes, kinds)
    heights, widths = torch.tensor(sizes)[found.level].unbind(1)
    image = found.place // (heights * widths)
    assert torch.equal(found.place, (image * heights + found.row) * widths + found.column)
    number = ((image * kinds + found.kind) * heights + found.row) * widths + found.column + 1000 * found.level
    assert torch.equal(number, expected)
