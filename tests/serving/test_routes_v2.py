import asyncio
import base64
import json
import struct
import time
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from resnext.serving import routes_v2
from resnext.serving.app import make_app
from resnext.serving.routes_hf import make_hf_router
from resnext.serving.routes_v2 import make_v2_router
from resnext.serving.v2_tensors import encode_answer
from tests.serving.fakes import FakeClassifier, Outputs, make_picture
from tests.serving.test_app import RED, make_service


@pytest.fixture(scope="module")
def client() -> TestClient:
    service = make_service()
    app = make_app(service, routers=[make_hf_router(service), make_v2_router(service)])
    return TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False)


def make_json(count: int = 1, **values) -> dict:
    data = [base64.b64encode(RED).decode()] * count
    return {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [count], "data": data}]} | values


def test_three_conventions_give_the_same_probabilities(client):
    own = client.post("/v1/predict", content=RED).json()["predictions"][0]["top"]
    hugging = client.post("/hf/colors", content=RED).json()
    outputs = client.post("/v2/models/colors/infer", json=make_json(id="7")).json()
    assert outputs["id"] == "7"
    tensors = {one["name"]: one["data"] for one in outputs["outputs"]}
    expected = [one["probability"] for one in sorted(own, key=lambda one: one["index"])]
    np.testing.assert_allclose(tensors["probabilities"], expected, atol=1e-6)
    np.testing.assert_allclose([one["score"] for one in hugging], [one["probability"] for one in own], atol=1e-6)
    assert set(tensors) == {"logits", "probabilities"}


def test_binary_tensors_go_in_and_out_and_large_batches_are_split(client):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 8, 8, 3), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [13, 8, 8, 3], "parameters": {"binary_data_size": 2496}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]})
    body = head.encode() + pixels.tobytes()
    answer = client.post(
        "/v2/models/colors/infer", content=body, headers={"Inference-Header-Content-Length": str(len(head))}
    )
    size = int(answer.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(answer.content[:size])["outputs"]
    logits = np.frombuffer(answer.content[size:], "<f4").reshape(output["shape"])
    np.testing.assert_allclose(logits, pixels.mean((1, 2)) / 25.5, rtol=1e-5)


def test_classification_lists_value_index_and_label(client):
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    (output,) = client.post("/v2/models/colors/infer", json=make_json(outputs=outputs)).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    assert output["data"] == ["10.000000:0:red", "0.000000:1:green"]


def test_detectors_give_boxes(client):
    picture = make_picture()
    head = json.dumps({"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1],
                                   "parameters": {"binary_data_size": len(picture) + 4}}]})  # fmt: skip
    body = head.encode() + struct.pack("<I", len(picture)) + picture
    answer = client.post("/v2/models/things/infer", content=body,
                         headers={"inference-header-content-length": str(len(head))})  # fmt: skip
    tensors = {one["name"]: one for one in answer.json()["outputs"]}
    assert tensors["boxes"]["data"][:4] == [0, 0, 16, 12]
    assert tensors["labels"] == {"name": "labels", "datatype": "INT64", "shape": [2], "data": [0, 7]}
    box = {"xmin": 0, "ymin": 0, "xmax": 16, "ymax": 12}
    assert client.post("/hf/things", content=picture).json() == [{"label": "thing", "score": 0.875, "box": box}]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000, b"[" * 900_000, b'{"inputs": NaN}', b'{"inputs": ' + b"9" * 100_000 + b"}", b"{}", b"",
        json.dumps(make_json()).replace("[1]", "[9999999999999]").encode(),
        json.dumps(make_json()).replace('"BYTES"', '"FP64"').encode(),
        b'{"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["?"]}]}',
        b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1,8,8,3], "data": [1e999, true]}]}',
    ],
)  # fmt: skip
def test_hostile_json_is_refused(client, body):
    answer = client.post("/v2/models/colors/infer", content=body)
    assert answer.status_code in (400, 413, 422), answer.text
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("path", ["", "/health/live", "/health/ready", "/models/colors", "/models/colors/versions/1",
                                  "/models/things", "/models/colors/ready"])  # fmt: skip
def test_status_routes_answer(client, path):
    assert client.get("/v2" + path).status_code == 200


def test_unknown_models_and_versions_are_404(client):
    assert client.get("/v2/models/no").status_code == client.get("/v2/models/colors/versions/2").status_code == 404


def test_an_id_that_is_half_a_character_is_refused(client):
    answer = client.post("/v2/models/colors/infer", content=b'{"id": "\\ud800", "inputs": []}')
    assert answer.status_code == 400
    assert "id that is a text" in answer.json()["error"]


