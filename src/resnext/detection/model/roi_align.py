"""RoIAlign (He et al. 2017) as an embedding bag: equal to torchvision's, faster on CPUs.

Each output cell is the mean of four samples, each interpolated from four pixels: a sum of sixteen pixels with weights
that depend on the box alone. On NHWC maps this is an embedding bag, forward and backward, which adds whole pixels
instead of single channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper, _convert_to_roi_format

from resnext.speed import kernels

SAMPLES_PER_SIDE = 2  # sampling points per side of a cell


class RoiAlign(MultiScaleRoIAlign):
    """torchvision's multi-scale RoIAlign, as embedding bags on CPUs; its own code elsewhere and with RESNEXT_FAST=0."""

    scales: list[float]
    map_levels: LevelMapper

    def __init__(self, names: list[str], size: int, strides: Sequence[int]) -> None:
        """Set up pooling; ``strides`` are in image pixels (torchvision guesses them from the first batch's padding)."""
        super().__init__(names, size, SAMPLES_PER_SIDE)
        self.scales = [1 / stride for stride in strides]
        self.map_levels = LevelMapper(*(stride.bit_length() - 1 for stride in (strides[0], strides[-1])))

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool float32 [regions, C, size, size] from named maps [B, C, h, w] and boxes [n, 4] per image."""
        maps = [x[name] for name in self.featmap_names]
        if maps[0].device.type != "cpu" or not kernels.is_fast_enabled():
            pooled: Tensor = super().forward(x, boxes, image_shapes)
            return pooled
        levels = self.map_levels(boxes) if len(maps) > 1 else None
        return align_regions(maps, _convert_to_roi_format(boxes), levels, self.scales, self.output_size[0])


def align_regions(maps: list[Tensor], regions: Tensor, levels: Tensor | None, scales: list[float], size: int) -> Tensor:
    """Pool ``regions`` [n, 5] (image index, box), each from the map of its level, to [n, C, size, size] in NHWC.

    ``scales`` are map pixels per image pixel. Computes in float32, or in the maps' type where it is wider.
    """
    dtype = torch.promote_types(maps[0].dtype, torch.float32)
    level = torch.zeros(len(regions), dtype=torch.int64) if levels is None else levels
    level = level.clamp(0, len(maps) - 1)  # a box with NaN could have any level
    sizes = torch.tensor([[m.shape[2], m.shape[3], 0] for m in maps])
    counts = torch.tensor([m.shape[0] * m.shape[2] * m.shape[3] for m in maps])
    sizes[:, 2] = counts.cumsum(0) - counts  # number of pixels in the maps before this one
    heights, widths, before = sizes[level].unbind(1)
    boxes = regions[:, 1:] * torch.tensor(scales, dtype=regions.dtype)[level, None]
    ys, y_weights = _compute_samples(boxes[:, 1], boxes[:, 3], heights, size)
    xs, x_weights = _compute_samples(boxes[:, 0], boxes[:, 2], widths, size)
    first = before + regions[:, 0].long() * heights * widths
    rows = first.view(-1, 1, 1, 1) + ys * widths.view(-1, 1, 1, 1)  # [n, size, samples, 2]
    indices = rows[:, :, None, :, None, :, None] + xs[:, None, :, None, :, None, :]
    weights = y_weights[:, :, None, :, None, :, None] * x_weights[:, None, :, None, :, None, :] / SAMPLES_PER_SIDE**2
    pixels = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]).to(dtype) for m in maps])
    bag = 4 * SAMPLES_PER_SIDE**2
    weights = weights.view(-1, bag).to(dtype)
    cells = F.embedding_bag(indices.view(-1, bag), pixels, mode="sum", per_sample_weights=weights)
    return cells.view(len(regions), size, size, pixels.shape[1]).permute(0, 3, 1, 2)


def _compute_samples(low: Tensor, high: Tensor, sides: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Compute, along one axis, the two pixels next to each sample [n, size, samples, 2] and their weights.

    As in torchvision, a box is at least one pixel long, and samples more than a pixel outside the map are 0.
    """
    cell = (high - low).clamp(min=1.0)[:, None, None] / size
    cells = torch.arange(size, dtype=low.dtype)[:, None]
    inner = (torch.arange(SAMPLES_PER_SIDE, dtype=low.dtype) + 0.5) / SAMPLES_PER_SIDE
    at = low[:, None, None] + cells * cell + inner * cell
    last = (sides - 1)[:, None, None]
    inside = (at >= -1.0) & (at <= sides[:, None, None])
    at = torch.minimum(torch.where(inside, at, 0.0).clamp(min=0.0), last)
    below = torch.minimum(at.long(), last)
    share = at - below
    pixels = torch.stack([below, torch.minimum(below + 1, last)], -1)
    return pixels, torch.stack([1 - share, share], -1) * inside[..., None]
