"""A picture of any kind gets the same answer on every path: Python, evaluation and all routes of the server."""

import base64
import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.special import softmax
from starlette.testclient import TestClient
from torchvision.transforms import v2

import resnext
from resnext import Network
from resnext.data.preprocessing import Preprocessing
from resnext.deploy.export import ExportRequest, build_model, describe_export, write_model
from resnext.deploy.export_info import FORMATS
from resnext.deploy.fold import fold
from resnext.deploy.predictor import Predictor
from resnext.serving.app import make_app
from resnext.serving.routes_hf import make_hf_router
from resnext.serving.routes_v2 import make_v2_router
from resnext.serving.served_model import ServedModel
from resnext.serving.service import Service
from tests.deploy.networks import lived
from tests.deploy.test_engines import usable
from tests.serving.picture_kinds import make_pictures

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "torch-export": "pytorch"}
CLASSES = tuple(f"class {i}" for i in range(10))
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SAME = 1e-6  # of a probability
PICTURES = make_pictures()


class Paths(NamedTuple):
    """One network on one engine, on every path: in memory, as files, and in a server."""

    memory: Predictor
    files: dict[str, Predictor]  # by input
    network: Network
    client: TestClient


def read_with_pillow(data: bytes) -> Image.Image:
    """Return the upright picture in colour by Pillow alone: an oracle for how files are read."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray(np.rint(np.asarray(image, np.float64) * 255 / 65535).astype(np.uint8))
    return image.convert("RGBA" if "transparency" in image.info else "RGB").convert("RGB")


def read_all_with_pillow() -> torch.Tensor:
    """Return the network's input for all pictures by Pillow and torchvision, float64."""
    view = v2.Compose(
        [
            v2.Resize(36, v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(32),
            v2.ToImage(),
            v2.ToDtype(torch.float64, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return torch.stack([view(read_with_pillow(data)) for data in PICTURES.values()])


def make_network() -> Network:
    """Build a network whose answers to the pictures are neither sure nor all alike."""
    network = lived("resnext11_2x4d")
    fc: Any = network.fc
    with torch.no_grad():
        logits = network(read_all_with_pillow().float())
        fc.weight.mul_(2 / logits.std(0)[:, None])
        fc.bias.zero_()
        fc.bias.copy_(-network(read_all_with_pillow().float()).mean(0))
    network.classes = CLASSES
    network.preprocessing = Preprocessing(image_size=32, resize=36, channels=3, mean=MEAN, std=STD)
    return network


def write_export(network: Network, target: str, given: str, folder: Path) -> Path:
    """Write an exported file as the command does; without its verification, which has tests of its own."""
    request = ExportRequest(format=target, input=given, with_cam=True)  # type: ignore[arg-type]
    file = folder / f"{given}{FORMATS[target]}"
    made = build_model(fold(network), target, request.get_interface(network.preprocessing))  # type: ignore[arg-type]
    write_model(made, describe_export(network, request, None), file)
    return file


@pytest.fixture(scope="module", params=["onnx", "openvino", pytest.param("torch-export", marks=pytest.mark.slow)])
def paths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    target, network = request.param, make_network()
    usable(ENGINES[target], "fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("files")
        memory = Predictor(network, engine=ENGINES[target], image_size=32, with_cam=True)
        files = {
            given: Predictor.load(write_export(network, target, given, folder))
            for given in ("pixels", "picture", "normalised")
        }
    service = Service()
    for name, predictor in {"memory": memory, **files}.items():
        service.add_model(ServedModel(name, predictor))
    service.is_ready = True
    app = make_app(service, routers=[make_hf_router(service), make_v2_router(service)])
    yield Paths(memory, files, network, TestClient(app, base_url="http://localhost"))
    service.stop(5)
    for predictor in (memory, *files.values()):
        predictor.close()


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """The probabilities of all pictures by Pillow, torchvision and PyTorch in double precision."""
    with torch.no_grad():
        return make_network().double()(read_all_with_pillow()).softmax(1).numpy()


@pytest.fixture(scope="module")
def reference(paths: Paths, expected: np.ndarray) -> np.ndarray:
    """The probabilities of all pictures on the network's own engine, one by one."""
    found = predict_one_by_one(paths.memory)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    return found


def predict_one_by_one(predictor: Predictor) -> np.ndarray:
    return np.stack([one.probabilities for data in PICTURES.values() for one in resnext.predict(predictor, data)])  # type: ignore[misc]


def test_the_pictures_have_different_answers(expected: np.ndarray) -> None:
    """Otherwise the tests below would not see a picture that is turned the wrong way, or another frame."""
    distances = np.abs(expected[:, None] - expected[None]).max(2) + np.eye(len(expected))
    assert distances.min() > 1e-4
    assert len(set(expected.argmax(1).tolist())) >= 5


def check(found: Any, reference: np.ndarray) -> None:
    np.testing.assert_allclose(found, reference, rtol=0, atol=SAME)
    np.testing.assert_array_equal(np.argmax(found, 1), reference.argmax(1))


@pytest.mark.parametrize("given", ["pixels", "picture", "normalised"])
def test_an_exported_file_predicts_as_the_network_on_this_engine(
    paths: Paths, given: str, reference: np.ndarray, tmp_path: Path
) -> None:
    check(predict_one_by_one(paths.files[given]), reference)
    for name, data in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    by_name = resnext.predict(paths.files[given], [tmp_path / name for name in PICTURES], batch_size=8)
    check([one.probabilities for one in by_name], reference)
    streams = resnext.predict(paths.files[given], [io.BytesIO(data) for data in PICTURES.values()], batch_size=3)
    check([one.probabilities for one in streams], reference)
    opened = resnext.predict(paths.files[given], [Image.open(io.BytesIO(data)) for data in PICTURES.values()])
    check([one.probabilities for one in opened], reference)


@pytest.mark.parametrize("given", ["pixels", "picture", "normalised"])
def test_evaluation_predicts_the_same(paths: Paths, given: str, reference: np.ndarray, tmp_path: Path) -> None:
    labels = [i % len(CLASSES) for i in range(len(PICTURES))]
    for (name, data), label in zip(PICTURES.items(), labels, strict=True):
        (tmp_path / CLASSES[label]).mkdir(exist_ok=True)
        (tmp_path / CLASSES[label] / name).write_bytes(data)
    options = resnext.EvalOptions(workers=0, batch_size=7)
    for predictor in (paths.memory, paths.files[given]):
        rows = resnext.evaluate(predictor, tmp_path, options)
        order = [list(PICTURES).index(Path(path).name) for path in rows.paths]
        assert sorted(order) == list(range(len(PICTURES)))
        np.testing.assert_array_equal(rows.predicted, reference[order].argmax(1))
        np.testing.assert_array_equal(rows.label, np.array(labels)[order])
        np.testing.assert_allclose(rows.probability, reference[order].max(1), rtol=0, atol=SAME)
        np.testing.assert_allclose(rows.probability_of_label, reference[order, rows.label], rtol=0, atol=SAME)


def test_an_ensemble_may_mix_files_that_resize_with_networks(
    paths: Paths, reference: np.ndarray, tmp_path: Path
) -> None:
    for folder, name in zip(CLASSES, PICTURES, strict=False):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(PICTURES[name])
    options = resnext.EvalOptions(workers=0)
    rows = resnext.evaluate([paths.files["picture"], paths.network, paths.files["pixels"]], tmp_path, options)
    np.testing.assert_allclose(rows.probability, reference[:10].max(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ("picture", {"view": "center+flip"}, "resizes and crops pictures itself, to 32 pixels"),
        ("picture", {"view": "ten-crop"}, "resizes and crops pictures itself, to 32 pixels"),
        ("picture", {"resize": 34}, "resizes and crops pictures itself, to 32 pixels"),
        ("pixels", {"image_size": 40}, "takes images of 32 x 32 pixels, not 40 x 40"),
    ],
)
def test_views_that_a_file_cannot_have_are_refused(
    paths: Paths, given: str, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    for folder in CLASSES:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(PICTURES["grey.png"])
    with pytest.raises(resnext.RequestError, match=says):
        resnext.evaluate(paths.files[given], tmp_path, resnext.EvalOptions(workers=0, **options))


def sort_top(entry: dict[str, Any]) -> list[float]:
    return [one["probability"] for one in sorted(entry["top"], key=lambda one: one["index"])]


def ask_raw(client: TestClient, model: str) -> list[list[float]]:
    answers = [client.post(f"/v1/predict?top=10&model={model}", content=data) for data in PICTURES.values()]
    return [sort_top(answer.json()["predictions"][0]) for answer in answers]


def ask_form(client: TestClient, model: str) -> list[list[float]]:
    found: list[list[float]] = []
    for names in (list(PICTURES)[:16], list(PICTURES)[16:]):
        files = [("file", (name, PICTURES[name])) for name in names]
        entries = client.post(f"/v1/predict?top=10&model={model}", files=files).json()["predictions"]
        assert [entry["name"] for entry in entries] == names
        found += [sort_top(entry) for entry in entries]
    return found


def ask_base64(client: TestClient, model: str) -> list[list[float]]:
    found: list[list[float]] = []
    for texts in (encode_base64()[:16], encode_base64()[16:]):
        answer = client.post(f"/v1/predict?top=10&model={model}", json={"images": texts})
        found += [sort_top(entry) for entry in answer.json()["predictions"]]
    return found


def ask_hugging_face(client: TestClient, model: str) -> list[list[float]]:
    raw = [client.post(f"/hf/{model}", content=data).json() for data in PICTURES.values()]
    parameters = {"top_k": 10}
    full = [client.post(f"/hf/{model}", json={"inputs": t, "parameters": parameters}).json() for t in encode_base64()]
    assert [one[:5] for one in full] == raw
    return [[one["score"] for one in sorted(answer, key=lambda one: CLASSES.index(one["label"]))] for answer in full]


def encode_base64() -> list[str]:
    return [base64.b64encode(data).decode() for data in PICTURES.values()]


def infer(client: TestClient, model: str, tensor: dict[str, Any], data: bytes = b"", **outputs: bool) -> dict[str, Any]:
    """Ask the V2 route, by the binary extension if there are data; return the outputs."""
    asked = [{"name": name, "parameters": {"binary_data": binary}} for name, binary in outputs.items()]
    head = json.dumps({"inputs": [{"name": "images"} | tensor], "outputs": asked}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if data else {}
    answer = client.post(f"/v2/models/{model}/infer", content=head + data, headers=headers)
    assert answer.status_code == 200, answer.text
    size = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
    rest, found = answer.content[size:], {}
    for one in json.loads(answer.content[:size])["outputs"]:
        values = one.get("data")
        if values is None:
            length = one["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:length], "<f4"), rest[length:]
        found[one["name"]] = np.reshape(values, one["shape"])
    assert not rest
    return found


def ask_v2_pictures(client: TestClient, model: str) -> list[np.ndarray]:
    found = []
    for data, text in zip(PICTURES.values(), encode_base64(), strict=True):
        plain = infer(client, model, {"datatype": "BYTES", "shape": [1], "data": [text]}, probabilities=False)
        body = struct.pack("<I", len(data)) + data
        tensor = {"datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(body)}}
        binary = infer(client, model, tensor, body, logits=True, probabilities=True)
        np.testing.assert_allclose(softmax(binary["logits"].astype(np.float64), 1), plain["probabilities"], atol=SAME)
        np.testing.assert_allclose(binary["probabilities"], plain["probabilities"], atol=SAME)
        found += [*plain["probabilities"]]
    return found


Ask = Callable[[TestClient, str], Any]


@pytest.mark.parametrize("model", ["memory", "pixels", "picture", "normalised"])
@pytest.mark.parametrize("ask", [ask_raw, ask_form, ask_base64, ask_hugging_face, ask_v2_pictures])
def test_every_route_gives_the_networks_probabilities(
    paths: Paths, model: str, ask: Ask, reference: np.ndarray
) -> None:
    check(ask(paths.client, model), reference)


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("model", ["memory", "pixels", "picture", "normalised"])
def test_prepared_pixels_give_the_networks_probabilities(
    paths: Paths, model: str, is_binary: bool, reference: np.ndarray
) -> None:
    predictor = {"memory": paths.memory, **paths.files}[model]
    prepared = [predictor.prepare(data) for data in PICTURES.values()]
    batches = (
        [one[None] for one in prepared] if model == "picture" else [np.stack(prepared[:16]), np.stack(prepared[16:])]
    )
    found: list[np.ndarray] = []
    for batch in batches:
        tensor: dict[str, Any] = {"datatype": "UINT8", "shape": list(batch.shape)}
        if is_binary:
            tensor["parameters"] = {"binary_data_size": batch.size}
            found += [*infer(paths.client, model, tensor, batch.tobytes(), probabilities=True)["probabilities"]]
        else:
            data = batch.tolist() if len(found) else batch.ravel().tolist()  # nested lists and flat ones
            found += [*infer(paths.client, model, tensor | {"data": data}, probabilities=False)["probabilities"]]
    check(found, reference)


@pytest.mark.parametrize("model", ["memory", "pixels", "picture"])
def test_maps_are_the_same_on_every_path(paths: Paths, model: str) -> None:
    data, predictor = PICTURES["exif-6.jpg"], {"memory": paths.memory, **paths.files}[model]
    reference = predictor.infer(predictor.prepare(data)[None]).cam
    assert reference is not None
    assert reference.shape[1] == len(CLASSES)
    assert reference[0].std((1, 2)).min() > 1e-3
    scale = np.abs(reference).max()
    tensor = {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(data).decode()]}
    for is_binary in (False, True):
        cam = infer(paths.client, model, tensor, cam=is_binary)["cam"]
        np.testing.assert_allclose(cam, reference, rtol=0, atol=1e-6 * scale)
    answer = paths.client.post(f"/v1/predict?explain=1&top=10&model={model}", content=data).json()
    entry = answer["predictions"][0]
    order = [one["index"] for one in entry["top"]]
    maps = np.reshape(entry["cam"]["maps"], (10, entry["cam"]["height"], entry["cam"]["width"]))
    np.testing.assert_allclose(maps, reference[0, order], rtol=1e-4, atol=1e-5 * scale)
