"""Test the inputs and outputs that an exported graph can have besides images and logits."""

from typing import Any

import numpy as np
import pytest
import torch

from resnext import Preprocessing, RequestError
from resnext.data.normalization import normalize
from resnext.deploy.graph_interface import GraphInterface
from tests.deploy.exported import ENGINES, export, run_openvino
from tests.deploy.networks import images, lived
from tests.deploy.test_fold import KINDS

pytestmark = pytest.mark.usefixtures("one_thread")
HEADS = {kind: changes for kind, changes in KINDS.items() if kind != "no head"}
EVERYTHING = GraphInterface(probabilities=True, with_cam=True)


def close(got: np.ndarray, expected: torch.Tensor) -> None:
    scale = expected.abs().max().item()
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_class_activation_map_is_the_classifier_on_each_pixel_of_the_last_map(engine: str, kind: str) -> None:
    network = lived(**HEADS[kind])
    run = export(engine, network, EVERYTHING)
    for count, side in ((1, 32), (3, 75)):
        x = images(count, side, network.architecture.in_channels)
        outputs = run(x.numpy())
        with torch.no_grad():
            scores = network.compute_score_map(x, 1).permute(0, 3, 1, 2)  # includes the bias
            logits, bias = network(x), network.fc.bias.detach()
        assert list(outputs) == ["logits", "probabilities", "cam"]
        close(outputs["cam"], scores - bias[:, None, None])
        close(outputs["cam"].mean((2, 3)) + bias.numpy(), logits)
        close(outputs["logits"], logits)


@pytest.mark.parametrize("engine", ENGINES)
def test_probabilities_are_the_softmax_of_the_logits(engine: str) -> None:
    x = images(5)
    outputs = export(engine, lived(), GraphInterface(probabilities=True))(x.numpy())
    expected = torch.softmax(torch.from_numpy(outputs["logits"]), 1)
    assert list(outputs) == ["logits", "probabilities"]
    np.testing.assert_allclose(outputs["probabilities"], expected.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_without_classifier_has_its_pooled_features_as_the_only_output(engine: str) -> None:
    network, x = lived(num_classes=0), images()
    outputs = export(engine, network, EVERYTHING)(x.numpy())
    assert list(outputs) == ["logits"]
    with torch.no_grad():
        close(outputs["logits"], network(x))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_give_the_logits_of_the_images_normalised_outside(engine: str, channels: int) -> None:
    network = lived(in_channels=channels)
    p = Preprocessing(image_size=32, resize=36, channels=channels, mean=(0.4,) * channels, std=(0.2,) * channels)
    pixels = np.random.default_rng(3).integers(0, 256, (3, 32, 32, channels), np.uint8)
    with torch.no_grad():
        expected = network(normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), p, "cpu"))
    for batch in (None, 3):
        run = export(engine, network, GraphInterface(input="pixels", preprocessing=p, batch=batch))
        close(run(pixels)["logits"], expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fixed_batch_leaves_no_axis_of_the_input_open(engine: str) -> None:
    p = Preprocessing(image_size=32, resize=36, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3)
    for interface, shape in (
        (GraphInterface(batch=2, preprocessing=p), [2, 3, 32, 32]),
        (GraphInterface(batch=2, preprocessing=p, input="pixels"), [2, 32, 32, 3]),
    ):
        assert interface.get_shape(3) == shape
        x = np.zeros(shape, interface.dtype)
        assert export(engine, lived(), interface)(x)["logits"].shape == (2, 10)


@pytest.mark.parametrize("batch", [None, 3])
def test_preprocessing_can_be_put_before_a_finished_openvino_model(batch: int | None) -> None:
    pytest.importorskip("openvino")
    from resnext.deploy.fold import fold
    from resnext.deploy.openvino_graph import build_openvino_model, replace_input

    p = Preprocessing(image_size=32, resize=36, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3)
    model = build_openvino_model(fold(lived()), EVERYTHING)
    pixels = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = run_openvino(model)(normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), p, "cpu").numpy())
    replaced = replace_input(model, GraphInterface(input="pixels", preprocessing=p, batch=batch))
    from_pixels = run_openvino(replaced)(pixels)
    assert list(from_pixels) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(from_pixels[name], value, rtol=1e-4, atol=1e-4)
    from_picture = run_openvino(replace_input(model, GraphInterface(input="picture", preprocessing=p)))(
        np.pad(pixels[:1], ((0, 0), (2, 2), (20, 20), (0, 0)))  # the centre crop is ``pixels``
    )
    np.testing.assert_allclose(from_picture["logits"], expected["logits"][:1], rtol=1e-4, atol=1e-2)
    assert model.inputs[0].get_partial_shape().is_dynamic  # the model itself stays


def test_the_openvino_model_says_the_names_and_layout_of_its_input() -> None:
    pytest.importorskip("openvino")
    from resnext.deploy.fold import fold
    from resnext.deploy.openvino_graph import build_openvino_model

    p = Preprocessing(image_size=32, resize=36, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3)
    model = build_openvino_model(fold(lived()), GraphInterface(input="pixels", preprocessing=p, with_cam=True))
    assert model.input("images").get_node().layout.to_string() == "[N,H,W,C]"
    assert [output.get_any_name() for output in model.outputs] == ["logits", "cam"]


@pytest.mark.parametrize("kind", ["grouped", "pre-activation"])
def test_the_onnx_model_with_everything_is_one_by_the_standard(kind: str) -> None:
    onnx = pytest.importorskip("onnx")
    from resnext.deploy.fold import fold
    from resnext.deploy.onnx_graph import build_onnx_model

    p = Preprocessing(image_size=32, resize=36, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3)
    values: dict[str, Any] = {"preprocessing": p, "probabilities": True, "with_cam": True}
    model = build_onnx_model(fold(lived(**KINDS[kind])), GraphInterface(input="pixels", bgr=True, **values))
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


def test_preprocessing_of_other_channels_is_refused() -> None:
    p = Preprocessing(image_size=32, resize=36, channels=1, mean=(0.4,), std=(0.2,))
    with pytest.raises(RequestError, match="the preprocessing has 1 channels"):
        export("onnxruntime", lived(), GraphInterface(input="pixels", preprocessing=p))
