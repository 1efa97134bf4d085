"""Draw boxes with class names and scores on an image, legible at any image size.

``torchvision.utils.draw_bounding_boxes`` writes every label into the upper left corner of its box, so that labels of
neighboring boxes cover each other, and draws lines without a contrasting border.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resnext.plotting import clean_text

CLASS_COLORS = (  # after Okabe and Ito, and Tol: distinct for color-blind readers; repeated for further classes
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442"),
    *("#882255", "#44aa99", "#999933", "#332288", "#ddcc77"),
)
MIN_SIDE = 480  # pixels of the longer side; smaller images are enlarged so that names fit
MAX_NAME_LETTERS = 24

Rectangle = tuple[float, float, float, float]


def pick_class_color(label: int) -> str:
    """Return the color of a class, the same in all plots."""
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def draw_detections(
    image: Image.Image, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str]
) -> Image.Image:
    """Draw boxes [n, 4] (x1, y1, x2, y2) with class and score on a copy of ``image``, the highest scores on top.

    An image whose longer side is below 480 pixels is enlarged by an integer factor.
    """
    factor = -(-MIN_SIDE // max(image.size)) if max(image.size) < MIN_SIDE else 1
    size = (image.width * factor, image.height * factor)
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = _Pen.from_size(canvas.size)
    draw = ImageDraw.Draw(canvas)
    order = np.argsort(-scores, kind="stable")
    for i in order[::-1]:
        _draw_outline(draw, tuple((boxes[i] * factor).tolist()), pick_class_color(int(labels[i])), pen)
    placed: list[Rectangle] = []
    for i in order:
        score = f"{scores[i]:.2f}" if scores[i] < 0.995 else "1.0"
        text = f"{clean_text(classes[int(labels[i])], MAX_NAME_LETTERS)} {score}"
        _draw_label(draw, tuple((boxes[i] * factor).tolist()), text, pick_class_color(int(labels[i])), pen, placed)
    return canvas


class _Pen(NamedTuple):
    """Line width, font and padding for a canvas."""

    line: int  # pixels
    font: ImageFont.FreeTypeFont
    pad: int
    size: tuple[int, int]

    @classmethod
    def from_size(cls, size: tuple[int, int]) -> "_Pen":
        typical = float(np.sqrt(size[0] * size[1]))
        letters = int(np.clip(typical / 42, 11, 72))
        return cls(max(2, round(typical / 280)), _load_font(letters), max(2, letters // 5), size)


@cache
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), size)


def _draw_outline(draw: ImageDraw.ImageDraw, box: Rectangle, colour: str, pen: _Pen) -> None:
    """Draw a rectangle in the class's color with thin dark borders, visible on any background."""
    x1, y1, x2, y2 = box
    edge = max(1, pen.line // 3)
    x2, y2 = max(x1, x2), max(y1, y2)
    draw.rectangle((x1 - edge, y1 - edge, x2 + edge, y2 + edge), outline="#1f2937", width=pen.line + 2 * edge)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=pen.line)


def _draw_label(
    draw: ImageDraw.ImageDraw, box: Rectangle, text: str, colour: str, pen: _Pen, placed: list[Rectangle]
) -> None:
    """Draw the label on a patch of the class's color, where it hides least of other labels."""
    _, _, right, bottom = pen.font.getbbox(text, anchor="lt")
    width, height = round(right) + 2 * pen.pad, round(bottom) + 2 * pen.pad
    x, y = map(round, _place_label(box, width, height, pen, placed))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + pen.pad, y + pen.pad), text, fill=_pick_text_color(colour), font=pen.font, anchor="lt")
    placed.append((x, y, x + width, y + height))


def _place_label(
    box: Rectangle, width: float, height: float, pen: _Pen, placed: Sequence[Rectangle]
) -> tuple[float, float]:
    """Place a label above, inside or below the box, left, right or centered: the first free place, or the freest."""
    x1, y1, x2, y2 = box
    wide, high = pen.size
    edges = (y1 - height - 1, y1 + pen.line, y2 - height - pen.line, y2 + 1)
    spots = [(x, y) for y in edges for x in (x1, x2 - width, (x1 + x2 - width) / 2)]
    right, bottom = max(0, wide - 1 - width), max(0, high - 1 - height)
    inside = [(float(np.clip(x, 0, right)), float(np.clip(y, 0, bottom))) for x, y in spots]
    hidden = [sum(_compute_overlap((x, y, x + width, y + height), other) for other in placed) for x, y in inside]
    moved = [abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in zip(spots, inside, strict=True)]
    best = min(range(len(inside)), key=lambda i: (hidden[i] > 0, hidden[i], moved[i] > height / 2, i))
    return inside[best]


def _compute_overlap(a: Rectangle, b: Rectangle) -> float:
    """Compute the common area of two rectangles in pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _pick_text_color(colour: str) -> str:
    """Choose dark or white text, whichever has more contrast by WCAG luminance."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return "#111827" if (luminance + 0.05) / 0.058 > 1.05 / (luminance + 0.05) else "#ffffff"
