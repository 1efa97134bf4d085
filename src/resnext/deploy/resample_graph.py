"""Pillow's antialiased resizing, pixel for pixel, as matrix products in an exported graph.

Engines resize otherwise than Pillow, each in its own way, but they all multiply matrices. A pass of Pillow's resizing
along one axis is the product with a matrix of filter weights (``precompute_coeffs`` of its Resample.c), which are
rounded to multiples of 2**-22; the sum is rounded and clamped to 0..255 (``normalize_coeffs_8bpc``, ``clip8``). The
graph computes the matrix from the size of the picture. A weight is split into two integers so small that their sums
are exact in float32.
"""

from dataclasses import dataclass
from typing import Generic

import numpy as np
import PIL

from resnext.deploy.graph_builder import Value
from resnext.deploy.graph_expression import Expression

PRECISION = 2**22  # Pillow's weights are multiples of 1 / PRECISION
LOW = 2**8  # a weight is split into coarse * LOW + fine
SUPPORT = {"bilinear": 1, "bicubic": 2}  # half the width of the filters, in pixels of the smaller image


@dataclass(frozen=True)
class AxisView(Generic[Value]):
    """How one axis of a picture becomes one of the view; int64 scalars of the graph, in pixels.

    The ``old`` pixels from ``start`` on are resized to ``new``; of these, the view takes those from ``first`` on. A
    negative ``first`` means padding.
    """

    start: Expression[Value]
    old: Expression[Value]
    new: Expression[Value]
    first: Expression[Value]


def resize_picture(
    picture: Expression[Value], vertical: AxisView[Value], horizontal: AxisView[Value], size: int, filter_name: str
) -> Expression[Value]:
    """Add the resizing of a uint8 picture [1, H, W, C]; return the view [1, C, size, size] in float32, whole numbers.

    Padding is left undefined. The graph has both orders of the passes; that which Pillow does not take gets a picture
    of a single pixel, which costs nothing.
    """
    views = vertical, horizontal
    windows = [_find_window(view, size, SUPPORT[filter_name]) for view in views]
    is_first = _is_vertical_first(vertical, horizontal)
    orders = []
    for is_chosen, is_vertical in ((is_first, True), (is_first.equals(False), False)):
        parts = [(low, high.where(is_chosen, low + 1)) for low, high in windows]
        x = _cut_window(picture, views, parts)
        rows, columns = (_add_weights(views[i], parts[i], size, filter_name, is_transposed=i == 1) for i in (0, 1))
        if is_vertical:
            x = _round_sum(*(weights.matmul(x) for weights in rows))
        x = _round_sum(*(x.matmul(weights) for weights in columns))
        orders.append(x if is_vertical else _round_sum(*(weights.matmul(x) for weights in rows)))
    return orders[0].where(is_first, orders[1])


def _is_vertical_first(vertical: AxisView[Value], horizontal: AxisView[Value]) -> Expression[Value]:
    """Return whether Pillow takes the vertical pass first: if that drops more than twice as many pixels.

    So since Pillow 13 (its pull request 9549); earlier releases always take the horizontal pass first.
    """
    rows, columns = (view.old - view.new for view in (vertical, horizontal))
    if int(PIL.__version__.partition(".")[0]) < 13:
        return rows < rows
    return (columns * 2).maximum(0) < rows


def _cut_window(
    picture: Expression[Value],
    views: tuple[AxisView[Value], AxisView[Value]],
    windows: list[tuple[Expression[Value], Expression[Value]]],
) -> Expression[Value]:
    """Cut the windows of rows and columns out of a uint8 picture [1, H, W, C]; return float32 [1, C, h, w]."""
    to, value = picture.builder, picture.value
    for axis, view, (low, high) in zip((1, 2), views, windows, strict=True):
        value = to.slice(value, (view.start + low).value, (view.start + high).value, axis)
    return Expression(to, to.transpose(value, (0, 3, 1, 2)), np.uint8).cast(np.float32)


def _find_window(view: AxisView[Value], count: int, support: int) -> tuple[Expression[Value], Expression[Value]]:
    """Return start and stop of the ``old`` pixels that the view depends on, or a pixel more at each end."""
    real = view.old.builder.real
    scale = view.old.cast(real) * view.new.cast(real).reciprocal()
    reach = (scale.maximum(1.0) + 1 / support) * support
    low = (view.first.cast(real) * scale).floor().cast(np.int64) - reach.floor().cast(np.int64) - 1
    high = ((view.first + count).cast(real) * scale + reach).floor().cast(np.int64) + 1
    return low.maximum(0).minimum(view.old - 1), high.minimum(view.old)


