import numpy as np
import pytest
from PIL import Image

from resnext.data.transforms.eval_view import EvalView
from resnext.data.transforms.view_region import compute_view_region
from tests.serving.fakes import make_preprocessing

SIZES = [(64, 64), (300, 200), (200, 300), (97, 61), (640, 31), (20, 900), (32, 32), (33, 32)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("crop_mode", "image_size", "resize"),
    [("crop", 32, 32), ("crop", 32, 48), ("crop", 31, 64), ("squash", 32, 32), ("pad", 32, 32), ("pad", 31, 31)],
)
def test_a_picture_of_its_own_coordinates_shows_the_region(size, crop_mode, image_size, resize):
    """Each pixel of the picture holds its own coordinate, so the view says by itself where it comes from."""
    width, height = size
    p = make_preprocessing(
        image_size=image_size,
        resize=resize,
        crop_mode=crop_mode,
        interpolation="bilinear",
        channels=1,
        mean=(0,),
        std=(1,),
    )
    x0, y0, x1, y1 = compute_view_region(size, p)
    centers = (np.arange(image_size) + 0.5) / image_size
    for axis, low, high in ((0, x0, x1), (1, y0, y1)):
        length = size[axis]
        ramp = np.arange(length, dtype=np.float32) + 0.5
        values = np.broadcast_to(ramp if axis == 0 else ramp[:, None], (height, width))
        view = np.asarray(EvalView(p)(Image.fromarray(values.astype(np.float32))))
        expected = low + centers * (high - low)
        line = view.max(axis=axis)  # the padding is 0
        scale = (high - low) / image_size
        inside = (expected > 2 * scale) & (expected < length - 2 * scale)  # filters are cut off at the edges
        np.testing.assert_allclose(line[inside], expected[inside], atol=0.51 * scale + 1e-3)


def test_a_crop_lies_inside_and_a_padded_view_reaches_beyond():
    assert compute_view_region((300, 200), make_preprocessing()) == pytest.approx((50, 0, 250, 200), abs=13)
    assert compute_view_region((300, 200), make_preprocessing(crop_mode="squash")) == (0, 0, 300, 200)
    x0, y0, x1, y1 = compute_view_region((300, 200), make_preprocessing(crop_mode="pad", image_size=30, resize=30))
    assert (x0, y0, x1, y1) == pytest.approx((0, -50, 300, 250))
