"""Small pictures as data URIs, for pages that need nothing from outside."""

import base64
import io
from typing import NamedTuple

from PIL import Image

SIDE = 176  # pixels of the longer side
SMALL = 64  # pixels; a picture up to this side is shown enlarged, pixel by pixel


class Thumbnail(NamedTuple):
    """A small picture for a page."""

    uri: str
    is_small: bool = False  # whether the original is so small that its pixels should be seen


def make_thumbnail(image: Image.Image) -> Thumbnail:
    """Shrink an image to SIDE pixels and encode it: as JPEG, or as it is in PNG if it is small."""
    file = io.BytesIO()
    is_small = max(image.size) <= SMALL
    if is_small:
        image.save(file, "PNG")
    else:
        image = image.convert("RGB")
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.save(file, "JPEG", quality=82)
    kind = "png" if is_small else "jpeg"
    return Thumbnail(f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode("ascii"), is_small)
