"""A detector's preprocessing in a graph, pixel for pixel that of ``DetectPreprocessing.apply``.

PyTorch resizes uint8 images by integers: each pass along an axis is the product with a matrix of weights, rounded to
multiples of 2**-p, and its result is rounded and clamped to 0..255 (``upsample_avx_bilinear_bicubic_uint8``). The graph
computes the matrix from the size of the picture. The filter reaches only a few pixels, so the product is computed in
blocks of ``BLOCK`` pixels of the result, each from the window of pixels that it depends on.
"""

import numpy as np

from resnext.data.preprocessing import Preprocessing
from resnext.deploy.graph_builder import Value
from resnext.deploy.graph_expression import Expression
from resnext.deploy.preprocess_graph import add_normalization
from resnext.detection.export.operators import (
    DetectorGraphBuilder,
    arange,
    divide,
    get_side,
    reshape,
    select_rows,
    stack_scalars,
)
from resnext.detection.export.proposals_graph import ImageArea
from resnext.detection.export.size_graph import add_new_size
from resnext.detection.model.faster_rcnn import SIZE_DIVISOR
from resnext.detection.preprocessing import DetectPreprocessing

BLOCK = 32  # pixels of the result that are computed from one window
LOW = 2**8  # a weight is split into high * LOW + low, so that all sums are exact in float32
MAX_PRECISION = 22  # PyTorch's limit of p
INT16_STEPS = 2**15  # p is the largest for which each weight is below this


