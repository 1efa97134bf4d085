"""Many threads may ask one detector at the same time: each gets what it gets alone."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from resnext.detection.model.faster_rcnn import ImageDetections
from resnext.detection.model.fuse import prepare_for_inference
from tests.detection.tiny_detector import detector, pixels

pytestmark = pytest.mark.usefixtures("one_thread")

THREADS = 4


@pytest.fixture(autouse=True)
def eager_threads() -> Iterator[None]:
    """Python goes from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("changes", "times"), [({}, 4), ({"layout": "c4"}, 2), ({"stage": "rpn"}, 20)])
def test_threads_get_their_own_detections(changes: dict[str, Any], times: int) -> None:
    model = prepare_for_inference(detector(**changes))
    images = [[pixels(64 + 8 * number, 64, seed=number)] for number in range(THREADS)]

    @torch.inference_mode()
    def ask(number: int) -> list[ImageDetections]:
        return [model.detect(images[number])[0] for _ in range(times)]

    alone = [ask(number)[0] for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for expected, answers in zip(alone, pool.map(ask, range(THREADS)), strict=True):
            assert all(torch.equal(one[key], expected[key]) for one in answers for key in expected)
