"""What /openapi.json says of the Open Inference Protocol: requests and answers, as JSON and with binary tensors."""

from typing import Any

from resnext.serving.schemas import BINARY, describe_errors
from resnext.serving.v2_binary import HEADER

HEADER_TEXT = "number of bytes of JSON at the beginning; binary tensors follow them (extension binary_tensor_data)"
SHAPE = {"type": "array", "items": {"type": "integer"}}
SIZE = {"type": "integer", "minimum": 0, "description": "bytes of this tensor behind the JSON"}
INPUT_SCHEMA = {
    "type": "object",
    "description": (
        "UINT8 [N, height, width, channels], prepared pixels; or BYTES [N], encoded pictures, in JSON as base64. "
        "Either data or the parameter binary_data_size"
    ),
    "properties": {
        "name": {"type": "string", "enum": ["images"]},
        "datatype": {"type": "string", "enum": ["UINT8", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 4},
        "parameters": {"type": "object", "properties": {"binary_data_size": SIZE}},
        "data": {"type": "array"},
    },
    "required": ["name", "datatype", "shape"],
}
ASKED_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["logits", "probabilities", "cam", "boxes", "labels", "scores"]},
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data": {"type": "boolean"},
                "classification": {"type": "integer", "minimum": 0, "description": "number of the highest classes"},
            },
        },
    },
    "required": ["name"],
}
REQUEST_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
        "inputs": {"type": "array", "items": INPUT_SCHEMA, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": ASKED_SCHEMA, "maxItems": 3},
    },
    "required": ["inputs"],
}
INFER_BODY: dict[str, Any] = {
    "parameters": [
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "description": HEADER_TEXT,
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": REQUEST_SCHEMA}, "application/octet-stream": BINARY},
    },
}
VERSION_PARAMETER: dict[str, Any] = {
    "parameters": [{"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}]
}
VERSIONED_INFER_BODY = INFER_BODY | {"parameters": [*VERSION_PARAMETER["parameters"], *INFER_BODY["parameters"]]}
TENSOR_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "enum": ["FP32", "INT64", "BYTES"]},
        "shape": SHAPE,
        "parameters": {"type": "object", "properties": {"binary_data_size": SIZE}},
        "data": {"type": "array", "items": {"type": ["number", "string"]}, "description": "in row-major order"},
    },
    "required": ["name", "datatype", "shape"],
}
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "that of the request"},
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "outputs": {"type": "array", "items": TENSOR_SCHEMA},
    },
    "required": ["model_name", "model_version", "outputs"],
}
INFER_ANSWERS = describe_errors(400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503)
INFER_ANSWERS[200] = {
    "description": "The outputs; as application/octet-stream if a request asks for one with binary_data",
    "headers": {HEADER: {"description": HEADER_TEXT, "schema": {"type": "integer"}}},
    "content": {"application/json": {"schema": ANSWER_SCHEMA}, "application/octet-stream": BINARY},
}
SERVER_ERRORS = describe_errors(401, 403, 421)
PROBE_ERRORS = describe_errors(403, 421, 503)  # answered without the token
MODEL_ERRORS = describe_errors(401, 403, 404, 421, 422, 503)


def describe_object(**properties: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Describe an answer that is a JSON object with these properties."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {200: {"description": "Successful", "content": {"application/json": {"schema": schema}}}}


TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
TENSORS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": TEXT, "datatype": TEXT, "shape": SHAPE | {"description": "-1 for any size"}},
        "required": ["name", "datatype", "shape"],
    },
}
TEXTS = {"type": "array", "items": TEXT}
SERVER_ANSWERS = describe_object(name=TEXT, version=TEXT, extensions=TEXTS) | SERVER_ERRORS
LIVE_ANSWERS = describe_object(live=FLAG) | describe_errors(403, 421)
READY_ANSWERS = describe_object(ready=FLAG) | PROBE_ERRORS
MODEL_READY_ANSWERS = describe_object(name=TEXT, ready=FLAG) | MODEL_ERRORS
MODEL_ANSWERS = (
    describe_object(name=TEXT, versions=TEXTS, platform=TEXT, inputs=TENSORS, outputs=TENSORS) | MODEL_ERRORS
)
