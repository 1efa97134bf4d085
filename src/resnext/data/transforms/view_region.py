"""Where the network's view lies in the picture: needed to draw class activation maps over the picture itself."""

from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import MAX_ASPECT_RATIO


def compute_view_region(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Compute which part of an upright image the network's square input shows, by the arithmetic of ``EvalView``.

    Args:
        size: Width and height of the upright image.
        preprocessing: How it becomes the network's input.

    Returns:
        Left, top, right and bottom in pixels of the image. With crop mode "pad" it reaches beyond the image.
    """
    width, height = size
    side = preprocessing.image_size
    if preprocessing.crop_mode == "squash":
        return 0.0, 0.0, float(width), float(height)
    if preprocessing.crop_mode == "pad":
        return _compute_padded_region(width, height, side)
    left, top, width, height = _crop_long_side(width, height) if min(size) != preprocessing.resize else (0, 0, *size)
    short = min(width, height)
    longer = int(preprocessing.resize * max(width, height) / short)
    resized = (preprocessing.resize, longer) if width <= height else (longer, preprocessing.resize)
    if short == preprocessing.resize:
        resized = (width, height)
    x0, y0 = (round((whole - side) / 2) if whole != side else 0 for whole in resized)
    x_scale, y_scale = width / resized[0], height / resized[1]
    return (
        left + x0 * x_scale,
        top + y0 * y_scale,
        left + (x0 + side) * x_scale,
        top + (y0 + side) * y_scale,
    )


def _crop_long_side(width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of what ``crop_long_side`` keeps."""
    longest = MAX_ASPECT_RATIO * min(width, height)
    w, h = min(width, longest), min(height, longest)
    return (width - w) // 2, (height - h) // 2, w, h


def _compute_padded_region(width: int, height: int, side: int) -> tuple[float, float, float, float]:
    if (width, height) == (side, side):
        return 0.0, 0.0, float(width), float(height)
    long = max(width, height)
    inner_width, inner_height = max(1, round(width * side / long)), max(1, round(height * side / long))
    x_scale, y_scale = width / inner_width, height / inner_height
    left, top = (side - inner_width) // 2 * x_scale, (side - inner_height) // 2 * y_scale
    return -left, -top, side * x_scale - left, side * y_scale - top
