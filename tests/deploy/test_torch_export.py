"""Tests of .pt2 files: their results are the network's, in our engine and in plain PyTorch."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import resnext
from resnext import RequestError, WorkError
from resnext.data.normalization import normalize
from resnext.deploy import torch_export
from resnext.deploy.engines import compute_relative_error
from resnext.deploy.predictor import Predictor
from tests.deploy.torch_archives import make_network, open_engine, read_entries, write

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = {
    "post-activation": {},
    "pre-activation": {"pre_activation": True},
    "grey": {"channels": 1},
    "without classifier": {"num_classes": 0},
}


def make_pixels(count: int, channels: int = 3, side: int = 32) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, side, side, channels), np.uint8)


def compute_reference(network: resnext.Network, pixels: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Logits of the network itself, and its normalised input."""
    assert network.preprocessing is not None
    x = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), network.preprocessing, "cpu")
    with torch.inference_mode():
        return network(x).numpy(), x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["pixels", "normalised"])
def test_logits_and_maps_are_the_networks_for_any_batch(kind: str, given: str, tmp_path: Path) -> None:
    network = make_network(**KINDS[kind])
    engine = open_engine(write(network, tmp_path / "m.pt2", input=given, with_cam=True))
    for count in (1, 3, 7):
        pixels = make_pixels(count, network.architecture.in_channels)
        expected, x = compute_reference(network, pixels)
        found = engine(pixels if given == "pixels" else x.numpy())
        assert compute_relative_error(found.logits, expected) <= 1e-5
        assert (found.logits.argmax(1) == expected.argmax(1)).all()
        if kind == "without classifier":
            assert found.cam is None
            continue
        assert found.cam is not None
        assert isinstance(network.fc, nn.Linear)
        mean = found.cam.mean((2, 3)) + network.fc.bias.detach().numpy()
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-4)


def test_normalisation_in_the_file_is_bit_equal(tmp_path: Path) -> None:
    network = make_network()
    pixels = make_pixels(2)
    pixels.reshape(-1)[:768] = np.arange(256, dtype=np.uint8).repeat(3)  # every value in every channel
    _, x = compute_reference(network, pixels)
    normalised = open_engine(write(network, tmp_path / "n.pt2", input="normalised"))(x.numpy())
    from_pixels = open_engine(write(network, tmp_path / "p.pt2", input="pixels"))(pixels)
    assert np.array_equal(from_pixels.logits, normalised.logits)


def test_channels_in_the_order_blue_green_red_give_the_same(tmp_path: Path) -> None:
    network, pixels = make_network(), make_pixels(2)
    engine = open_engine(write(network, tmp_path / "m.pt2", bgr=True))
    expected, _ = compute_reference(network, pixels)
    assert compute_relative_error(engine(np.ascontiguousarray(pixels[..., ::-1])).logits, expected) <= 1e-5


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_pictures_of_any_size_become_the_pixels_of_evaluation(fit: str, tmp_path: Path) -> None:
    network = make_network()
    assert network.preprocessing is not None
    network.preprocessing = replace(network.preprocessing, crop_mode=fit)
    random = np.random.default_rng(4)
    sizes = [(36, 36), (37, 120), (300, 50), (64, 64), (20, 25), (3, 90)]
    pictures = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]
    with (
        Predictor.load(write(network, tmp_path / "a.pt2", input="picture")) as whole,
        Predictor.load(write(network, tmp_path / "b.pt2", input="pixels")) as cropped,
    ):
        found = whole.infer_all([whole.prepare(one) for one in pictures]).logits
        expected = cropped.infer_all([cropped.prepare(one) for one in pictures]).logits
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_predictor_loads_the_file_and_reports_its_facts(tmp_path: Path) -> None:
    network = make_network()
    path = write(network, tmp_path / "m.pt2", with_cam=True)
    images = list(make_pixels(5, side=40))
    with Predictor.load(path) as predictor:
        assert (predictor.precision, predictor.engine) == ("fp32", "fp32 on pytorch exported")
        assert predictor.has_cam
        assert predictor.classes == network.classes
        predictor.warm_up([1, 4])
        found = resnext.predict(predictor, images, batch_size=3)
    for one, expected in zip(found, resnext.predict(network, images), strict=True):
        assert one.top(1)[0][0] == expected.top(1)[0][0]
        np.testing.assert_allclose(one.probabilities, expected.probabilities, atol=1e-5)
    with pytest.raises(RequestError, match="runs on pytorch, not on onnxruntime"):
        Predictor.load(path, engine="onnxruntime")