def add_picture(
    to: DetectorGraphBuilder[Value], picture: Value, preprocessing: DetectPreprocessing
) -> tuple[Value, ImageArea[Value], Expression[Value]]:
    """Add the preprocessing of a uint8 picture [1, H, W, 3].

    Returns the network's input [1, 3, h, w], its sizes, and the factors to pixels of the picture, float32 [4].
    """
    height, width = (get_side(to, picture, axis) for axis in (1, 2))
    new_height, new_width = add_new_size(to, height, width, preprocessing)
    x = Expression(to, to.transpose(picture, (0, 3, 1, 2)), np.uint8)
    if preprocessing.resize == "torchvision":
        x = divide(to, x.cast(np.float32), Expression(to, to.constant(np.array(255, np.float32)), np.float32))
        x = _interpolate(to, _interpolate(to, x, 3, new_width), 2, new_height)
        mean, std = (x.constant(np.array(v)[:, None, None]) for v in (preprocessing.mean, preprocessing.std))
        x = divide(to, x - mean, std)
    else:
        x = _resize(to, _resize(to, x, 3, new_width), 2, new_height)
        colors = Preprocessing(image_size=1, resize=1, mean=preprocessing.mean, std=preprocessing.std, channels=3)
        x = Expression(to, add_normalization(x.value, colors, to), np.float32)
    divisor = SIZE_DIVISOR
    padded_height, padded_width = ((side + (divisor - 1)) // divisor * divisor for side in (new_height, new_width))
    images = to.pad_end(x.value, stack_scalars(to, [padded_height - new_height, padded_width - new_width]))
    area = ImageArea(new_height, new_width, padded_height, padded_width)
    original = Expression(to, stack_scalars(to, [width, height] * 2), np.int64).cast(np.float32)
    return images, area, divide(to, original, area.get_limits(to))


def _interpolate(
    to: DetectorGraphBuilder[Value], x: Expression[Value], axis: int, new: Expression[Value]
) -> Expression[Value]:
    """Add bilinear interpolation of [1, 3, H, W] along an axis, without antialiasing, as PyTorch's on floats."""
    old = get_side(to, x.value, axis)
    scale = divide(to, old.cast(np.float32), new.cast(np.float32))
    at = ((arange(to, new).cast(np.float32) + 0.5) * scale - 0.5).maximum(0.0)
    below = at.floor()
    first, share = below.cast(np.int64), at - below
    low, high = (select_rows(x, index.value, axis) for index in (first.minimum(old - 1), (first + 1).minimum(old - 1)))
    if axis == 2:
        share = Expression(to, to.reshape(share.value, to.constant(np.array([-1, 1]))), np.float32)
    return low * (share * -1.0 + 1.0) + high * share


def _resize(
    to: DetectorGraphBuilder[Value], x: Expression[Value], axis: int, new: Expression[Value]
) -> Expression[Value]:
    """Add antialiased bilinear resizing of whole numbers [1, 3, H, W] along an axis; return whole numbers, float32."""
    old = get_side(to, x.value, axis)
    blocks = (new + (BLOCK - 1)) // BLOCK
    sources, high, low, precision = _add_weights(to, old, new, blocks)
    clipped = reshape(to, sources.maximum(0).minimum(old - 1), -1)
    windows = select_rows(x, clipped.value, axis)
    count = get_side(to, sources.value, 1)
    height, width = get_side(to, x.value, 2), get_side(to, x.value, 3)
    if axis == 3:
        windows = reshape(to, windows, -1, blocks, count).transpose((1, 0, 2)).cast(np.float32)  # [blocks, 3 * H, n]
        total = [windows.matmul(part.transpose((0, 2, 1))) for part in (high, low)]
        y = _round_sum(to, total[0], total[1], precision).transpose((1, 0, 2))
        y = reshape(to, y, 1, 3, height, blocks * BLOCK)
    else:
        windows = reshape(to, windows.cast(np.float32), 3, blocks, count, width)
        total = [part.matmul(windows) for part in (high, low)]
        y = reshape(to, _round_sum(to, total[0], total[1], precision), 1, 3, blocks * BLOCK, width)
    zero = to.constant(np.array(0, np.int64))
    return Expression(to, to.slice(y.value, zero, new.value, axis), np.float32)


def _add_weights(
    to: DetectorGraphBuilder[Value], old: Expression[Value], new: Expression[Value], blocks: Expression[Value]
) -> tuple[Expression[Value], Expression[Value], Expression[Value], Expression[Value]]:
    """Add the weights of an axis.

    Returns the pixels [blocks, n] of each window, their weights ``high * LOW + low`` in float32 [blocks, BLOCK, n] (0
    outside the picture), and 2**p. OpenVINO computes int64 in int32, which overflows, and float64 in float32.
    """
    larger = old.maximum(new)
    reach = (larger + (new - 1)) // new + 1  # pixels, at least: half the filter's width
    starts = arange(to, blocks) * BLOCK * old // new - reach
    count = (old * BLOCK + (new - 1)) // new + reach * 2 + 1
    sources = reshape(to, starts, -1, 1) + arange(to, count)
    places = reshape(to, arange(to, blocks * BLOCK), -1, BLOCK, 1)
    where = reshape(to, sources, blocks, 1, count)
    distance = (where * 2 + 1) * new - (places * 2 + 1) * old  # exact, in units of 1 / (2 * larger)
    shares = (larger * 2 - abs(distance)).maximum(0)
    shares = shares.where(where < old, 0).where(where.constant(-1) < where, 0)
    sums = shares.sum(2).maximum(1)
    shares = shares.where(places < new, 0)
    weights = divide(to, shares.cast(to.real), sums.cast(to.real))
    largest, _ = to.top_k(reshape(to, weights, -1).value, to.constant(np.array(1)))
    powers = np.array([2.0**k for k in range(1, MAX_PRECISION + 1)])
    products = (Expression(to, largest, to.real) * weights.constant(powers) + 0.5).floor()
    digits = (products < INT16_STEPS).cast(np.int64).sum(0)
    precision = select_rows(weights.constant(np.array([1.0, *powers])), digits.value)
    steps = (weights * precision + 0.5).floor().cast(np.int64)
    rest = (shares * precision.cast(np.int64) - steps * sums) * 2 + sums  # small, so that an overflow cancels
    steps = steps + (sums * 2 <= rest).cast(np.int64) - (rest < 0).cast(np.int64)
    high = (steps + LOW // 2) // LOW
    low = steps - high * LOW
    return sources, high.cast(np.float32), low.cast(np.float32), precision.cast(np.float32)


def _round_sum(
    to: DetectorGraphBuilder[Value], high: Expression[Value], low: Expression[Value], precision: Expression[Value]
) -> Expression[Value]:
    """Round ``(high * LOW + low) / precision``, halves up, and clamp to 0..255; each step is exact in float32."""
    total = high + (low * (1 / LOW)).floor()
    return (divide(to, total * LOW, precision) + 0.5).floor().maximum(0.0).minimum(255.0)
