"""A real detector in the server: every route gives the boxes that ``resnext detect predict`` gives."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from starlette.testclient import TestClient

from resnext.deploy.export import write_model
from resnext.detection.export.detector_graph import build_detector_model
from resnext.detection.export.engines import OUTPUTS, Detections
from resnext.detection.export.facts import DetectorFacts
from resnext.detection.predict import predict
from resnext.detection.predictor import DetectPredictor
from resnext.detection.weights import save_detector
from resnext.serving.app import make_app
from resnext.serving.loading import LoadOptions, ModelSource, load_model
from resnext.serving.routes_hf import make_hf_router
from resnext.serving.routes_v2 import make_v2_router
from resnext.serving.service import Service
from tests.detection.tiny_detector import CIFAR, detector
from tests.serving.picture_kinds import make_pictures

CLASSES = ("round", 'a "b" 🐈')
PICTURES = make_pictures()
KINDS = [*(f"exif-{n}.jpg" for n in range(1, 9)), "cmyk.jpg", "grey.png", "palette-transparent.png", "16-bit.png"]
SCORE = 0.3


class Served(NamedTuple):
    """A detector and its exported file, as files, and in a server."""

    weights: Path
    exported: Path
    client: TestClient


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    folder, model = tmp_path_factory.mktemp("detectors"), detector(CIFAR, CLASSES, detections=20)
    weights, exported = folder / "d.safetensors", folder / "d.onnx"
    save_detector(model, weights)
    facts = DetectorFacts.from_detector(model)
    write_model(build_detector_model(model.eval(), "onnxruntime"), facts.to_info(OUTPUTS, (), None), exported)
    service = Service()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNEXT_CACHE", str(folder / "cache"))
        for name, file in (("weights", weights), ("exported", exported)):
            service.add_model(load_model(ModelSource(name, str(file)), LoadOptions()))
    service.is_ready = True
    app = make_app(service, routers=[make_hf_router(service), make_v2_router(service)])
    yield Served(weights, exported, TestClient(app, base_url="http://localhost"))
    service.stop(5)


@pytest.fixture(scope="module", params=["weights", "exported"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(served: Served, model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detections]:
    """What ``detect predict`` finds in the files."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in KINDS:
        (folder / name).write_bytes(PICTURES[name])
    with DetectPredictor.load(getattr(served, model)) as predictor:
        found = predict(predictor, [folder / name for name in KINDS])
    return {name: Detections(one.boxes, one.labels, one.scores) for name, one in zip(KINDS, found, strict=True)}


def check(boxes: Any, labels: Any, scores: Any, reference: Detections) -> None:
    np.testing.assert_allclose(boxes, reference.boxes, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(labels, reference.labels)
    np.testing.assert_allclose(scores, reference.scores, rtol=0, atol=1e-6)


def test_the_pictures_have_different_boxes(expected: dict[str, Detections]) -> None:
    assert all(len(one.scores) > 5 for one in expected.values())
    best = np.stack([one.boxes[0] for one in expected.values()])
    assert len(np.unique(best.round(1), axis=0)) > len(KINDS) // 2


def test_the_own_route_gives_the_boxes(served: Served, model: str, expected: dict[str, Detections]) -> None:
    def read(entry: dict[str, Any], name: str) -> None:
        reference = expected[name].select(expected[name].scores >= SCORE)
        found = entry["boxes"]
        assert [one["class"] for one in found] == [CLASSES[label] for label in reference.labels]
        boxes, labels, scores = ([one[key] for one in found] for key in ("box", "index", "score"))
        check(boxes, labels, scores, reference)
        sideways = name in {"exif-5.jpg", "exif-6.jpg", "exif-7.jpg", "exif-8.jpg"}
        assert entry["size"] == ([38, 50] if sideways else [50, 38])

    address = f"/v1/predict?model={model}&score={SCORE}"
    for name in KINDS:
        answer = served.client.post(address, content=PICTURES[name]).json()
        assert answer["task"] == "detection"
        read(answer["predictions"][0], name)
    files = [("file", (name, PICTURES[name])) for name in KINDS]
    for name, entry in zip(KINDS, served.client.post(address, files=files).json()["predictions"], strict=True):
        read(entry, name)
    texts = [base64.b64encode(PICTURES[name]).decode() for name in KINDS]
    for name, entry in zip(
        KINDS, served.client.post(address, json={"images": texts}).json()["predictions"], strict=True
    ):
        read(entry, name)


def test_the_hugging_face_route_gives_the_boxes(served: Served, model: str, expected: dict[str, Detections]) -> None:
    for name in KINDS:
        reference = expected[name].select(expected[name].scores >= SCORE)
        text = base64.b64encode(PICTURES[name]).decode()
        body = {"inputs": text, "parameters": {"threshold": SCORE}}
        found = served.client.post(f"/hf/{model}", json=body).json()
        assert [one["label"] for one in found] == [CLASSES[label] for label in reference.labels]
        boxes = [[one["box"][corner] for corner in ("xmin", "ymin", "xmax", "ymax")] for one in found]
        np.testing.assert_array_equal(boxes, np.rint(reference.boxes))
        np.testing.assert_allclose([one["score"] for one in found], reference.scores, atol=1e-6)


def infer(client: TestClient, model: str, tensor: dict[str, Any], data: bytes = b"", outputs: Any = None) -> Any:
    head = json.dumps({"inputs": [{"name": "images"} | tensor], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if data else {}
    return client.post(f"/v2/models/{model}/infer", content=head + data, headers=headers)


def test_the_inference_protocol_gives_the_boxes(served: Served, model: str, expected: dict[str, Detections]) -> None:
    with DetectPredictor.load(getattr(served, model)) as predictor:
        pixels = {name: predictor.prepare(PICTURES[name]) for name in KINDS}
    for name, picture in pixels.items():
        data = struct.pack("<I", len(PICTURES[name])) + PICTURES[name]
        encoded = {"datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
        prepared = {"datatype": "UINT8", "shape": [1, *picture.shape]}
        binary = prepared | {"parameters": {"binary_data_size": picture.size}}
        for tensor, body in (
            (encoded, data),
            (prepared | {"data": picture[None].tolist()}, b""),
            (binary, picture.tobytes()),
        ):
            answer = infer(served.client, model, tensor, body).json()
            found = {one["name"]: np.reshape(one["data"], one["shape"]) for one in answer["outputs"]}
            check(found["boxes"], found["labels"], found["scores"], expected[name])


def test_what_a_detector_does_not_have_is_left_out_or_refused(served: Served, model: str) -> None:
    data = PICTURES["grey.png"]
    plain = served.client.post(f"/v1/predict?model={model}", content=data).json()["predictions"]
    asked = served.client.post(f"/v1/predict?model={model}&explain=1&view=1", content=data).json()["predictions"]
    assert asked == plain  # as for a classifier without maps
    assert served.client.get("/v1/models").json()["models"][0]["has_cam"] is False
    tensor = {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(data).decode()]}
    answer = infer(served.client, model, tensor, outputs=[{"name": "cam"}])
    assert answer.status_code == 400
    assert answer.json() == {"error": "each output must be a different one of boxes, labels, scores"}
    answer = infer(served.client, model, tensor | {"shape": [2], "data": tensor["data"] * 2})
    assert answer.json() == {"error": "BYTES images must have the shape [1]"}