def _add_weights(
    view: AxisView[Value],
    window: tuple[Expression[Value], Expression[Value]],
    count: int,
    filter_name: str,
    is_transposed: bool,
) -> tuple[Expression[Value], Expression[Value]]:
    """Add the weights of an axis, whole numbers ``coarse * LOW + fine`` in float32 [1, 1, count, window].

    They can be [1, 1, window, count] too; OpenVINO merges a transposition of the weights themselves into the matrix
    product, which then loses the mark that keeps it in float32.
    """
    to = view.old.builder
    low, high = window
    sources = low.constant(np.zeros((1, 1, 1, 1))) + low + Expression(to, to.arange((high - low).value), np.int64)
    places = view.first + view.first.constant(np.arange(count)[None, None, :, None])
    if is_transposed:
        sources, places = (positions.transpose((0, 1, 3, 2)) for positions in (sources, places))
    unit = view.old.maximum(view.new) * 2
    distance = abs((sources * 2 + 1) * view.new - (places * 2 + 1) * view.old)  # exact, in parts of ``unit``
    axis = 2 if is_transposed else 3
    steps = (_add_bilinear if filter_name == "bilinear" else _add_bicubic)(distance, unit, axis)
    coarse = ((steps + LOW // 2) * (1 / LOW)).floor()
    return coarse.cast(np.float32), (coarse * -LOW + steps).cast(np.float32)


def _add_bilinear(distance: Expression[Value], unit: Expression[Value], axis: int) -> Expression[Value]:
    """Add Pillow's bilinear filter at integer distances in parts of ``unit``, as whole multiples of 1 / PRECISION.

    The weights are fractions of integers. Their float32 values are corrected by the exact rests, so that rests of
    exactly one half, frequent where sides are multiples of each other, are rounded as Pillow does. Rests are exact also
    where OpenVINO computes int64 in int32: products that leave it wrap around, and differences are small again.
    """
    real = unit.builder.real
    parts = (unit - distance).maximum(0)
    total = parts.sum(axis).maximum(1)  # 0 only for pixels of padding
    steps = (parts.cast(real) * (total.cast(real).reciprocal() * PRECISION) + 0.5).floor().cast(np.int64)
    rest = (parts * PRECISION - steps * total) * 2
    return (steps + (total <= rest).cast(np.int64) - (rest + total < 0).cast(np.int64)).cast(real)


def _add_bicubic(distance: Expression[Value], unit: Expression[Value], axis: int) -> Expression[Value]:
    """Add Pillow's bicubic filter at integer distances in parts of ``unit``, as whole multiples of 1 / PRECISION."""
    real = unit.builder.real
    scale = unit.cast(real).reciprocal()
    x = distance.cast(real) * scale
    below_one = (unit - distance).cast(real) * scale  # 1 - x; differences are taken of integers, to round nothing
    below_two = (unit * 2 - distance).maximum(0).cast(real) * scale  # 2 - x
    slope = (unit * 2 - distance * 3).cast(real) * scale  # 2 - 3 x
    near = (slope * x + 2.0) * below_one  # 3 x^3 - 5 x^2 + 2, twice the filter
    far = below_two * below_two * below_one  # -x^3 + 5 x^2 - 8 x + 4
    weights = near.where(x < 1.0, far)
    scale = weights.sum(axis).maximum(0.1).reciprocal() * PRECISION  # the sum is below 0.1 only for pixels of padding
    signs = ((weights < 0.0).cast(real) - 0.5) * -2.0
    return (abs(weights) * scale + 0.5).floor() * signs


def _round_sum(coarse: Expression[Value], fine: Expression[Value]) -> Expression[Value]:
    """Round ``(coarse * LOW + fine) / PRECISION``, halves up, and clamp it to 0..255; each step is exact in float32."""
    fine = fine.floor()  # of whole numbers: keeps OpenVINO from merging the next factor into the matrix product
    total = coarse + (fine * (1 / LOW)).floor()
    return ((total + PRECISION // LOW // 2) * (LOW / PRECISION)).minimum(255.0).floor().maximum(0.0)
