"""Test that the OpenVINO and ONNX graphs compute the same as the folded network."""

import pytest
import torch

from resnext.deploy.engine_builder import EngineBuilder
from resnext.deploy.engines import TOLERANCE, Engine, EngineConfig, compute_relative_error
from tests.deploy.networks import compute_logits, images, lived
from tests.deploy.test_engines import usable
from tests.deploy.test_fold import KINDS

pytestmark = pytest.mark.usefixtures("one_thread")


def engine_of(name: str, parts: EngineBuilder) -> Engine:
    usable(name, "fp32")
    return parts.build(EngineConfig(name, "folded"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_kind_of_network_gives_its_own_logits(engine: str, kind: str) -> None:
    network = lived(**KINDS[kind])
    run = engine_of(engine, EngineBuilder(network, "fp32", 1))
    for count, side in ((1, 32), (3, 41)):
        x = images(count, side, network.architecture.in_channels)
        with torch.no_grad():
            assert compute_relative_error(compute_logits(run, x), network(x)) < TOLERANCE["fp32"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_large_stem_and_basic_blocks_too(engine: str) -> None:
    network, x = lived("resnet18"), images(2, 77)
    run = engine_of(engine, EngineBuilder(network, "fp32", 1))
    with torch.no_grad():
        assert compute_relative_error(compute_logits(run, x), network(x)) < TOLERANCE["fp32"]


def test_the_onnx_model_is_one_by_the_standard() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(EngineBuilder(lived(shortcut="A", pre_activation=True), "fp32", 1).get_onnx_model(0))
    onnx.checker.check_model(model, full_check=True)
