"""Make JPEG files of every kind, and crop them with Pillow."""

import io

import numpy as np
from PIL import Image

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
FILTERS = {True: Image.Resampling.BICUBIC, False: Image.Resampling.BILINEAR}


def make_scene(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth colours with edges and noise, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = []
    for _ in range(3):
        a, b, c = rng.uniform(0.02, 0.4, 3)
        plane = 128 + 70 * np.sin(a * x + 3 * c) + 60 * np.cos(b * y + c * x)
        planes.append(plane + 60 * (((x * a + y * b) % 3) < 1) + rng.normal(0, 8, plane.shape))
    pixels = np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode_jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def crop_with_pillow(file: bytes, box: tuple[int, int, int, int], size: int, bicubic: bool, flip: bool) -> np.ndarray:
    """Crop as the transforms of decoded images do. Returns int [3, size, size]."""
    left, top, width, height = box
    image = Image.open(io.BytesIO(file)).convert("RGB").crop((left, top, left + width, top + height))
    pixels = np.asarray(image.resize((size, size), FILTERS[bicubic])).astype(int)
    return (pixels[:, ::-1] if flip else pixels).transpose(2, 0, 1)
