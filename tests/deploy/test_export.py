"""Tests of exports: the file gives the network's results in a process without torch, or nothing is written."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import resnext
from resnext import Network, RequestError, WorkError
from resnext.data.preprocessing import Preprocessing
from resnext.deploy import export, verify
from resnext.deploy.export import ExportRequest, ExportResult, export_classifier
from resnext.deploy.export_info import FORMATS
from resnext.deploy.exported import find_exported_file, open_exported
from resnext.deploy.predictor import Predictor
from resnext.evaluation.outputs import get_preprocessing
from resnext.settings import DataSettings
from tests.deploy.networks import lived
from tests.deploy.test_engines import usable

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "torch-export": "pytorch"}
NAMES = tuple(f'class {i} "ü" <b>\n🐈' for i in range(10))
pytestmark = pytest.mark.usefixtures("one_thread")


def make_network(channels: int = 3, **changes: object) -> Network:
    network = lived("resnext11_2x4d", in_channels=channels, **changes)
    network.classes = NAMES
    network.preprocessing = Preprocessing(
        image_size=32, resize=36, channels=channels, mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.2, 0.3)[:channels]
    )
    return network


def make_images(count: int = 11, channels: int = 3) -> list[Image.Image]:
    random = np.random.default_rng(5)
    sizes = random.integers(30, 60, (count, 2)).tolist()
    shape = (3,) if channels == 3 else ()
    return [Image.fromarray(random.integers(0, 256, (h, w, *shape), np.uint8)) for h, w in sizes]


def export_to(folder: Path, target: str, network: Network, **options: object) -> ExportResult:
    usable(ENGINES[target], "fp32")
    request = ExportRequest(format=target, **options)  # type: ignore[arg-type]
    images = make_images(channels=network.architecture.in_channels)
    return export_classifier(network, folder / f"model{FORMATS[target]}", request, images)


def list_combinations() -> list[object]:
    """All kinds of networks, inputs and formats; most of torch.export's, which take seconds each, are slow tests."""
    kinds = [{}, {"pre_activation": True}, {"channels": 1}]
    return [
        pytest.param(kind, given, target, marks=[pytest.mark.slow] if target == "torch-export" and kind else [])
        for kind, given, target in product(kinds, ["pixels", "picture", "normalised"], FORMATS)
    ]


