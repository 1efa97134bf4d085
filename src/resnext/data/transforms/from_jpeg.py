"""The training transform applied to JPEG files directly, with the fast decoder.

For the same seed its random draws equal those of the transform of decoded images: the same crops, flips and colours.
Pixels may differ slightly; docs/speed.md gives the bound and tests/data/transforms/test_from_jpeg.py checks it.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import MAX_PIXELS, read_header
from resnext.data.decode.turbojpeg import CropSpec, JpegHeader, load_decoder
from resnext.data.transforms.color import ColorJitter, Lighting
from resnext.data.transforms.crops import PaperCrop


@dataclass(frozen=True)
class JpegTransform:
    """Transforms a decoded image with ``image_transform``, or a JPEG file with the fast decoder to nearly the same."""

    image_transform: Callable[[Image.Image], Tensor]  # of decoded images; draws crop, colours, flip, erasing in order
    size: int
    bicubic: bool
    paper_crop: PaperCrop | None  # None: torchvision's RandomResizedCrop
    min_area: float
    jitter: ColorJitter | None
    lighting: Lighting | None
    flip: float
    erasing: v2.RandomErasing | None
    exif: bool

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the result: float32 if jitter or lighting run, else uint8."""
        return torch.float32 if self.jitter or self.lighting else torch.uint8

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform a decoded image."""
        return self.image_transform(image)

    def decode_into(self, file: bytes, out: Tensor) -> bool:
        """Transform a JPEG file into ``out`` [3, S, S] of ``dtype``, drawing from torch's global generator.

        Returns False if the file must be decoded by Pillow instead; the caller must then seed the generator again.
        """
        library = load_decoder()
        if library is None:
            return False
        header = library.read_header(file)
        if not header.is_plain or header.width * header.height > MAX_PIXELS:
            return False
        if header.has_metadata and not self._is_upright(file, header):
            return False
        look = self.draw_spec(header)
        if look is None or not library.decode_crop(file, look, out):
            return False
        if self.erasing is not None:
            erased = self.erasing(out)
            if erased is not out:
                out.copy_(erased)
        return True

    def _is_upright(self, file: bytes, header: JpegHeader) -> bool:
        """Whether Pillow opens the file as a JPEG of this size that need not be rotated."""
        try:
            kind, size, orientation = read_header(io.BytesIO(file))
        except BadImageError:
            return False
        return kind == "JPEG" and size == (header.width, header.height) and (orientation == 1 or not self.exif)

    def draw_spec(self, header: JpegHeader) -> CropSpec | None:
        """Draw the crop and colours in the order of ``image_transform``; None if it would take the centre instead."""
        width, height = header.width, header.height
        crop = self.paper_crop
        box = crop.draw_box(width, height) if crop else draw_resized_box(width, height, self.min_area)
        if box is None:
            return None
        steps = self.jitter.draw_steps() if self.jitter else ()
        shift = self.lighting.draw_shift().tolist() if self.lighting else (0.0, 0.0, 0.0)
        flip = self.flip > 0 and bool(torch.rand(1) < self.flip)
        return CropSpec(box, self.bicubic, flip, steps, shift)


def draw_resized_box(width: int, height: int, min_area: float) -> tuple[int, int, int, int]:
    """Draw left, top, width and height as torchvision's RandomResizedCrop does from torch's global generator."""
    shape = torch.empty((1, height, width), device="meta")
    top, left, h, w = v2.RandomResizedCrop.get_params(shape, scale=[min_area, 1.0], ratio=[3 / 4, 4 / 3])
    return left, top, w, h
