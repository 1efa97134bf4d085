"""Preprocessing as operators of an exported graph."""

import numpy as np

from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import MAX_ASPECT_RATIO, normalize_pixels
from resnext.deploy.graph_builder import GraphBuilder, Value
from resnext.deploy.graph_expression import Expression
from resnext.deploy.graph_interface import GraphInterface
from resnext.deploy.resample_graph import AxisView, resize_picture


def add_preprocessing(x: Value, interface: GraphInterface, to: GraphBuilder[Value]) -> Value:
    """Add what stands between the graph's input and the network's, float32 [B, C, H, W]."""
    p = interface.preprocessing
    if p is None or interface.input == "normalised":
        return x
    if interface.input == "picture":
        return add_normalization(add_eval_view(x, p, to, interface.bgr), p, to)
    x = to.transpose(x, (0, 3, 1, 2))
    return add_normalization(_flip_channels(x, to) if interface.bgr else x, p, to)


def add_eval_view(picture: Value, preprocessing: Preprocessing, to: GraphBuilder[Value], bgr: bool = False) -> Value:
    """Add the evaluation view of a uint8 picture [1, H, W, C] of any size; return its pixels, uint8 [1, C, S, S].

    The pixels are those of ``EvalView``.
    """
    p, size = preprocessing, preprocessing.image_size
    shape = to.shape(picture)
    height, width = (Expression(to, to.gather(shape, to.constant(np.array(axis)), 0), np.int64) for axis in (1, 2))
    vertical, horizontal = _find_view(height, width, p), _find_view(width, height, p)
    x = resize_picture(Expression(to, picture, np.uint8), vertical, horizontal, size, p.interpolation)
    if bgr:
        x = Expression(to, _flip_channels(x.value, to), np.float32)
    if p.crop_mode == "pad":
        colour = x.constant(np.array(p.mean_color)[None, :, None, None])
        for view, shape_of_axis in ((vertical, (1, 1, size, 1)), (horizontal, (1, 1, 1, size))):
            positions = view.first + view.first.constant(np.arange(size).reshape(shape_of_axis))
            x = colour.where(positions < 0, x.where(positions < view.new, colour))
    return x.cast(np.uint8).value


def _find_view(side: Expression[Value], other: Expression[Value], preprocessing: Preprocessing) -> AxisView[Value]:
    """Find the view's part of one axis of a picture of ``side`` pixels, from the lengths of both axes."""
    p, size = preprocessing, preprocessing.image_size
    zero = side.constant(0)
    if p.crop_mode == "squash":
        return AxisView(zero, side, side.constant(size), zero)
    if p.crop_mode == "pad":
        new = _round_half_even(side * size, side.maximum(other)).maximum(1)
        return AxisView(zero, side, new, (zero - new + size) // 2 * -1)
    shorter = side.minimum(other)
    longest = side.where(shorter.equals(p.resize), shorter * MAX_ASPECT_RATIO)  # of the right size: not even cropped
    old = side.minimum(longest)
    new = old * p.resize // old.minimum(other)
    return AxisView((side - old) // 2, old, new, _round_half_even(new - size, side.constant(2)))


def _round_half_even(numerator: Expression[Value], divisor: Expression[Value]) -> Expression[Value]:
    """Divide integers >= 0 and round, halves to the even neighbour, as Python's ``round``."""
    quotient = numerator // divisor
    rest = numerator - quotient * divisor
    is_up = divisor < rest * 2 + quotient % 2  # rest above half, or exactly half and the quotient odd
    return quotient + is_up.cast(np.int64)


def _flip_channels(x: Value, to: GraphBuilder[Value]) -> Value:
    return to.gather(x, to.constant(np.array([2, 1, 0])), 1)


def add_normalization(pixels: Value, preprocessing: Preprocessing, to: GraphBuilder[Value]) -> Value:
    """Add the normalisation of uint8 pixels [B, C, S, S]; return float32, bit-equal to ``normalize_pixels``.

    The operator is a look-up in a table of the 256 values that each channel can take: engines replace a division by a
    constant with a product, which rounds otherwise, but a look-up is exact in all of them (and no slower).
    """
    levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1).repeat(preprocessing.channels, 3)
    table = normalize_pixels(levels, preprocessing)[:, :, 0, 0].T
    first = np.arange(0, 256 * preprocessing.channels, 256, dtype=np.int32)  # of each channel, in the table
    indices = to.elementwise("add", to.cast(pixels, np.int32), to.constant(first[None, :, None, None]))
    return to.gather(to.constant(table.ravel()), indices, 0)