def test_the_description_has_the_binary_form_and_every_status(client):
    found = client.get("/openapi.json").json()["paths"]
    for path, names in (
        ("/v2/models/{model}/infer", ["model", "Inference-Header-Content-Length"]),
        ("/v2/models/{model}/versions/{version}/infer", ["model", "version", "Inference-Header-Content-Length"]),
    ):
        infer = found[path]["post"]
        assert [one["name"] for one in infer["parameters"]] == names
        for body in (infer["requestBody"], infer["responses"]["200"]):
            assert set(body["content"]) == {"application/json", "application/octet-stream"}
        assert {"401", "413", "429", "503"} < set(infer["responses"])
    assert {"401", "413", "429", "503"} < set(found["/hf/{model}"]["post"]["responses"])


def ask_wrongly(client: TestClient, path: str, method: str = "GET", **options) -> tuple[int, object]:
    answer = client.request(method, path, **options)
    assert answer.headers["content-type"] == "application/json", answer.text
    (text,) = answer.json().values()
    assert isinstance(text, str)
    assert set(answer.json()) == {"error"}
    return answer.status_code, answer.headers.get("retry-after")


@pytest.mark.parametrize("path", ["/v2/models/colors/infer", "/hf/colors"])
def test_errors_outside_of_the_routes_have_the_conventions_shape_too(path, monkeypatch):
    service = make_service()
    routers = [make_hf_router(service), make_v2_router(service)]
    client = TestClient(make_app(service, routers=routers), base_url="http://localhost", raise_server_exceptions=False)
    guarded = TestClient(make_app(service, token="secret", routers=routers), base_url="http://localhost")
    assert ask_wrongly(client, path) == (405, None)
    assert ask_wrongly(client, path + "/no/such/place") == (404, None)
    assert ask_wrongly(guarded, path, "POST", content=RED) == (401, None)
    assert ask_wrongly(client, path, "POST", headers={"host": "evil.example"}) == (421, None)
    assert ask_wrongly(client, path, "POST", headers={"origin": "http://evil.example"}) == (403, None)
    monkeypatch.setattr(service.decode_load, "predict_wait", lambda: 7.5)
    assert ask_wrongly(client, path, "POST", content=RED) == (429, "8")
    monkeypatch.setattr(service, "check_admission", lambda _: 1 / 0)
    assert ask_wrongly(client, path, "POST", content=RED) == (500, None)
    monkeypatch.undo()
    service.begin_stop()
    assert ask_wrongly(client, path, "POST", content=RED) == (503, "5")
    assert ask_wrongly(client, "/v2/health/ready") == (503, "2")
    assert client.get("/nothing").headers["content-type"] == "application/problem+json"
    assert client.get("/v2x").headers["content-type"] == "application/problem+json"


def test_probes_need_no_token():
    service = make_service()
    guarded = TestClient(make_app(service, token="secret", routers=[make_v2_router(service)]), base_url="http://[::1]")
    assert [guarded.get(f"/v2/health/{name}").status_code for name in ("live", "ready")] == [200, 200]
    assert guarded.get("/v2").status_code == guarded.get("/v2/models/colors/ready").status_code == 401


def test_a_large_answer_leaves_the_event_loop_its_turns(monkeypatch):
    """While values become JSON, the loop never stands still for most of the time, as it would if it encoded them."""
    model = FakeClassifier()
    model.infer = lambda pixels: Outputs(  # type: ignore[method-assign]
        np.zeros((len(pixels), 3), np.float32), np.full((len(pixels), 3, 300, 300), 0.1, np.float32)
    )
    service = make_service(model)
    turns: list[float] = []
    spans: list[tuple[float, float]] = []

    def watch(*arguments: Any) -> tuple[bytes, bytes]:
        start = time.monotonic()
        encoded = encode_answer(*arguments)
        spans.append((start, time.monotonic()))
        return encoded

    monkeypatch.setattr(routes_v2, "encode_answer", watch)
    transport = httpx.ASGITransport(make_app(service, routers=[make_v2_router(service)]))

    async def turn() -> None:
        while True:
            turns.append(time.monotonic())
            await asyncio.sleep(0.001)

    async def ask() -> httpx.Response:
        turning = asyncio.ensure_future(turn())
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post("/v2/models/colors/infer", json=make_json(2, outputs=[{"name": "cam"}]))
        turning.cancel()
        return answer

    (output,) = asyncio.run(ask()).json()["outputs"]
    assert output["shape"] == [2, 3, 300, 300]
    assert output["data"] == [float(np.float32(0.1))] * 540_000
    ((start, end),) = spans
    inside = [start, *(one for one in turns if start < one < end), end]
    assert max(np.diff(inside)) < 0.5 * (end - start)
