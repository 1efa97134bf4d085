"""Tests of class activation maps: those of captum and torchcam, of every kind of network and engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resnext
from resnext import Network, RequestError, convert_form
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.deploy.predictor import Predictor
from tests.deploy.networks import lived

KINDS: dict[str, dict[str, Any]] = {
    "grouped": {}, "pre-activation": {"pre_activation": True}, "concatenated": {"form": "concatenated"},
    "branched": {"form": "branched"}, "shortcut A": {"shortcut": "A"}, "basic blocks": {"name": "resnet18"},
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_thread")


def make_network(kind: str) -> Network:
    changes = dict(KINDS[kind])
    form = changes.pop("form", "grouped")
    network = convert_form(lived(changes.pop("name", "resnext11_2x4d"), **changes), form).eval()
    network.preprocessing = Preprocessing(image_size=64, resize=64, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    return network


def make_images(count: int = 3) -> list[Image.Image]:
    random = np.random.default_rng(1)
    return [Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(count)]


def make_inputs(network: Network, images: list[Image.Image]) -> torch.Tensor:
    assert network.preprocessing is not None
    view = build_eval_transform(network.preprocessing)
    return normalize(torch.stack([view(image) for image in images]), network.preprocessing, "cpu")


def scale(maps: np.ndarray) -> np.ndarray:
    """Apply Grad-CAM's ReLU and scale to a maximum of 1."""
    positive = np.maximum(maps, 0)
    return positive / max(float(positive.max()), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_the_grad_cam_of_captum(kind: str) -> None:
    captum = pytest.importorskip("captum.attr")
    network, images = make_network(kind), make_images()
    inputs = make_inputs(network, images)
    layers = dict(network.named_modules())
    layer = layers["bn"] if network.architecture.pre_activation else layers[f"layer{len(network.architecture.stages)}"]
    theirs = captum.LayerGradCam(network.requires_grad_(True), layer)
    for one, x in zip(resnext.predict(network, images, top_k=2, explain=True), inputs, strict=True):
        assert one.maps is not None
        assert one.probabilities is not None
        for found, index in zip(one.maps, np.argsort(-one.probabilities, kind="stable"), strict=False):
            expected = theirs.attribute(x[None], target=int(index)).detach().numpy()[0, 0]
            np.testing.assert_allclose(scale(found), scale(expected), atol=3e-5)  # fp32, of two ways to compute it


@pytest.mark.parametrize("kind", ["grouped", "pre-activation", "branched"])
def test_maps_are_the_cam_of_torchcam(kind: str) -> None:
    methods = pytest.importorskip("torchcam.methods")
    network, images = make_network(kind), make_images(1)
    layer = "bn" if network.architecture.pre_activation else f"layer{len(network.architecture.stages)}"
    with methods.GradCAM(network.requires_grad_(True), target_layer=layer) as extractor:
        logits = network(make_inputs(network, images))
        index = int(logits.argmax())
        expected = extractor(index, logits)[0][0].detach().numpy()
    (one,) = resnext.predict(network, images, explain=True)
    assert one.maps is not None
    np.testing.assert_allclose(scale(one.maps[0]), scale(expected), atol=1e-5)


@pytest.mark.parametrize("engine", ["pytorch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_gives_the_networks_maps(
    engine: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.deploy.test_engines import usable

    usable(engine, "fp32")
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    network, images = make_network(kind), make_images()
    predictor = Predictor(network, engine=engine, with_cam=True)
    found = resnext.predict(predictor, images, top_k=3, explain=True)
    for one, expected in zip(found, resnext.predict(network, images, top_k=3, explain=True), strict=True):
        assert [name for name, _ in one.top()] == [name for name, _ in expected.top()]
        np.testing.assert_allclose(scale(one.maps), scale(expected.maps), atol=1e-4)  # type: ignore[arg-type]


def test_without_explain_there_are_no_maps_and_predictors_without_maps_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    network, images = make_network("grouped"), make_images(1)
    assert resnext.predict(network, images)[0].maps is None
    with pytest.raises(RequestError, match="no class activation maps"):
        resnext.predict(Predictor(network, engine="pytorch"), images, explain=True)
