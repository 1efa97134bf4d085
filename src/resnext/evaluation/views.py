"""Views: which crops of an image a network sees, and how the logits of several views are averaged.

``center`` is one crop. ``ten-crop`` is the centre and the corners of the image and of its mirror image. ``dense`` is
the whole image at several scales, with the classifier applied at every position of the last feature map (Section 5.1:
"multi-scale dense testing"; He et al. 2016). ``+flip`` adds the mirror image of each view.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from PIL import Image, ImageOps
from torch import Tensor

from resnext.choices import COMBINE_METHODS, CombineMethod
from resnext.data.preprocessing import MAX_SIDE, Preprocessing
from resnext.data.transforms.crops import to_tensor
from resnext.data.transforms.eval_view import FILTERS, ConvertMode, center_crop, crop_long_side, resize_shorter_side
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.errors import RequestError, did_you_mean

ViewKind = Literal["center", "ten-crop", "dense"]
KINDS: tuple[ViewKind, ...] = get_args(ViewKind)
DEFAULT_SCALES = (224, 256, 384, 480, 640)  # shorter sides in pixels (He et al. 2016, Section 4.1)
MAX_SCALES = 16
MAX_ASPECT_RATIO = 8  # long over short side of an image; longer images are cut for dense views, to bound memory

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of each image and how to average over them. Raises RequestError for invalid values.

    ``combine`` "logits" is the mean of the logits: the release's sum divided by the number of views. It gives the same
    ranking and keeps the loss comparable. "probabilities" is the mean of each view's softmax. All views of one scale
    have the same weight, and so have all scales.
    """

    kind: ViewKind = "center"
    flip: bool = False  # never set for ten-crop, which has mirror images already
    scales: tuple[int, ...] = ()  # only for dense: shorter sides, pixels
    combine: CombineMethod = "logits"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RequestError(f"unknown view {self.kind!r}{did_you_mean(self.kind, KINDS)}")
        if self.combine not in COMBINE_METHODS:
            raise RequestError(
                f"views cannot be combined by {self.combine!r}{did_you_mean(self.combine, COMBINE_METHODS)}"
            )
        if self.kind == "ten-crop" and self.flip:
            raise RequestError("ten-crop already includes mirror images; leave out +flip")
        if self.kind != "dense":
            if self.scales:
                raise RequestError(f"scales belong to the view dense, not to {self.kind}")
            return
        object.__setattr__(self, "scales", tuple(self.scales) or DEFAULT_SCALES)
        if len(self.scales) > MAX_SCALES or len(set(self.scales)) < len(self.scales):
            raise RequestError(f"dense takes up to {MAX_SCALES} different scales, not {_join_scales(self.scales)}")
        for scale in self.scales:
            if not 1 <= scale <= MAX_SIDE:
                raise RequestError(f"a scale is a shorter side of 1 to {MAX_SIDE} pixels, not {scale}")

    @staticmethod
    def parse(text: str, combine: CombineMethod = "logits") -> "Views":
        """Parse a view such as ``center+flip``, ``ten-crop``, ``dense:256,384+flip``: the inverse of ``str``."""
        found = re.fullmatch(r"([^:+]*)(?::([^+]*))?(\+flip)?", text)
        if found is None:
            raise RequestError(
                f"view {text[:80]!r} cannot be read; expected {', '.join(KINDS)}, or for example {EXAMPLE}"
            )
        kind, scales, flip = found.groups()
        if scales is not None and not re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,5})*", scales):
            raise RequestError(
                f"the scales {scales[:80]!r} of a view must be whole numbers separated by commas, as in {EXAMPLE}"
            )
        sides = tuple(map(int, scales.split(","))) if scales else ()
        return Views(kind=cast(ViewKind, kind), flip=flip is not None, scales=sides, combine=combine)

    def __str__(self) -> str:
        scales = f":{_join_scales(self.scales)}" if self.scales else ""
        return self.kind + scales + ("+flip" if self.flip else "")

    @property
    def is_center_crop(self) -> bool:
        """Whether this is the default view: one centre crop."""
        return self.kind == "center" and not self.flip

    @property
    def crops_per_image(self) -> int:
        """Crops of one image in one forward pass."""
        return (10 if self.kind == "ten-crop" else 1) * (2 if self.flip else 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol's entries for the view."""
        return {"view": str(self), "combine": None if self.is_center_crop else self.combine}

    def build_transforms(self, preprocessing: Preprocessing) -> tuple[Transform, ...]:
        """Build one transform per pass over the images: to uint8 [C, S, S], [10, C, S, S], or [C, H, W] per scale.

        Raises RequestError if the view does not go with the preprocessing.
        """
        p = preprocessing
        if self.kind == "center":
            return (build_eval_transform(p),)
        if p.crop_mode != "crop":
            raise RequestError(f"{self.kind} needs weights that crop images, but these {p.crop_mode} them")
        if self.kind == "ten-crop":
            return (partial(crop_ten, preprocessing=p),)
        if min(self.scales) < p.image_size:
            raise RequestError(
                f"scale {min(self.scales)} is smaller than the {p.image_size} pixels the network sees; "
                f"dense needs scales from {p.image_size}"
            )
        return tuple(partial(resize_whole, scale=scale, preprocessing=p) for scale in self.scales)


def resize_preprocessing(preprocessing: Preprocessing, image_size: int | None, resize: int | None) -> Preprocessing:
    """Return the preprocessing at another size. ``image_size`` alone keeps the ratio of crop to resized image.

    Raises RequestError if the crop does not fit, or if images are not cropped.
    """
    p = preprocessing
    if resize is not None and p.crop_mode != "crop":
        raise RequestError(f"--resize {resize} needs weights that crop images, but these {p.crop_mode} them")
    size = p.image_size if image_size is None else image_size
    shorter = round(p.resize * size / p.image_size) if resize is None else resize
    return p if (size, shorter) == (p.image_size, p.resize) else replace(p, image_size=size, resize=shorter)


def without_crop(preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing for images that were cropped before they were stored, without another crop."""
    return replace(preprocessing, resize=preprocessing.image_size)


CENTER = Views()
EXAMPLE = "dense:256,384+flip"


def crop_ten(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Cut ten crops, uint8 [10, C, S, S]: four corners and the centre of the resized image, then of its mirror image.

    Order and rounding are torchvision's ``ten_crop``.
    """
    p = preprocessing
    upright = resize_shorter_side(ConvertMode(p.channels)(image), p.resize, FILTERS[p.interpolation])
    crops = [crop for side in (upright, ImageOps.mirror(upright)) for crop in crop_five(side, p.image_size)]
    return torch.stack([to_tensor(crop) for crop in crops])


def crop_five(image: Image.Image, size: int) -> list[Image.Image]:
    """Crop the upper left, upper right, lower left and lower right corner and the centre, size x size pixels each."""
    width, height = image.size
    corners = [(left, top) for top in (0, height - size) for left in (0, width - size)]
    crops = [image.crop((left, top, left + size, top + size)) for left, top in corners]
    return [*crops, center_crop(image, size)]


def resize_whole(image: Image.Image, scale: int, preprocessing: Preprocessing) -> Tensor:
    """Resize the whole image, or the middle of one longer than MAX_ASPECT_RATIO, to a shorter side of ``scale``."""
    image = crop_long_side(ConvertMode(preprocessing.channels)(image), MAX_ASPECT_RATIO)
    return to_tensor(resize_shorter_side(image, scale, FILTERS[preprocessing.interpolation]))


def keep_whole(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return the whole image, uint8 [C, H, W], for a model that resizes and crops itself."""
    return to_tensor(ConvertMode(preprocessing.channels)(image))


def average_logits(logits: Tensor, combine: CombineMethod) -> Tensor:
    """Average logits float64 [B, n, K] over n views to [B, K]: the mean of logits, or the log of mean probabilities.

    The latter are logits too: their softmax is the mean probabilities. A single view is returned unchanged. Values that
    are not finite become NaN, so that averaging cannot hide them.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    clean = torch.where(torch.isfinite(logits), logits, torch.nan)
    if combine == "logits":
        return clean.mean(dim=1)
    return torch.logsumexp(torch.log_softmax(clean, dim=2), dim=1) - math.log(logits.shape[1])


def _join_scales(scales: tuple[int, ...]) -> str:
    return ",".join(map(str, scales))
