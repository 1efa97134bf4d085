from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from resnext.deploy.export import ExportRequest, describe_export, write_model
from resnext.deploy.fold import fold
from resnext.deploy.int8 import quantize_int8
from resnext.deploy.predictor import Predictor
from resnext.deploy.signal_stack import preserve_signal_stack
from resnext.errors import RequestError
from resnext.evaluation.predict import predict
from resnext.serving.app import make_app
from resnext.serving.loading import LoadOptions, ModelSource, load_model, name_models
from resnext.serving.served_model import list_sizes
from resnext.serving.service import Service
from resnext.weights.native import save
from tests.deploy.networks import images, lived
from tests.serving.fakes import make_preprocessing


def make_files(folder: Path, *names: str) -> list[str]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [str(path) for path in paths]


def test_models_are_named_after_their_files_and_folders(tmp_path):
    (tmp_path / "my run").mkdir()
    paths = [*make_files(tmp_path, "cats v1.2.safetensors"), str(tmp_path / "my run"), "hf://someone/birds"]
    models, notes = name_models(paths)
    assert [model.name for model in models] == ["cats-v1.2", "my-run", "birds"]
    assert [model.source for model in models] == paths
    assert notes == []


def test_equal_names_get_a_number_which_is_said(tmp_path):
    paths = make_files(tmp_path, "a/net.onnx", "b/net.onnx", "c/net.onnx")
    models, notes = name_models(paths)
    assert [model.name for model in models] == ["net", "net-2", "net-3"]
    assert len(notes) == 2
    assert paths[1] in notes[0]
    assert "net-2" in notes[0]


def test_names_can_be_given(tmp_path):
    (path,) = make_files(tmp_path, "net=1.onnx")
    assert name_models([f"cats={path}"])[0] == [ModelSource("cats", path)]
    assert name_models([path])[0][0].source == path
    assert name_models([path], "dogs")[0] == [ModelSource("dogs", path)]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a", "a" * 65, "é"])
def test_a_name_that_is_no_part_of_an_address_is_refused(tmp_path, name):
    (path,) = make_files(tmp_path, "net.onnx")
    with pytest.raises(RequestError, match="letters, digits"):
        name_models([path], name)


def test_what_is_missing_or_contradicts_is_refused(tmp_path):
    (path,) = make_files(tmp_path, "net.onnx")
    for arguments, name, words in (
        ([str(tmp_path / "no.onnx")], None, "does not exist"),
        ([f"a={path}", f"a={path}"], None, "two models"),
        ([path, path], "a", "single model"),
    ):
        with pytest.raises(RequestError, match=words):
            name_models(arguments, name)


def test_sizes_of_batches_are_powers_of_two_and_the_largest():
    assert list_sizes(1) == [1]
    assert list_sizes(8) == [1, 2, 4, 8]
    assert list_sizes(12) == [1, 2, 4, 8, 12]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    network = lived("resnext11_2x4d", base_channels=4, num_classes=3)
    network.preprocessing = make_preprocessing(image_size=32, resize=36)
    network.classes = ("ant", "bee", "cat")
    save(network, path)
    return path


def test_the_server_says_what_predict_says(weights, tmp_path):
    """The same bytes through the server and through ``predict``: the same bits but for the size of the batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    path = tmp_path / "noise.jpg"
    Image.fromarray(pixels).save(path)
    service = Service()
    service.add_model(load_model(ModelSource("net", str(weights)), LoadOptions(engine="pytorch", max_batch=2)))
    service.is_ready = True
    client = TestClient(make_app(service), base_url="http://localhost")
    entry = client.post("/v1/predict?top=3&explain=1", content=path.read_bytes()).json()["predictions"][0]
    with Predictor.load(weights, engine="pytorch") as predictor:
        (expected,) = predict(predictor, [str(path)])
    found = {one["class"]: one["probability"] for one in entry["top"]}
    assert list(found) == [name for name, _ in expected.top(3)]
    np.testing.assert_allclose(list(found.values()), [p for _, p in expected.top(3)], rtol=1e-5)
    assert len(entry["cam"]["maps"]) == 3
    model = client.get("/v1/models").json()["models"][0]
    assert (model["architecture"].split()[0], model["image_size"]) == ("resnext11_2x4d", 32)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_openvino_file_of_one_size_is_served_in_all_sizes_of_batches(precision, tmp_path):
    """Each size is compiled without any dynamic dimension, and gives the logits of single images."""
    pytest.importorskip("nncf")
    from resnext.deploy.openvino_engine import find_dynamic_nodes
    from resnext.deploy.openvino_graph import build_openvino_model, replace_input

    network = lived("resnext11_2x4d", base_channels=4, num_classes=3)
    network.preprocessing = make_preprocessing(image_size=32, resize=36)
    request = ExportRequest(format="openvino", precision=precision, batch=1)
    interface = request.get_interface(network.preprocessing)
    graph = build_openvino_model(fold(network), replace(interface, input="normalised"))
    graph = quantize_int8(graph, images(32)) if precision == "int8" else graph
    write_model(replace_input(graph, interface), describe_export(network, request, None), tmp_path / "net.xml")
    model = load_model(ModelSource("net", str(tmp_path / "net.xml")), LoadOptions(max_batch=6))
    assert model.sizes == [1, 2, 4, 6]
    engine = model.predictor._engine
    model.predictor.warm_up(model.sizes)
    assert [shape[0] for shape in engine._compiled] == model.sizes
    with preserve_signal_stack():
        for compiled in engine._compiled.values():
            assert find_dynamic_nodes(compiled.compiled.get_runtime_model()) == []
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    alone = np.concatenate([model.predictor.infer(one[None]).logits for one in pixels])
    for size in model.sizes:
        np.testing.assert_allclose(model.predictor.infer(pixels[:size]).logits, alone[:size], rtol=1e-5, atol=1e-5)
    assert [shape[0] for shape in engine._compiled] == model.sizes  # nothing was compiled later
    model.predictor.close()


def test_weights_without_preprocessing_or_classifier_are_refused(tmp_path):
    network = lived("resnext11_2x4d", base_channels=4, num_classes=3)
    save(network, tmp_path / "bare.safetensors")
    with pytest.raises(RequestError, match="how images are prepared"):
        load_model(ModelSource("bare", str(tmp_path / "bare.safetensors")), LoadOptions(engine="pytorch"))
