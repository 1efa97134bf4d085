"""The size that a picture is resized to, in a graph: ``DetectPreprocessing.compute_size`` to the pixel.

That function multiplies a side by a rounded quotient in float64, which some engines lack. The graph computes with
integers. Only where the exact product is a whole number (or a half) can the quotient's rounding decide; its relative
error is a function of the divisor alone, so it is looked up in a table.
"""

from fractions import Fraction

import numpy as np

from resnext.deploy.graph_builder import Value
from resnext.deploy.graph_expression import Expression
from resnext.detection.export.operators import DetectorGraphBuilder, divide, select_rows
from resnext.detection.preprocessing import DetectPreprocessing

MAX_TABLE_SIDE = 16384  # of pictures; beyond it, the rounding of the quotient is taken as 0
MANTISSA = 2**53  # rounding changes a float64 by at most 1 / MANTISSA of it


def add_new_size(
    to: DetectorGraphBuilder[Value], height: Expression[Value], width: Expression[Value], view: DetectPreprocessing
) -> tuple[Expression[Value], Expression[Value]]:
    """Add the height and width, int64 scalars, that a picture is resized to."""
    shorter, longer = height.minimum(width), height.maximum(width)
    is_limited = shorter * view.max_size < longer * view.min_size
    divisor = longer.where(is_limited, shorter)
    target = divisor.constant(view.max_size).where(is_limited, view.min_size)
    place = divisor.minimum(MAX_TABLE_SIDE)
    errors = [
        Expression(to, to.gather(to.constant(compute_quotient_errors(size)), place.value, 0), np.float32)
        for size in (view.max_size, view.min_size)
    ]
    error = errors[0].where(is_limited, errors[1])
    sides = [_add_side(to, side * target, divisor, error, view.resize == "torchvision") for side in (height, width)]
    return sides[0], sides[1]


def compute_quotient_errors(size: int) -> np.ndarray:
    """Compute the relative error of the float64 ``size / d`` for each d, in units of 1 / MANTISSA: float32 [d]."""
    errors = [0.0, *(float((Fraction(size / d) * d / size - 1) * MANTISSA) for d in range(1, MAX_TABLE_SIDE))]
    return np.array([*errors, 0.0], np.float32)


def _add_side(
    to: DetectorGraphBuilder[Value],
    product: Expression[Value],
    divisor: Expression[Value],
    error: Expression[Value],
    is_floor: bool,
) -> Expression[Value]:
    """Add ``product / divisor``, rounded as Python rounds ``side * (size / divisor)``, and at least 1."""
    halves = product * 2 // divisor
    is_exact = (halves * divisor).equals(product * 2)
    is_odd = (halves % 2).equals(1)
    powers = 2 ** np.arange(32, dtype=np.int64)[:31]
    digits = (halves.constant(powers) <= halves).cast(np.int64).sum(0)  # [1]
    power = select_rows(error.constant(np.concatenate([[1], powers]).astype(np.float32)), digits.value)
    mantissa = divide(to, halves.cast(np.float32), power)  # 1 to 2
    shift = mantissa * error
    is_above = error.constant(1) < shift
    is_below = (
        (shift < -1.0)
        .cast(np.int64)
        .maximum((mantissa.equals(1.0).cast(np.int64)).minimum((shift < -0.5).cast(np.int64)))
    )
    up, down = (value.minimum(is_exact.cast(np.int64)) for value in (is_above.cast(np.int64), is_below))
    if is_floor:
        whole = halves // 2
        side = whole - down.where(is_odd.equals(False), 0)
    else:
        lower = halves // 2
        even = lower + lower % 2
        tie = even.where(up.equals(0), lower + 1).where(down.equals(0), lower)
        side = tie.where(is_exact, lower + 1).where(is_odd, lower)
    side = side.maximum(1)
    return Expression(to, to.reshape(side.value, to.constant(np.array([], np.int64))), np.int64)
