"""The region proposal network: torchvision's, with coordinates in float32 and a sparse loss.

The loss samples a few hundred of an image's hundred thousand anchors, and proposals take no gradient. So the head runs
over whole maps without gradient, then again with gradient on the sampled anchors alone. The loss is the same, but the
backward pass does not cover whole maps and their activations are not kept.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from resnext.speed import kernels

SMOOTH_L1_BETA = 1 / 9  # of the smooth L1 loss of box offsets, as in torchvision


def widen_to_float32(value: Tensor) -> Tensor:
    """Convert to float32, or keep a wider type."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


class Float32Anchors(AnchorGenerator):
    """torchvision's anchors, always in float32: bf16 cannot represent pixel coordinates above 256 exactly."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Compute the anchors [n, 4] of each image, float32."""
        plain = [torch.empty(map_.shape[-2:], device=map_.device) for map_ in feature_maps]
        return list(super().forward(image_list, plain))


class AnchorLocations(NamedTuple):
    """Locations of anchors of a batch: map, cell, and number of the anchor within the cell."""

    level: Tensor  # int64 [n]: index of the map
    place: Tensor  # int64 [n]: flat index of image, row and column in the map
    row: Tensor  # int64 [n]
    column: Tensor  # int64 [n]
    kind: Tensor  # int64 [n]: number of the anchor (size and ratio) within the cell


class SparseRpnHead(RPNHead):
    """torchvision's RPN head with float32 outputs, which can also be computed at single anchors only."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute objectness scores and box offsets of each map, float32."""
        scores, offsets = super().forward(x)
        return [widen_to_float32(value) for value in scores], [widen_to_float32(value) for value in offsets]

    def predict_at(self, maps: list[Tensor], sampled: AnchorLocations) -> tuple[Tensor, Tensor]:
        """Compute scores [n] and offsets [n, 4] of the ``sampled`` anchors, float32."""
        conv = self.conv[0][0]
        patches = self._gather_patches(maps, sampled)
        features = F.relu(F.linear(patches, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias))
        scores = F.linear(features, self.cls_logits.weight.flatten(1), self.cls_logits.bias)
        offsets = F.linear(features, self.bbox_pred.weight.flatten(1), self.bbox_pred.bias)
        each = torch.arange(len(patches), device=patches.device)
        offsets = offsets.view(len(patches), -1, 4)
        return widen_to_float32(scores[each, sampled.kind]), widen_to_float32(offsets[each, sampled.kind])

    def _gather_patches(self, maps: list[Tensor], sampled: AnchorLocations) -> Tensor:
        """Gather the 3x3 cells around each anchor's cell, zero outside the map: [n, 9 * channels]."""
        step = torch.arange(-1, 2, device=sampled.row.device)
        down, right = (value.flatten() for value in torch.meshgrid(step, step, indexing="ij"))
        order, parts = [], []
        for level, map_ in enumerate(maps):
            here = (sampled.level == level).nonzero().flatten()
            height, width = map_.shape[2:]
            row, column = sampled.row[here, None] + down, sampled.column[here, None] + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = torch.where(inside, sampled.place[here, None] + down * width + right, 0)
            pixels = map_.permute(0, 2, 3, 1).reshape(-1, map_.shape[1])
            parts.append(F.embedding(place, pixels) * inside[..., None])
            order.append(here)
        patches = torch.cat(parts).flatten(1)
        return patches[torch.cat(order).argsort()]


class Rpn(RegionProposalNetwork):
    """torchvision's RPN, which also gives proposal scores, and on request training's proposal counts in eval mode."""

    use_training_counts = False

    def pre_nms_top_n(self) -> int:
        """Return the number of proposals kept per map before NMS."""
        return int(self._pre_nms_top_n["training" if self.training or self.use_training_counts else "testing"])

    def post_nms_top_n(self) -> int:
        """Return the number of proposals kept per image after NMS."""
        return int(self._post_nms_top_n["training" if self.training or self.use_training_counts else "testing"])

    def propose(self, images: ImageList, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute each image's proposals, highest score first, and their scores."""
        maps = list(features.values())
        return self._select_proposals(images, self.anchor_generator(images, maps), *self.head(maps))

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Compute each image's proposals, best first, and in training with ``targets`` the two losses."""
        if not self.training or targets is None or not kernels.is_fast_enabled():
            boxes, losses = super().forward(images, features, targets)
            return list(boxes), dict(losses)
        maps = list(features.values())
        with torch.no_grad():
            scores, offsets = self.head(maps)
            sizes = [(score.shape[2], score.shape[3]) for score in scores]
            kinds = scores[0].shape[1]
            anchors = self.anchor_generator(images, maps)
            boxes, _ = self._select_proposals(images, anchors, scores, offsets)
            labels, matched = self.assign_targets_to_anchors(anchors, targets)
            wanted = torch.cat(self.box_coder.encode(matched, anchors))
            positive, negative = (torch.where(torch.cat(one))[0] for one in self.fg_bg_sampler(labels))
        chosen = torch.cat([positive, negative])
        scores_at, offsets_at = self.head.predict_at(maps, locate_anchors(chosen, sizes, kinds))
        many = len(positive)
        box = F.smooth_l1_loss(offsets_at[:many], wanted[positive], beta=SMOOTH_L1_BETA, reduction="sum") / len(chosen)
        objectness = F.binary_cross_entropy_with_logits(scores_at, torch.cat(labels)[chosen])
        return boxes, {"loss_objectness": objectness, "loss_rpn_box_reg": box}

    def _select_proposals(
        self, images: ImageList, anchors: list[Tensor], scores: list[Tensor], offsets: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Decode the head's outputs and keep the best proposals of each image, with their scores."""
        counts = [score[0].numel() for score in scores]
        scores_flat, offsets_flat = concat_box_prediction_layers(scores, offsets)
        boxes = self.box_coder.decode(offsets_flat.detach(), anchors).view(len(anchors), -1, 4)
        best = self.filter_proposals(boxes, scores_flat, images.image_sizes, counts)
        return list(best[0]), list(best[1])


def locate_anchors(index: Tensor, sizes: list[tuple[int, int]], kinds: int) -> AnchorLocations:
    """Locate anchors by flat index (image, map, row, column, anchor in the cell) on maps of ``sizes``."""
    counts = torch.tensor([height * width * kinds for height, width in sizes], device=index.device)
    ends = counts.cumsum(0)
    image, within = index // ends[-1], index % ends[-1]
    level = torch.bucketize(within, ends, right=True)
    cell, kind = (within - (ends - counts)[level]) // kinds, within % kinds
    heights, widths = torch.tensor(sizes, device=index.device).unbind(1)
    height, width = heights[level], widths[level]
    return AnchorLocations(level, image * height * width + cell, cell // width, cell % width, kind)