PLAIN = """
import json, sys
import numpy as np, torch
extra = {"resnext.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra)
assert not any(name.startswith("resnext") for name in sys.modules)
outputs = program.module()(torch.from_numpy(np.load(sys.argv[2])))
np.savez(sys.argv[3], info=np.array(extra["resnext.json"]), **{k: v.detach().numpy() for k, v in outputs.items()})
"""


@pytest.mark.parametrize("batch", [None, 3])
def test_plain_pytorch_without_this_package_gets_the_same_numbers_and_facts(batch: int | None, tmp_path: Path) -> None:
    network, pixels = make_network(), make_pixels(3)
    path = write(network, tmp_path / "m.pt2", with_cam=True, batch=batch)
    np.save(tmp_path / "x.npy", pixels)
    command = [sys.executable, "-I", "-c", PLAIN, str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found, ours = np.load(tmp_path / "y.npz"), open_engine(path)(pixels)
    expected, _ = compute_reference(network, pixels)
    assert [name for name in found.files if name != "info"] == ["logits", "probabilities", "cam"]
    assert compute_relative_error(found["logits"], expected) <= 1e-5
    np.testing.assert_allclose(found["cam"], ours.cam, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, rtol=1e-5)
    info = json.loads(str(found["info"]))
    assert info["classes"] == list(network.classes or ())
    assert info["outputs"] == ["logits", "probabilities", "cam"]


def test_the_file_has_no_pickle_and_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    entries = read_entries(write(make_network(), tmp_path / "m.pt2"))
    assert entries["data/sample_inputs/model.pt"] == b""
    text = entries["models/model.json"].decode()
    assert "stack_trace" not in text
    assert ".py" not in text
    assert '"use_pickle": true' not in entries["data/weights/model_weights_config.json"].decode()


def test_threads_get_the_results_of_their_own_images(tmp_path: Path) -> None:
    network = make_network()
    engine = open_engine(write(network, tmp_path / "m.pt2"))
    pixels = make_pixels(8)
    expected = [engine(pixels[i : i + 1]).logits for i in range(8)]
    wrong: list[int] = []

    def run(i: int) -> None:
        results = [engine(pixels[i : i + 1]).logits for _ in range(10)]
        wrong.extend(i for result in results if not np.array_equal(result, expected[i]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_arrays_that_do_not_fit_and_closed_engines_are_refused(tmp_path: Path) -> None:
    engine = open_engine(write(make_network(), tmp_path / "m.pt2"))
    float_images, one_image = np.zeros((1, 3, 32, 32), np.float32), np.zeros((32, 32, 3), np.uint8)
    for wrong in (float_images, one_image, make_pixels(0), make_pixels(1, channels=1)):
        with pytest.raises(RequestError, match=r"takes uint8 \[B, H, W, 3\], not (uint8|float32) \["):
            engine(wrong)
    read_only = make_pixels(1)
    read_only.flags.writeable = False
    engine(read_only)
    engine.close()
    with pytest.raises(WorkError, match="closed"):
        engine(make_pixels(1))


def test_an_older_torch_is_told_that_it_cannot_write_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch_export, "OLDEST", "99.0")
    with pytest.raises(RequestError, match=r"need torch 99.0 or newer; this is torch"):
        write(make_network(), tmp_path / "m.pt2")
