"""What tests of the page do again and again: write a picture, give it to the page, wait, read the canvas."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from tests.serving.page_stub import Model

DETECTOR = Model("cells", task="detection", names=("RBC", "WBC", "Platelets"), classes=3, has_cam=False)
EVIL = "<img src=x onerror=window.hacked=1>"
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


def read_canvas(page: Any, panel: int = 0) -> np.ndarray:
    """Return what is drawn over the picture of a panel, as uint8 [height, width, 4]."""
    url = page.locator(".frame canvas").nth(panel).evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))


def find_distance_of_heat(page: Any, panel: int = 0) -> np.ndarray:
    """Measure on the screen how far a heat map's peak is from the only bright object: x, y as shares of the picture."""
    canvas = read_canvas(page, panel).astype(float)
    frame = page.locator(".frame").nth(panel)
    red, green, blue, opacity = np.moveaxis(canvas, 2, 0)
    heat = (red + green - blue) * opacity  # the hot end of the scale is yellow; outline and veil are grey
    ys, xs = np.nonzero(heat >= 0.97 * heat.max())
    peak = np.array([(xs.mean() + 0.5) / canvas.shape[1], (ys.mean() + 0.5) / canvas.shape[0]])
    frame.locator("canvas").evaluate("canvas => (canvas.style.visibility = 'hidden')")
    shot = np.asarray(Image.open(io.BytesIO(frame.screenshot())).convert("L"), dtype=float)
    frame.locator("canvas").evaluate("canvas => (canvas.style.visibility = '')")
    ys, xs = np.nonzero(shot > 200)
    assert len(xs) > 0
    found = np.array([(xs.mean() + 0.5) / shot.shape[1], (ys.mean() + 0.5) / shot.shape[0]])
    return np.abs(peak - found)
