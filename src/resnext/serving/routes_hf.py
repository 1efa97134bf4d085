"""The Hugging Face task schemas: ``POST /hf/{model}`` for image classification and object detection.

``huggingface_hub.InferenceClient(model="http://127.0.0.1:8000/hf/NAME").image_classification(path)`` works unchanged.
Schemas: huggingface_hub, ``inference/_generated/types/image_classification.py`` and ``object_detection.py``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request

from resnext.serving.answers import get_class_name
from resnext.serving.bodies import JSON_TOKENS, answer_while_connected, decode_base64, parse_json, receive_body
from resnext.serving.problems import ProblemError
from resnext.serving.routes_own import MAX_TOP
from resnext.serving.schemas import BINARY, describe_errors
from resnext.serving.served_model import ServedModel
from resnext.serving.service import ClassifiedImage, DetectedImage, Service

FUNCTIONS = ("softmax", "sigmoid", "none")
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": BINARY,
            "image/png": BINARY,
            "image/webp": BINARY,
            "image/gif": BINARY,
            "application/octet-stream": BINARY,
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "inputs": {"type": "string", "format": "byte"},
                        "parameters": {
                            "type": ["object", "null"],
                            "properties": {
                                "top_k": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_TOP},
                                "function_to_apply": {"type": ["string", "null"], "enum": [*FUNCTIONS, None]},
                                "threshold": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                            },
                        },
                    },
                    "required": ["inputs"],
                }
            },
        },
    }
}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Labels, or objects with their boxes, the best first",
        "content": {
            "application/json": {
                "schema": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "label": {"type": "string"},
                            "score": {"type": "number"},
                            "box": {
                                "type": "object",
                                "properties": {corner: {"type": "integer"} for corner in CORNERS},
                                "required": list(CORNERS),
                            },
                        },
                        "required": ["label", "score"],
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True)
class TaskParameters:
    """The ``parameters`` of a request."""

    top_k: int = 5
    function_to_apply: str = "softmax"
    threshold: float = 0.5  # lowest score of a box


def make_hf_router(service: Service) -> APIRouter:
    """Make the route of the Hugging Face task schemas."""
    router = APIRouter(prefix="/hf")

    @router.post(
        "/{model}",
        summary="Classify a picture, or find objects in it (Hugging Face task schema)",
        openapi_extra=BODY,
        responses=ANSWER | describe_errors(400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503),
    )
    async def answer_task(request: Request, model: str) -> list[dict[str, Any]]:
        chosen = service.find_model(model)
        ask = service.detect if chosen.task == "detection" else service.classify
        async with receive_body(request, service, chosen) as body:
            picture, parameters = await service.decoders.run(
                parse_task, request.headers.get("content-type", ""), body, size=len(body)
            )
            answer = await answer_while_connected(request, ask(chosen, [picture]))
        (result,) = answer.results
        if isinstance(result, ProblemError):
            raise result
        if isinstance(result, DetectedImage):
            return list_objects(chosen, result, parameters.threshold)
        return list_labels(chosen, result, parameters)

    return router


def parse_task(content_type: str, body: bytes) -> tuple[bytes, TaskParameters]:
    """Return the picture and the parameters of a body. Raises ProblemError: 400 or 422."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        return body, TaskParameters()
    values = parse_json(body, JSON_TOKENS)
    if not isinstance(values, dict) or "inputs" not in values:
        raise ProblemError(422, 'the JSON must be an object with a base64 text: {"inputs": "..."}')
    picture = decode_base64(values["inputs"])
    if isinstance(picture, ProblemError):
        raise picture
    return picture, check_parameters(values.get("parameters"))


def check_parameters(values: object) -> TaskParameters:
    """Check the ``parameters`` of a request; null is the default. Raises ProblemError (422)."""
    if values is None:
        return TaskParameters()
    if not isinstance(values, dict):
        raise ProblemError(422, "parameters must be an object")
    given = {key: value for key, value in values.items() if value is not None}
    top_k = given.get("top_k", TaskParameters.top_k)
    function = given.get("function_to_apply", TaskParameters.function_to_apply)
    threshold = given.get("threshold", TaskParameters.threshold)
    if isinstance(top_k, float) and top_k.is_integer():  # a whole number, as JSON Schema has them
        top_k = int(top_k)
    if type(top_k) is not int or not 1 <= top_k <= MAX_TOP:
        raise ProblemError(422, f"parameters.top_k must be a whole number from 1 to {MAX_TOP}")
    if function not in FUNCTIONS:
        raise ProblemError(422, f"parameters.function_to_apply must be one of {', '.join(FUNCTIONS)}")
    if type(threshold) not in (int, float) or not 0 <= threshold <= 1:
        raise ProblemError(422, "parameters.threshold must be a number from 0 to 1")
    return TaskParameters(top_k, function, float(threshold))


def list_labels(model: ServedModel, image: ClassifiedImage, parameters: TaskParameters) -> list[dict[str, Any]]:
    """List the labels with the highest scores, the best first; equal ones in class order."""
    if parameters.function_to_apply == "softmax":
        scores = image.probabilities
    else:
        scores = image.logits.astype(np.float64)
        if parameters.function_to_apply == "sigmoid":
            scores = np.exp(-np.logaddexp(0, -scores))
    order = np.argsort(-scores, kind="stable")[: parameters.top_k]
    return [{"label": get_class_name(model, int(i)), "score": float(scores[i])} for i in order]


def list_objects(model: ServedModel, image: DetectedImage, threshold: float) -> list[dict[str, Any]]:
    """List the boxes with at least ``threshold``, in whole pixels as the schema has them."""
    return [
        {
            "label": get_class_name(model, int(label)),
            "score": float(score),
            "box": dict(zip(CORNERS, np.rint(box).astype(int).tolist(), strict=True)),
        }
        for box, label, score in zip(*image.detections, strict=True)
        if score >= threshold
    ]
