"""Test that OpenVINO leaves the stack of signal handlers unchanged, so that later signals do not kill the process."""

import ctypes
import sys
from importlib.util import find_spec

import pytest

from resnext.deploy.predictor import Predictor
from resnext.deploy.signal_stack import SignalStack, preserve_signal_stack
from tests.deploy.networks import images, lived

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack is set on Linux only")


def current() -> tuple[int | None, int]:
    stack = SignalStack.read()
    return stack.address, stack.size


def test_the_stack_is_put_back() -> None:
    before = current()
    memory = ctypes.create_string_buffer(1 << 16)
    with preserve_signal_stack():
        other = SignalStack(ctypes.addressof(memory), 0, len(memory))
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(other), None) == 0
        assert current() != before
    assert current() == before


@pytest.mark.skipif(find_spec("nncf") is None, reason="openvino and nncf are not installed")
def test_quantizing_and_running_leave_it() -> None:
    before = current()
    predictor = Predictor(lived("resnext11_2x4d"), precision="int8", image_size=32, calibration=images(8))
    predictor(images(2))
    assert current() == before