@pytest.mark.parametrize(("kind", "given", "target"), list_combinations())
def test_predictions_from_the_file_are_those_of_the_network(
    target: str, given: str, kind: dict, tmp_path: Path
) -> None:
    network = make_network(**kind)
    result = export_to(tmp_path, target, network, input=given, with_cam=True)
    assert result.agreement.same_top1 == result.agreement.images == 11
    assert result.agreement.relative_error < (1e-2 if given == "picture" else 1e-5)
    images = make_images(7, network.architecture.in_channels)
    with Predictor.load(result.path) as predictor:
        found = resnext.predict(predictor, images, batch_size=3)
        outputs = predictor.infer(predictor.prepare(images[0])[None])
    for one, expected in zip(found, resnext.predict(network, images), strict=True):
        assert one.probabilities is not None
        assert one.top(1)[0][0] == expected.top(1)[0][0]
        np.testing.assert_allclose(one.probabilities, expected.probabilities, atol=1e-3 if given == "picture" else 1e-5)
    assert outputs.cam is not None
    bias = network.fc.bias.detach().numpy()
    np.testing.assert_allclose(outputs.cam.mean((2, 3)) + bias, outputs.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("given", ["pixels", "picture"])
def test_a_file_that_takes_blue_first_is_given_images_in_rgb_all_the_same(
    target: str, given: str, tmp_path: Path
) -> None:
    network, images = make_network(), make_images(3)
    result = export_to(tmp_path, target, network, input=given, bgr=True)
    found = resnext.predict(Predictor.load(result.path), images)
    for one, expected in zip(found, resnext.predict(network, images), strict=True):
        np.testing.assert_allclose(one.probabilities, expected.probabilities, atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", FORMATS)
def test_another_program_finds_classes_and_preprocessing_in_the_file_alone(target: str, tmp_path: Path) -> None:
    network = make_network()
    network.provenance = {"recipe": "digits", "path": Path("/x")}
    result = export_to(tmp_path, target, network)
    info = open_exported(result.path).info
    assert tuple(info.classes or ()) == NAMES
    assert info.parse_preprocessing() == network.preprocessing
    assert info.parse_architecture() == network.architecture
    assert info.provenance["recipe"] == "digits"
    assert info.tools["resnext"] == resnext.__version__
    assert info.agreement is not None
    assert info.agreement["batches"] == [1, 3, 7]
    if target == "onnx":
        onnx = pytest.importorskip("onnx")
        props = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
        assert props["Image.BitmapPixelFormat"] == "Rgb8"
    names = {"openvino": ["model.bin", "model.xml"]}.get(target, [f"model{FORMATS[target]}"])
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("target", FORMATS)
def test_a_thousand_names_of_any_letters_are_read_by_a_process_that_knows_only_the_file(
    target: str, tmp_path: Path
) -> None:
    usable(ENGINES[target], "fp32")
    network = make_network(num_classes=1000)
    ends = [
        "",
        " ",
        "'",
        '"',
        "\\",
        "\n",
        "\r\n",
        "\t",
        ",",
        "\x1f",
        "</net>",
        "&amp;",
        "]]>",
        "\u2028",
        "🐈‍⬛",
        "{0}",
        '"""',
    ]
    names = [f"{ends[i % len(ends)]}{i} name{ends[-i % len(ends)]}" for i in range(1000)]
    network.classes = tuple(names)
    file, image = tmp_path / f"model{FORMATS[target]}", tmp_path / "x.png"
    request = ExportRequest(format=target)
    made = export.build_model(export.fold(network), target, request.get_interface(get_preprocessing(network)))
    export.write_model(made, export.describe_export(network, request, None), file)
    make_images(1)[0].save(image)
    code = (
        "import json, sys, resnext; predictor = resnext.Predictor.load(sys.argv[1]); "
        "(one,) = resnext.predict(predictor, sys.argv[2]); "
        "print(json.dumps([predictor.classes, [name for name, _ in one.top(1000)]]))"
    )
    command = [sys.executable, "-c", code, str(file), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found, ordered = json.loads(done.stdout)
    assert found == names
    assert sorted(ordered) == sorted(names)
    if target == "onnx":
        onnx = pytest.importorskip("onnx")
        props = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert ast.literal_eval(props["names"]) == dict(enumerate(names))  # as ultralytics reads it
    elif target == "openvino":
        (labels,) = ElementTree.parse(file).findall("./rt_info/model_info/labels")
        assert len(labels.attrib["value"].split(" ")) == 1000  # as OpenVINO's Model API separates them


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_predicting_with_an_exported_file_does_not_import_torch(target: str, tmp_path: Path) -> None:
    result = export_to(tmp_path, target, make_network())
    image = tmp_path / "one.png"
    make_images(1)[0].save(image)
    code = (
        "import sys; from resnext.cli import main; "
        f"status = main(['predict', {str(result.path)!r}, {str(image)!r}]); "
        "print(status, 'torch' in sys.modules, 'torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-3:] == ["0", "False", "False"], done.stderr


@pytest.mark.parametrize("target", FORMATS)
def test_a_fixed_batch_need_not_divide_the_number_of_images(target: str, tmp_path: Path) -> None:
    assert export_to(tmp_path, target, make_network(), batch=3, with_cam=True).agreement.same_top1 == 11


@pytest.mark.parametrize("target", FORMATS)
def test_a_file_that_disagrees_is_an_error_and_nothing_is_left(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = export.fold

    def spoil(network: Network) -> export.FoldedNetwork:
        folded = fold(network)
        folded.fc.weight.data[0] *= 1.001  # type: ignore[operator, union-attr]
        return folded

    monkeypatch.setattr(export, "fold", spoil)
    with pytest.raises(WorkError, match="disagrees with the network: the relative error of its logits is"):
        export_to(tmp_path / "new", target, make_network())
    assert not (tmp_path / "new").exists()


def test_a_network_that_amplifies_rounding_may_differ_as_far_as_its_own_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "FP32_RELATIVE_ERROR", 1e-12)  # below what rounding does to any network
    agreement = export_to(tmp_path, "onnx", make_network()).agreement
    assert 1e-8 < agreement.rounding < 1e-5
    assert agreement.relative_error <= verify.ROUNDING * agreement.rounding


def test_a_file_that_is_there_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_to(tmp_path, "onnx", make_network())
    before = (tmp_path / "model.onnx").read_bytes()
    monkeypatch.setattr(export, "compare_with_network", lambda *_: (_ for _ in ()).throw(WorkError("no")))
    with pytest.raises(WorkError):
        export_to(tmp_path, "onnx", make_network())
    assert (tmp_path / "model.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("target", FORMATS)
def test_evaluating_the_file_gives_the_networks_errors(target: str, tmp_path: Path) -> None:
    dataset = resnext.open_data(DataSettings(source="digits")).val
    network = lived("resnext11_2x4d", in_channels=1)
    network.classes = tuple(dataset.classes)
    network.preprocessing = Preprocessing(image_size=16, resize=16, channels=1, mean=(0.3,), std=(0.3,))
    result = export_to(tmp_path, target, network)
    for options in ({}, {"view": "center+flip"}):
        found = resnext.evaluate(result.path, dataset, resnext.EvalOptions(**options))
        expected = resnext.evaluate(network, dataset, resnext.EvalOptions(**options))
        assert np.array_equal(found.predicted, expected.predicted)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_a_folder_names_its_only_file_and_a_version_folder_its_newest(tmp_path: Path) -> None:
    for version in ("2", "10"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "model.onnx").touch()
    assert find_exported_file(tmp_path) == tmp_path / "10" / "model.onnx"
    (tmp_path / "a.onnx").touch()
    assert find_exported_file(tmp_path) == tmp_path / "a.onnx"
    (tmp_path / "b.xml").touch()
    with pytest.raises(RequestError, match=r"several exported files \(a.onnx, b.xml\)"):
        find_exported_file(tmp_path)
    assert find_exported_file(tmp_path / "x.safetensors") is None


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda network: None, {"engine": "openvino"}, "runs on onnxruntime, not on openvino"),
        (lambda network: None, {"precision": "int8"}, "is in fp32; export it again for int8"),
    ],
)
def test_options_that_do_not_fit_the_file_are_one_sentence(
    make: Callable[[Network], None], options: dict, sentence: str, tmp_path: Path
) -> None:
    network = make_network()
    make(network)
    result = export_to(tmp_path, "onnx", network)
    with pytest.raises(RequestError, match=sentence):
        Predictor.load(result.path, **options)


def test_floats_and_closed_predictors_are_refused(tmp_path: Path) -> None:
    result = export_to(tmp_path, "openvino", make_network())
    predictor = Predictor.load(result.path)
    with pytest.raises(RequestError, match="normalises images itself"):
        predictor(torch.zeros(1, 3, 32, 32))
    assert predictor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 10)
    predictor.close()
    with pytest.raises(WorkError, match="closed"):
        predictor.infer(np.zeros((1, 32, 32, 3), np.uint8))


def test_ordinary_onnx_and_openvino_models_are_not_ours(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    result = export_to(tmp_path, "onnx", make_network())
    model = onnx.load(result.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RequestError, match=r"has no resnext.json in its metadata"):
        open_exported(tmp_path / "other.onnx")
    (tmp_path / "text.xml").write_text("<html></html>")
    (tmp_path / "text.bin").touch()
    with pytest.raises(RequestError, match="not a model of OpenVINO"):
        open_exported(tmp_path / "text.xml")
    (tmp_path / "text.bin").unlink()
    with pytest.raises(RequestError, match=r"its weights, text.bin, do not lie beside it"):
        open_exported(tmp_path / "text.xml")


def test_the_info_is_also_what_the_result_says(tmp_path: Path) -> None:
    result = export_to(tmp_path, "onnx", make_network(), batch=None, with_cam=True)
    assert open_exported(result.path).info == result.info
    assert json.loads(result.info.to_json())["outputs"] == ["logits", "probabilities", "cam"]
