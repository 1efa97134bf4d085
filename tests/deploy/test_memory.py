"""Test that deleted predictors release their memory."""

import ctypes
import gc
import sys
from pathlib import Path

import pytest

from resnext.deploy.engines import ENGINES
from resnext.deploy.predictor import Predictor
from tests.deploy.networks import images, lived
from tests.deploy.test_engines import usable

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc"),
]

PREDICTORS = 12
WARM_UP = {"int8": 12}  # the heap grows by 4 MB once in the first dozen with NNCF; the next 47 add 0.5 MB in all
ALLOWED = 4 << 20  # bytes for all; with torch.jit.trace a single one leaked 7 MB, with torch.onnx.export 1.3 MB


def resident() -> int:
    """Return the resident bytes of this process after free memory was returned to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize(
    ("engine", "precision"),
    [  # calibrating takes seconds each time
        pytest.param(engine, precision, marks=pytest.mark.slow if precision == "int8" else ())
        for engine, kind in ENGINES.items()
        for precision in kind.precisions
    ],
)
def test_memory_does_not_grow_with_the_predictors_that_were_made(
    engine: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable(engine, precision)
    if precision == "int8":
        pytest.importorskip("nncf")
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    network, x = lived("resnext11_2x4d"), images(2, 24)

    def make(count: int) -> int:
        for _ in range(count):
            Predictor(network, engine=engine, precision=precision, image_size=24, calibration=x)(x)
        return resident()

    before = make(WARM_UP.get(precision, 6))  # caches and pools of the libraries fill up
    assert make(PREDICTORS) - before < ALLOWED
