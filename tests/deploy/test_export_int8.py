"""Tests of exports to int8: a file is kept only if held-out images show that it loses little."""

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

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
from resnext.deploy.int8_export import Int8Plan, describe_try
from resnext.deploy.int8_judge import Judge, LabelledImages
from resnext.deploy.layouts import write_layout
from resnext.deploy.openvino_engine import OpenVinoEngine
from resnext.deploy.predictor import Predictor
from resnext.settings import DataSettings
from tests.conftest import run_resnext
from tests.deploy.test_engines import usable
from tests.figures import leave_figures_blank

pytestmark = pytest.mark.usefixtures("one_thread")
TARGETS = {"openvino": ("openvino", ".xml"), "onnx": ("onnxruntime", ".onnx")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a small network on the digits, and its about 10 % of errors on 359 held-out images."""
    pytest.importorskip("nncf")
    folder = tmp_path_factory.mktemp("int8") / "digits"
    small = ["--model.blocks", "1,1,1", "--augment.mixup", "0", "--train.epochs", "2"]
    with leave_figures_blank():
        assert main(["train", "small/digits", *small, "--run", str(folder)]) == 0
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def deep_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of the whole network of small/digits, in which one block of many can be poisoned."""
    pytest.importorskip("nncf")
    folder = tmp_path_factory.mktemp("int8") / "deep"
    with leave_figures_blank():
        assert main(["train", "small/digits", "--train.epochs", "3", "--run", str(folder)]) == 0
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def network(run: Path) -> Network:
    return resnext.load(run)


@pytest.fixture(scope="module")
def kept(run: Path) -> tuple[Path, str]:
    """An OpenVINO file that ``resnext export --int8`` keeps, and what the command prints."""
    usable("openvino", "fp32")
    torch.set_num_threads(1)
    printed = io.StringIO()
    words = ["--to", "openvino", "--with-cam", "--int8", "--max-loss", "5", "--out", str(run / "kept.xml")]
    with redirect_stdout(printed):
        assert main(["export", str(run), *words]) == 0
    return run / "kept.xml", " ".join(printed.getvalue().split())


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


def check_measurement(network: Network, file: Path, tries: list[dict[str, Any]]) -> None:
    """Compare what the file says with an evaluation of it."""
    dataset = resnext.open_data(DataSettings(source="digits")).val
    before, after = (resnext.evaluate(model, dataset).predicted for model in (network, file))
    labels = dataset.labels
    assert tries[-1]["images"] == 359
    assert tries[-1]["only_fp32"] == ((before == labels) & (after != labels)).sum()
    assert tries[-1]["only_int8"] == ((before != labels) & (after == labels)).sum()
    assert tries[-1]["right_fp32"] == (before == labels).sum() > 200


def test_a_kept_file_holds_what_was_measured_on_it(kept: tuple[Path, str], network: Network) -> None:
    file, printed = kept
    info = open_exported(file).info
    assert (info.precision, info.batch) == ("int8", 1)
    assert "nncf" in info.tools
    assert info.int8 is not None
    check_measurement(network, file, info.int8["tries"])
    one = info.int8["tries"][-1]
    assert one["bound"] <= info.int8["max_loss"] == 0.05
    assert one["int8_layers"] == one["layers"] > 10
    assert f"kept: {describe_try(one)}" in printed
    assert info.agreement is not None
    assert info.agreement["cam_correlation"] >= 0.95


@pytest.mark.slow
def test_a_kept_onnx_file_holds_what_was_measured_on_it(network: Network, run: Path, tmp_path: Path) -> None:
    result = export_to(tmp_path, network, make_plan(network, run, 0.05), "onnx", with_cam=True)
    assert open_exported(result.path).info == result.info
    assert result.info.int8 is not None
    check_measurement(network, result.path, result.info.int8["tries"])
    assert result.agreement.cam_correlation is not None
    assert result.agreement.cam_correlation >= 0.95


def check_static(file: Path, shape: list[int]) -> None:
    """Check as a server reads a file that it is quantised and no dimension of it can vary (openvino#37577)."""
    ov = pytest.importorskip("openvino")
    model = ov.Core().read_model(file)
    shapes = [output.get_partial_shape() for node in model.get_ordered_ops() for output in node.outputs()]
    assert all(one.is_static for one in shapes)
    assert list(model.input(0).shape) == shape
    assert sum(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops()) > 10


def test_no_dimension_of_an_openvino_file_is_dynamic_and_our_engine_takes_any_batch(kept: tuple[Path, str]) -> None:
    check_static(kept[0], [1, 16, 16, 1])
    with Predictor.load(kept[0]) as predictor:
        dataset = resnext.open_data(DataSettings(source="digits")).val
        pixels = np.stack([predictor.prepare(dataset.image(index)) for index in range(7)])
        together, alone = predictor.infer(pixels), [predictor.infer(one[None]) for one in pixels]
    np.testing.assert_allclose(together.logits, np.concatenate([one.logits for one in alone]), rtol=1e-3, atol=1e-3)
    assert together.cam is not None
    assert together.cam.shape[:2] == (7, 10)


def test_the_engine_refuses_an_int8_model_whose_dimensions_stay_dynamic() -> None:
    ov = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    x = ops.parameter(ov.PartialShape([-1, 3]), np.float32, "images")
    model = ov.Model([ops.gather(x, ops.squeeze(ops.non_zero(x, "i64"), np.array([1])), np.array(0))], [x])
    with pytest.raises(WorkError, match=r"the int8 model has a dimension of any size, at .*openvino#37577"):
        OpenVinoEngine(model, "int8", 0, 1, 1)(np.ones((1, 3), np.float32))


@pytest.mark.slow
@pytest.mark.usefixtures("one_try")
def test_normalised_images_in_a_fixed_batch_are_static_too(network: Network, run: Path, tmp_path: Path) -> None:
    result = export_to(tmp_path, network, make_plan(network, run, 0.05), input="normalised", batch=4)
    check_static(result.path, [4, 1, 16, 16])


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "target"), [("ovms", "openvino"), ("kserve", "openvino"), ("triton", "onnx")])
def test_a_model_server_gets_the_quantised_file_and_its_shape(
    layout: str, target: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usable(TARGETS[target][0], "fp32")
    out, storage = tmp_path / "models", ["--storage-uri", "s3://b/d"] if layout == "kserve" else []
    words = ["--to", target, "--int8", "--max-loss", "5", "--layout", layout, "--name", "d", *storage]
    assert main(["export", str(run), *words, "--out", str(out)]) == 0
    assert "kept: 300 calibration images" in " ".join(capsys.readouterr().out.split())
    place = {"ovms": "d-pixels", "kserve": "storage", "triton": "d"}[layout]
    file = out / place / "1" / f"model{TARGETS[target][1]}"
    assert open_exported(file).info.precision == "int8"
    if target == "openvino":
        check_static(file, [1, 16, 16, 1])
    if layout == "ovms":
        (entry,) = json.loads((out / "config.json").read_text())["model_config_list"]
        assert entry["config"]["name"] == "d-pixels"
        assert entry["config"]["shape"] == {"images": "(1,16,16,1)"}
        readme = (out / "README.md").read_text()
        assert "`d-pixels` takes uint8 [1, 16, 16, 1]" in readme
        assert "JPEG" not in readme


@pytest.mark.slow
@pytest.mark.usefixtures("one_try")
def test_a_layout_of_a_network_that_loses_too_much_is_not_made(network: Network, run: Path, tmp_path: Path) -> None:
    usable("openvino", "fp32")
    poisoned = poison(network)
    plan, out = make_plan(poisoned, run, 0.05), tmp_path / "models"
    images = [plan.judged.dataset.image(index) for index in range(9)]
    with pytest.raises(WorkError, match="int8 loses"):
        write_layout(poisoned, out, "ovms", "openvino", "d", images, int8=plan)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("one_try")
@pytest.mark.parametrize("given", ["pixels", "picture"])
def test_preprocessing_before_a_quantised_onnx_model_is_exact(
    given: str, network: Network, run: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    plan = make_plan(network, run, 0.05)
    plain = export_to(tmp_path / "plain", network, plan, "onnx", input="normalised")
    result = export_to(tmp_path, network, plan, "onnx", input=given)
    kinds = [node.op_type for node in onnx.load(result.path).graph.node]
    assert kinds.count("QuantizeLinear") > 10
    images = [plan.judged.dataset.image(index) for index in range(5)]
    with Predictor.load(plain.path) as first, Predictor.load(result.path) as second:
        expected = first.infer_all([first.prepare(image) for image in images]).logits
        found = second.infer_all([second.prepare(image) for image in images]).logits
    np.testing.assert_allclose(found, expected, atol=0.5 if given == "picture" else 1e-5)


@pytest.mark.slow
def test_few_images_fail_with_the_number_that_is_needed(network: Network, run: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError) as caught:
        export_to(tmp_path / "new", network, make_plan(network, run, 0.005))
    words = str(caught.value)
    assert "on 359 images" in words
    assert "--max-loss allows 0.5 points" in words
    assert "held-out images would show it" in words or "are too few" in words
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
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
def test_accuracy_control_saves_a_network_with_one_poisoned_block(target: str, deep_run: Path, tmp_path: Path) -> None:
    poisoned = poison(resnext.load(deep_run), slice(3, 4))
    result = export_to(tmp_path, poisoned, make_plan(poisoned, deep_run, 0.05), target)
    assert result.info.int8 is not None
    *failed, kept = result.info.int8["tries"]
    assert len(failed) == 3
    assert all(one["loss"] > 0.1 for one in failed)
    assert kept["bound"] <= 0.05
    assert kept["layers"] / 2 < kept["int8_layers"] < kept["layers"]


@pytest.mark.slow
def test_a_network_that_needs_floating_point_everywhere_is_not_kept(deep_run: Path, tmp_path: Path) -> None:
    poisoned = poison(resnext.load(deep_run))
    with pytest.raises(WorkError, match=r"int8 loses .* after 4 tries; .*export in fp32"):
        export_to(tmp_path / "new", poisoned, make_plan(poisoned, deep_run, 0.05))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
