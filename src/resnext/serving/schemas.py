"""What /openapi.json says of bodies and answers."""

from typing import Any

from resnext.serving.limits import Limits
from resnext.serving.problems import MEDIA_TYPE

BINARY = {"schema": {"type": "string", "format": "binary"}}
COUNT = {"minItems": 1, "maxItems": Limits.images}  # of the pictures of a request
PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": BINARY,
            "image/png": BINARY,
            "image/webp": BINARY,
            "image/gif": BINARY,
            "application/octet-stream": BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}, **COUNT}},
                    "required": ["file"],
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "byte"}, **COUNT}},
                    "required": ["images"],
                }
            },
        },
    }
}
MAPS_SCHEMA = {
    "type": "object",
    "description": "class activation maps; the region is left, top, right, bottom in pixels of the upright picture",
    "properties": {
        "height": {"type": "integer"},
        "width": {"type": "integer"},
        "region": {"type": "array", "items": {"type": "number"}},
        "maps": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
    },
}
CLASS_SCHEMA = {
    "type": "object",
    "properties": {
        "class": {"type": "string"},
        "index": {"type": "integer"},
        "probability": {"type": "number"},
        "score": {"type": "number"},
        "box": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["class", "index"],
}
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "task": {"type": "string", "enum": ["classification", "detection"]},
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": ["string", "null"]},
                    "size": {"type": "array", "items": {"type": "integer"}},
                    "top": {"type": "array", "items": CLASS_SCHEMA},
                    "boxes": {"type": "array", "items": CLASS_SCHEMA},
                    "cam": MAPS_SCHEMA,
                    "view": {"type": "string"},
                    "error": {"type": "string"},
                },
                "required": ["name"],
            },
        },
        "milliseconds": {"type": "object", "additionalProperties": {"type": "number"}},
    },
    "required": ["model", "task", "predictions", "milliseconds"],
}
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "One prediction for each picture", "content": {"application/json": {"schema": ANSWER_SCHEMA}}}
}
PROBLEM_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail"],
}


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers for OpenAPI."""
    return {
        status: {"description": "Problem details (RFC 9457)", "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}}}
        for status in statuses
    }


ERROR_SCHEMA = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers of the other conventions for OpenAPI (``problems.ERROR_ADDRESSES``)."""
    content = {"application/json": {"schema": ERROR_SCHEMA}}
    return {status: {"description": "What is wrong, in one sentence", "content": content} for status in statuses}
