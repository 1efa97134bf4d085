"""Encoded pictures of every kind that users have, by name; no two show the same."""

import io
from typing import Any

import numpy as np
from PIL import Image

SIZE = (50, 38)


def make_pixels(seed: int, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Return coarse noise, which looks different in every corner."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (5, 6, bands), np.uint8)
    small = Image.fromarray(values if bands > 1 else values[..., 0], mode=None if mode != "CMYK" else "CMYK")
    return small.resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turn(orientation: int) -> Image.Exif:
    """Return the EXIF tags of an orientation."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def make_pictures() -> dict[str, bytes]:
    """Return a file of each kind."""
    first = make_pixels(0)
    deep = np.asarray(make_pixels(7, "L"), np.uint16) * 251 + np.asarray(make_pixels(8, "L"))
    frames = [make_pixels(seed).convert("P", palette=Image.Palette.ADAPTIVE) for seed in (9, 10, 11)]
    transparent = make_pixels(5).convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    return {
        **{f"exif-{n}.jpg": encode(first, "JPEG", exif=turn(n), quality=95) for n in range(1, 9)},
        "exif-6.png": encode(make_pixels(1), "PNG", exif=turn(6)),
        "exif-8.webp": encode(make_pixels(2), "WEBP", exif=turn(8), lossless=True),
        "cmyk.jpg": encode(make_pixels(3, "CMYK"), "JPEG", quality=95),
        "grey.jpg": encode(make_pixels(4, "L"), "JPEG"),
        "grey.png": encode(make_pixels(12, "L"), "PNG"),
        "grey-alpha.png": encode(make_pixels(13, "LA"), "PNG"),
        "bits.png": encode(make_pixels(14, "L").convert("1"), "PNG"),
        "rgba.png": encode(make_pixels(15, "RGBA"), "PNG"),
        "palette.png": encode(make_pixels(16).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "palette-transparent.png": encode(transparent, "PNG", transparency=3),
        "16-bit.png": encode(Image.fromarray(deep.astype(np.uint16)), "PNG"),
        "animated.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.png": encode(make_pixels(17), "PNG", save_all=True, append_images=[make_pixels(18)]),
        "progressive.jpg": encode(make_pixels(19), "JPEG", progressive=True, subsampling=0),
        "photo.webp": encode(make_pixels(20), "WEBP", quality=80),
        "tall.jpg": encode(make_pixels(21, size=(34, 120)), "JPEG"),
        "small.png": encode(make_pixels(22, size=(9, 7)), "PNG"),
    }
