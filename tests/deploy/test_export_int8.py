"""Tests of exports to int8: a file is kept only if held-out images show that it loses little."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resnext
from resnext import Network, WorkError
from resnext.cli import main
from resnext.commands.export_int8 import load_judged_images
from resnext.data.sources.fashion_mnist import DEBIAN_FOLDER
from resnext.deploy import int8_export
from resnext.deploy.export import ExportRequest, ExportResult, export_classifier
from resnext.deploy.exported import open_exported
from resnext.deploy.int8 import list_steps, load_calibration_images
from resnext.deploy.int8_export import Int8Plan
from resnext.deploy.int8_judge import Judge, LabelledImages
from resnext.deploy.predictor import Predictor
from resnext.settings import DataSettings
from tests.conftest import run_resnext
from tests.deploy.test_engines import usable

pytestmark = pytest.mark.usefixtures("one_thread")
TARGETS = {"openvino": ("openvino", ".xml"), "onnx": ("onnxruntime", ".onnx")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of three epochs on the digits: about 7 % error on 359 held-out images."""
    pytest.importorskip("nncf")
    folder = tmp_path_factory.mktemp("int8") / "digits"
    run_resnext("train", "small/digits", "--train.epochs", 3, "--run", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def network(run: Path) -> Network:
    return resnext.load(run)


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first way to quantise."""
    monkeypatch.setattr(int8_export, "list_steps", lambda model: list_steps(model)[:1])
    monkeypatch.setattr(int8_export, "CONFIDENCES", (0.95,))


def make_plan(network: Network, run: Path, max_loss: float, **changes: object) -> Int8Plan:
    values = {
        "calibrate": lambda count: load_calibration_images(network, run, None, count),
        "judged": load_judged_images(None, network, run),
        "max_loss": max_loss,
        "calibration_source": "training images",
    }
    return Int8Plan(**(values | changes))  # type: ignore[arg-type]


def export_to(folder: Path, network: Network, plan: Int8Plan, target: str = "openvino", **more: object) -> ExportResult:
    engine, suffix = TARGETS[target]
    usable(engine, "fp32")
    request = ExportRequest(format=target, precision="int8", **more)  # type: ignore[arg-type]
    images = [plan.judged.dataset.image(index) for index in range(0, len(plan.judged.dataset), 24)]
    return export_classifier(network, folder / f"model{suffix}", request, images, int8=plan)


def poison(network: Network, blocks: slice = slice(None), factor: float = 3000.0) -> Network:
    """Make one channel of the activations within blocks large, and the weights that take it small.

    In fp32 nothing changes, but one scale for the whole activation then leaves no levels for the other channels.
    """
    for block in [one for one in network.modules() if hasattr(one, "bn2") and hasattr(one, "conv3")][blocks]:
        block.bn2.weight.data[0] *= factor  # type: ignore[union-attr,operator]
        block.bn2.bias.data[0] *= factor  # type: ignore[union-attr,operator]
        block.conv3.weight.data[:, 0] /= factor  # type: ignore[union-attr,operator]
    return network


@pytest.mark.parametrize("target", TARGETS)
def test_a_kept_file_holds_what_was_measured_on_it(target: str, network: Network, run: Path, tmp_path: Path) -> None:
    result = export_to(tmp_path, network, make_plan(network, run, 0.05), target, with_cam=True)
    info = open_exported(result.path).info
    assert info == result.info
    assert info.precision == "int8"
    assert "nncf" in info.tools
    assert info.int8 is not None
    kept = info.int8["tries"][-1]
    assert kept["bound"] <= info.int8["max_loss"] == 0.05
    assert (kept["images"], kept["int8_layers"]) == (359, kept["layers"])
    dataset = resnext.open_data(DataSettings(source="digits")).val
    before, after = (resnext.evaluate(model, dataset).predicted for model in (network, result.path))
    labels = dataset.labels
    assert kept["only_fp32"] == ((before == labels) & (after != labels)).sum()
    assert kept["only_int8"] == ((before != labels) & (after == labels)).sum()
    assert kept["right_fp32"] == (before == labels).sum()
    assert result.agreement.cam_correlation is not None
    assert result.agreement.cam_correlation >= 0.95


@pytest.mark.usefixtures("one_try")
@pytest.mark.parametrize(("given", "batch"), [("pixels", None), ("normalised", 4)])
def test_no_dimension_of_an_openvino_file_is_dynamic_and_our_engine_takes_any_batch(
    given: str, batch: int | None, network: Network, run: Path, tmp_path: Path
) -> None:
    ov = pytest.importorskip("openvino")
    result = export_to(tmp_path, network, make_plan(network, run, 0.05), input=given, batch=batch, with_cam=True)
    model = ov.Core().read_model(result.path)
    shapes = [output.get_partial_shape() for node in model.get_ordered_ops() for output in node.outputs()]
    assert all(shape.is_static for shape in shapes)
    assert list(model.input(0).shape) == ([batch or 1, 16, 16, 1] if given == "pixels" else [batch or 1, 1, 16, 16])
    assert sum(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops()) > 20
    with Predictor.load(result.path) as predictor:
        dataset = resnext.open_data(DataSettings(source="digits")).val
        pixels = np.stack([predictor.prepare(dataset.image(index)) for index in range(7)])
        together, alone = predictor.infer(pixels), [predictor.infer(one[None]) for one in pixels]
    np.testing.assert_allclose(together.logits, np.concatenate([one.logits for one in alone]), rtol=1e-3, atol=1e-3)
    assert together.cam is not None
    assert together.cam.shape[:2] == (7, 10)


@pytest.mark.usefixtures("one_try")
@pytest.mark.parametrize("given", ["pixels", pytest.param("picture", marks=pytest.mark.slow)])
def test_preprocessing_before_a_quantised_onnx_model_is_exact(
    given: str, network: Network, run: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    plan = make_plan(network, run, 0.05)
    plain = export_to(tmp_path / "plain", network, plan, "onnx", input="normalised")
    result = export_to(tmp_path, network, plan, "onnx", input=given)
    kinds = [node.op_type for node in onnx.load(result.path).graph.node]
    assert kinds.count("QuantizeLinear") > 20
    images = [plan.judged.dataset.image(index) for index in range(5)]
    with Predictor.load(plain.path) as first, Predictor.load(result.path) as second:
        expected = first.infer_all([first.prepare(image) for image in images]).logits
        found = second.infer_all([second.prepare(image) for image in images]).logits
    np.testing.assert_allclose(found, expected, atol=0.5 if given == "picture" else 1e-5)


def test_few_images_fail_with_the_number_that_is_needed(network: Network, run: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError) as caught:
        export_to(tmp_path / "new", network, make_plan(network, run, 0.005))
    words = str(caught.value)
    assert "on 359 images" in words
    assert "--max-loss allows 0.5 points" in words
    assert "held-out images would show it" in words or "are too few" in words
    assert not (tmp_path / "new").exists()


def test_fifty_images_never_pass_however_good_they_look(network: Network, run: Path, tmp_path: Path) -> None:
    whole = load_judged_images(None, network, run)
    few = LabelledImages(resnext.data.dataset.Subset(whole.dataset, np.arange(50)), "fifty")
    with pytest.raises(WorkError, match=r"on 50 images .* --max-loss allows 5 points"):
        export_to(tmp_path / "new", network, make_plan(network, run, 0.05, judged=few))
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("one_try")
def test_a_poisoned_network_is_not_kept(network: Network, run: Path, tmp_path: Path) -> None:
    before = load_judged_images(None, network, run)
    right = Judge(network, before).right_fp32
    poisoned = poison(network)
    assert (Judge(poisoned, before).right_fp32 == right).mean() > 0.99  # fp32 does not notice
    with pytest.raises(WorkError, match=r"int8 loses [1-9]\d\.\d\d points .*export in fp32.*nothing was written"):
        export_to(tmp_path / "new", poisoned, make_plan(poisoned, run, 0.05))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_accuracy_control_saves_a_network_with_one_poisoned_block(
    target: str, network: Network, run: Path, tmp_path: Path
) -> None:
    poisoned = poison(network, slice(3, 4))
    result = export_to(tmp_path, poisoned, make_plan(poisoned, run, 0.05), target)
    assert result.info.int8 is not None
    *failed, kept = result.info.int8["tries"]
    assert len(failed) == 3
    assert all(one["loss"] > 0.1 for one in failed)
    assert kept["bound"] <= 0.05
    assert kept["layers"] / 2 < kept["int8_layers"] < kept["layers"]


@pytest.mark.slow
def test_a_network_that_needs_floating_point_everywhere_is_not_kept(
    network: Network, run: Path, tmp_path: Path
) -> None:
    poisoned = poison(network)
    with pytest.raises(WorkError, match=r"int8 loses .* after 4 tries; .*export in fp32"):
        export_to(tmp_path / "new", poisoned, make_plan(poisoned, run, 0.05))
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("one_try")
@pytest.mark.parametrize("make", [torch.zeros, lambda *shape: 1000 * torch.rand(*shape)])
def test_wrong_calibration_images_are_found_out(
    make: Callable[..., torch.Tensor], network: Network, run: Path, tmp_path: Path
) -> None:
    plan = make_plan(network, run, 0.02, calibrate=lambda count: make(20, 1, 16, 16), calibration_source="noise")
    with pytest.raises(WorkError, match=r"int8 loses .* --max-loss allows 2 points"):
        export_to(tmp_path / "new", network, plan)
    assert not (tmp_path / "new").exists()


def test_a_file_that_does_not_run_is_one_sentence_when_it_is_judged(
    network: Network, run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(WorkError, match=r"does not run: .*broken.onnx.* is not an ONNX model"):
        Judge(network, load_judged_images(None, network, run)).judge(tmp_path / "broken.onnx")


@pytest.mark.usefixtures("one_try")
def test_an_onnx_file_of_a_fixed_batch_takes_it(network: Network, run: Path, tmp_path: Path) -> None:
    result = export_to(tmp_path, network, make_plan(network, run, 0.05), "onnx", batch=3)
    with Predictor.load(result.path) as predictor:
        assert predictor.infer(np.zeros((3, 16, 16, 1), np.uint8)).logits.shape == (3, 10)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--max-loss", "1"], "--max-loss is for --int8"),
        (["--calibration", "x"], "--calibration is for --int8"),
        (["--int8", "--max-loss", "0"], "--max-loss 0 should be percentage points"),
        (["--int8", "--to", "torch-export"], "torch-export has no int8; choose --to openvino"),
        (["--int8", "--input", "picture"], r"openvino#37577\): choose --input pixels"),
        (["--int8"], "give --calibration DIR"),
        (["--int8", "--calibration", "."], "give --data DIR, with one folder per class"),
        (["--int8", "--calibration", ".", "--data", "./x"], "overlap"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    options: list[str],
    sentence: str,
    network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    resnext.save(network, tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    to = [] if "--to" in options else ["--to", "openvino"]
    assert main(["export", "w.safetensors", *to, *options]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_command_judges_by_a_folder_per_class(network: Network, tmp_path: Path) -> None:
    source = resnext.open_data(DataSettings(source="digits"))
    for name, dataset, count in (("held-out", source.val, 200), ("training", source.train, 100)):
        for index in range(count):
            folder = tmp_path / name / dataset.classes[dataset.labels[index]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(dataset.image(index))).save(folder / f"{index}.png")
    resnext.save(network, tmp_path / "w.safetensors")
    done = run_resnext(
        "export", tmp_path / "w.safetensors", "--to", "openvino", "--out", tmp_path / "o.xml",
        "--int8", "--max-loss", 9, "--calibration", tmp_path / "training",
        "--data", tmp_path / "held-out", "--images", tmp_path / "held-out",
    )  # fmt: skip
    assert "kept: 300 calibration images" in " ".join(done.stdout.split())
    info = open_exported(tmp_path / "o.xml").info
    assert info.int8 is not None
    assert info.int8["judged"] == str(tmp_path / "held-out")
    assert (info.int8["tries"][0]["images"], info.int8["tries"][0]["calibration_images"]) == (200, 100)
    assert json.loads(info.to_json())["int8"] == info.int8


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_ten_thousand_images_show_a_loss_of_at_most_half_a_point(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    data = ["--data.path", DEBIAN_FOLDER, "--data.max_train_images", 8000]
    options = [*data, "--train.epochs", 2, "--train.precision", "fp32"]
    run_resnext("train", "small/fashion-mnist", *options, "--run", tmp_path / "run")
    done = run_resnext("export", tmp_path / "run", "--to", "openvino", "--int8", "--out", tmp_path / "o.xml")
    print(done.stdout)
    info = open_exported(tmp_path / "o.xml").info
    assert info.int8 is not None
    kept = info.int8["tries"][-1]
    assert kept["images"] == 10_000
    assert kept["loss"] <= kept["bound"] <= 0.005
