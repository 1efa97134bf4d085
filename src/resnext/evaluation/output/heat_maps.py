"""Draw where a network looks: its class activation maps over the upright image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from resnext import plotting
from resnext.data.decode.pillow import read_image
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.view_region import compute_view_region
from resnext.evaluation.predict import Prediction
from resnext.plotting import BLUE, MUTED, clean_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "inferno"  # matplotlib's name; from dark to bright, also in grey and for the colour-blind
OPACITY = 0.72  # of the brightest part of a map
MAX_PIXELS = 900  # side of a drawn image; larger images are drawn smaller
OUTSIDE = 0.35  # brightness of what the network does not see
PANEL = 3.1  # inches
CAPTION_COLUMNS = 40


def draw_explanations(predictions: Sequence[Prediction], places: Sequence[Path], preprocessing: Preprocessing) -> int:
    """Draw the maps of every readable image into a PNG file at its place; return how many were drawn.

    Raises WorkError for a file that cannot be written.
    """
    count = 0
    for prediction, place in zip(predictions, places, strict=True):
        if prediction.error is None and prediction.path is not None and prediction.maps is not None:
            image = read_image(prediction.path, preprocessing.channels, preprocessing.exif)
            plotting.save_figure(plot_explanation(prediction, image, preprocessing), place)
            count += 1
    return count


def plot_explanation(prediction: Prediction, image: Image.Image, preprocessing: Preprocessing) -> "Figure":
    """Plot the upright image, and beside it the map of each class of ``prediction.maps`` over it.

    Maps are drawn as Grad-CAM defines them, without their negative part; all share one scale, so that a class with less
    evidence is paler. What the network did not see is darker.
    """
    assert prediction.maps is not None
    small = shrink(image, MAX_PIXELS)
    scale = small.width / image.width
    left, top, right, bottom = (scale * edge for edge in compute_view_region(image.size, preprocessing))
    region = (left, top, right, bottom)
    shown = darken_outside(np.asarray(small.convert("RGB")), region)
    highest = max(float(prediction.maps.max()), 1e-12)
    panels = [shown, *(blend_map(shown, np.maximum(one, 0) / highest, region) for one in prediction.maps)]
    captions = [[("image", MUTED)]]
    for name, share in prediction.top(len(prediction.maps)):
        captions.append([(clean_text(name, CAPTION_COLUMNS), BLUE), (f"probability {100 * share:.1f} %", MUTED)])
    return _plot_panels(panels, captions, str(prediction.path or "image"))


def blend_map(pixels: np.ndarray, heat: np.ndarray, region: tuple[float, float, float, float]) -> np.ndarray:
    """Blend a map over an image: uint8 [H, W, 3] and values from 0 to 1 [h, w] over ``region``; uint8 [H, W, 3].

    ``region`` is left, top, right and bottom in pixels of the image; it may reach beyond it.
    """
    import matplotlib

    height, width = pixels.shape[:2]
    strength = resample_map(heat, (width, height), region)
    colours = matplotlib.colormaps[COLOURS](strength)[..., :3] * 255
    opacity = OPACITY * strength[..., None] ** 0.75
    blended: np.ndarray = np.rint(pixels * (1 - opacity) + colours * opacity).astype(np.uint8)
    return blended


def resample_map(heat: np.ndarray, size: tuple[int, int], region: tuple[float, float, float, float]) -> np.ndarray:
    """Resample a map [h, w] over ``region`` to the pixels of an image of ``size`` (width, height); 0 outside."""
    left, top, right, bottom = region
    x = (np.arange(size[0]) + 0.5 - left) / (right - left) * heat.shape[1] - 0.5
    y = (np.arange(size[1]) + 0.5 - top) / (bottom - top) * heat.shape[0] - 0.5
    rows = _interpolate(heat, y)
    sampled: np.ndarray = _interpolate(rows.T, x).T
    inside_x, inside_y = ((at >= -0.5) & (at <= n - 0.5) for at, n in ((x, heat.shape[1]), (y, heat.shape[0])))
    kept: np.ndarray = sampled * inside_x * inside_y[:, None]
    return kept


def _interpolate(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Interpolate the rows of ``values`` linearly at fractional ``positions``, which are clipped to the ends."""
    at = np.clip(positions, 0, len(values) - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(values) - 1)
    share = (at - low)[:, None]
    between: np.ndarray = values[low] * (1 - share) + values[high] * share
    return between


def darken_outside(pixels: np.ndarray, region: tuple[float, float, float, float]) -> np.ndarray:
    """Return the image uint8 [H, W, 3] with everything outside of ``region`` darker and grey."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = (round(edge) for edge in region)
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    out = np.rint(255 * (1 - OUTSIDE) * 0.55 + grey * OUTSIDE).astype(np.uint8)
    rows, columns = slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
    out[rows, columns] = pixels[rows, columns]
    shaded: np.ndarray = out
    return shaded


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Return the image, made smaller if its longer side has more than ``side`` pixels."""
    longest = max(image.size)
    if longest <= side:
        return image
    return image.resize((max(1, image.width * side // longest), max(1, image.height * side // longest)))


def _plot_panels(panels: Sequence[np.ndarray], captions: Sequence[list[tuple[str, str]]], path: str) -> "Figure":
    """Plot images of one size in a row, each with a caption below."""
    ratio = min(2.0, max(0.4, panels[0].shape[0] / panels[0].shape[1]))
    gap, title = 0.18, 0.62
    width, height = gap + len(panels) * (PANEL + gap), title + PANEL * ratio + 0.5
    with plotting.plot_style():
        figure = plotting.create_figure(width, height)
        under = plotting.shorten_path(path, int(width * 13))
        plotting.add_title(figure, "Where the network looks", under, left=gap)
        for number, (pixels, caption) in enumerate(zip(panels, captions, strict=True)):
            x, y = gap + number * (PANEL + gap), height - title - PANEL * ratio
            axes = figure.add_axes((x / width, y / height, PANEL / width, PANEL * ratio / height))
            axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) <= 100 else "antialiased")
            axes.set_anchor("NW")
            plotting.hide_axes(axes)
            plotting.draw_caption(figure, x, y - 0.06, caption, line=0.17, size=8)
    return figure
