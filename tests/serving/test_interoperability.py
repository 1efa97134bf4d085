"""What other programs send is answered as they expect, and what they read is as their protocol says.

The requests of Triton's client were recorded (tests/assets): its package cannot be installed beside ours.
"""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from resnext.serving.app import make_app
from resnext.serving.routes_v2 import make_v2_router
from tests.serving.fakes import make_picture
from tests.serving.test_app import make_service

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
RECORDED = json.loads((Path(__file__).parents[1] / "assets" / "tritonclient-requests.json").read_text())["requests"]
RED_AND_BLUE = np.array([[10, 0, 0], [0, 0, 10]], np.float32)
# The answers of the Open Inference Protocol in our words, after kserve/open-inference-protocol,
# specification/protocol/open_inference_rest.yaml at 18d5991e and inference_rest.md.
TEXT, NUMBERS = {"type": "string"}, {"type": "array", "items": {"type": "integer"}}
DATATYPES = {"enum": ["BOOL", *(f"{kind}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)),
                      "FP16", "FP32", "FP64", "BYTES"]}  # fmt: skip
TENSOR = {"name": TEXT, "datatype": DATATYPES, "shape": NUMBERS}
FLAT = {"type": "array", "items": {"type": ["number", "string", "boolean"]}}


def make_object(required: str, **properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


TENSORS = {"type": "array", "items": make_object("name datatype shape", **TENSOR)}
OUTPUT = make_object("name datatype shape data", **TENSOR, data=FLAT, parameters={"type": "object"})
SERVER = make_object("name version extensions", name=TEXT, version=TEXT, extensions={"type": "array", "items": TEXT})
MODEL = make_object("name platform", name=TEXT, versions={"type": "array", "items": TEXT}, platform=TEXT,
                    inputs=TENSORS, outputs=TENSORS)  # fmt: skip
INFERENCE = make_object("model_name outputs", model_name=TEXT, model_version=TEXT, id=TEXT,
                        parameters={"type": "object"}, outputs={"type": "array", "items": OUTPUT})  # fmt: skip
ERROR = make_object("error", error=TEXT)


@pytest.fixture(scope="module")
def client() -> TestClient:
    service = make_service()
    app = make_app(service, routers=[make_v2_router(service)])
    return TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False)


def replay(client: TestClient, name: str) -> Any:
    """Send a recorded request; the transport alone is another."""
    head, _, body = base64.b64decode(RECORDED[name]).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    return client.request(method, path, headers=headers, content=body)


def read_tensors(answer: Any) -> dict[str, np.ndarray]:
    """Read the outputs of an answer as Triton's client does: binary ones lie behind the JSON, in order."""
    size = answer.headers.get("inference-header-content-length")
    text = answer.content if size is None else answer.content[: int(size)]
    rest = answer.content[len(text) :]
    tensors = {}
    for output in json.loads(text)["outputs"]:
        count = output.get("parameters", {}).get("binary_data_size")
        if count is None:
            array = np.array(output["data"])
        elif output["datatype"] == "BYTES":
            array = np.array(list(read_texts(rest[:count])))
        else:
            array = np.frombuffer(rest[:count], {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]])
        rest = rest[count or 0 :]
        tensors[output["name"]] = array.reshape(output["shape"])
    assert rest == b""
    return tensors


def read_texts(data: bytes) -> Any:
    while data:
        (length,) = struct.unpack_from("<I", data)
        yield data[4 : 4 + length].decode()
        data = data[4 + length :]


@pytest.mark.parametrize("name", ["server-live", "server-ready", "model-ready"])
def test_probes_of_tritons_client_are_answered(client, name):
    assert replay(client, name).status_code == 200


def test_metadata_is_what_tritons_client_asks_for(client):
    server, model = (replay(client, name).json() for name in ("server-metadata", "model-metadata"))
    assert "binary_tensor_data" in server["extensions"]
    assert [one["name"] for one in model["inputs"]] == ["images"]
    assert {one["name"] for one in model["outputs"]} == {"logits", "probabilities", "cam"}


@pytest.mark.parametrize("name", ["infer-binary", "infer-accept-gzip", "infer-json", "infer-bytes"])
def test_tensors_of_tritons_client_are_computed(client, name):
    tensors = read_tensors(replay(client, name))
    logits = RED_AND_BLUE if name != "infer-bytes" else RED_AND_BLUE[[0, 0]]
    if "logits" in tensors:
        np.testing.assert_allclose(tensors["logits"], logits, atol=1e-5)
    if "probabilities" in tensors:
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(tensors["probabilities"], expected, atol=1e-6)
    expected_names = {"infer-json": {"logits"}, "infer-bytes": {"probabilities"}}
    assert set(tensors) == expected_names.get(name, {"logits", "probabilities"})


@pytest.mark.parametrize(("name", "output"), [("infer-classes", "logits"), ("infer-classes-json", "probabilities")])
def test_classification_of_tritons_client_is_value_index_and_label(client, name, output):
    texts = read_tensors(replay(client, name))[output]
    labels = [[text.split(":")[1:] for text in row] for row in texts.tolist()]
    assert labels == [[["0", "red"], ["1", "green"]], [["2", "blue"], ["0", "red"]]]


@pytest.mark.parametrize("name", ["infer-gzip", "infer-deflate"])
def test_compressed_requests_of_tritons_client_are_refused_in_words(client, name):
    answer = replay(client, name)
    assert answer.status_code == 415
    assert "send it as it is" in answer.json()["error"]


def ask_infer(client: TestClient, model: str, **values: object) -> Any:
    data = base64.b64encode(make_picture()).decode()
    body = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [data]}]} | values
    return client.post(f"/v2/models/{model}/infer", json=body)


@pytest.mark.parametrize("model", ["colors", "things"])
def test_answers_are_as_the_protocol_says(client, model):
    jsonschema.validate(client.get("/v2").json(), SERVER)
    jsonschema.validate(client.get("/v2/").json(), SERVER)
    for address in (f"/v2/models/{model}", f"/v2/models/{model}/versions/1"):
        jsonschema.validate(client.get(address).json(), MODEL)
        assert client.get(f"{address}/ready").status_code == 200
    outputs = [{"name": "cam"}, {"name": "logits", "parameters": {"classification": 2}}]
    requests: list[dict[str, Any]] = [{}, {"id": "x"}]
    for values in (*requests, *([{"outputs": outputs}] if model == "colors" else [])):
        answer = ask_infer(client, model, **values)
        assert answer.status_code == 200
        jsonschema.validate(answer.json(), INFERENCE)
        assert answer.json().get("id") == values.get("id")
        for output in answer.json()["outputs"]:
            assert len(output["data"]) == np.prod(output["shape"])


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/none/ready", 404),
        ("GET", "/v2/models/colors/versions/9", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/colors/infer", 400),
        ("POST", "/v2/models/colors/versions/1/infer", 400),
        ("GET", "/v2/models/colors/infer", 405),
        ("GET", "/v2/nothing", 404),
    ],
)
def test_errors_are_as_the_protocol_says(client, method, address, status):
    answer = client.request(method, address, **({"content": b"{}"} if method == "POST" else {}))
    assert answer.status_code == status
    jsonschema.validate(answer.json(), ERROR)
