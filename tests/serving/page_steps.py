"""What tests of the page do again and again: write a picture, give it to the page, wait, read the canvas."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from tests.serving.page_stub import Model

DETECTOR = Model("cells", task="detection", names=("RBC", "WBC", "Platelets"), classes=3, has_cam=False)
PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}


def write_picture(
    path: Path, size: tuple[int, int] = (640, 480), at: tuple[int, int] = (150, 70), **options: Any
) -> Path:
    """Write a dark picture with one bright square of 24 pixels around ``at``; ``upright=False`` stores it as EXIF 6."""
    image = Image.new("RGB", size, (40, 44, 60))
    ImageDraw.Draw(image).rectangle((at[0] - 12, at[1] - 12, at[0] + 11, at[1] + 11), fill=(255, 250, 240))
    if options.get("upright", True):
        image.save(path, quality=95)
        return path
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    image.rotate(90, expand=True).save(path, quality=95, exif=exif)
    assert ImageOps.exif_transpose(Image.open(path)).size == size
    return path


def choose(page: Any, *paths: Path) -> None:
    page.set_input_files("#files", list(paths))


def wait_for_answer(page: Any, name: str = "tabby") -> None:
    from playwright.sync_api import expect

    expect(page.locator(".verdict").first).to_contain_text(name)


def read_canvas(page: Any, selector: str = ".frame canvas") -> np.ndarray:
    """Return the canvas as uint8 [height, width, 4]."""
    url = page.eval_on_selector(selector, "canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))
