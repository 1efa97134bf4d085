"""The Open Inference Protocol V2 over HTTP (KServe, Triton, OpenVINO Model Server): tensors in, tensors out."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from resnext.serving.bodies import JSON_TOKENS, answer_while_connected, parse_json, receive_body
from resnext.serving.problems import ProblemError
from resnext.serving.served_model import ServedModel
from resnext.serving.service import Service
from resnext.serving.v2_binary import HEADER, split_body
from resnext.serving.v2_schemas import (
    INFER_ANSWERS,
    INFER_BODY,
    LIVE_ANSWERS,
    MODEL_ANSWERS,
    MODEL_READY_ANSWERS,
    READY_ANSWERS,
    SERVER_ANSWERS,
    VERSION_PARAMETER,
    VERSIONED_INFER_BODY,
)
from resnext.serving.v2_tensors import (
    DATATYPES,
    INPUT,
    MAX_JSON_VALUES,
    describe_input,
    encode_answer,
    list_outputs,
    parse_images,
    parse_outputs,
)
from resnext.version import __version__

VERSION = "1"  # of every model
VERSIONED = "/models/{model}/versions/{version}"
INFER = "Compute the outputs of images"


def make_v2_router(service: Service) -> APIRouter:
    """Make the routes of the Open Inference Protocol."""
    router = APIRouter(prefix="/v2")

    @router.get("/", include_in_schema=False)
    @router.get("", summary="The server", responses=SERVER_ANSWERS)
    async def describe_server() -> dict[str, Any]:
        return {"name": "resnext", "version": __version__, "extensions": ["binary_tensor_data", "classification"]}

    @router.get("/health/live", summary="Whether the server runs", responses=LIVE_ANSWERS)
    async def report_live() -> dict[str, Any]:
        return {"live": True}

    @router.get("/health/ready", summary="Whether all models are ready", responses=READY_ANSWERS)
    async def report_ready() -> dict[str, Any]:
        if (fault := service.find_fault()) is not None:
            raise ProblemError(503, fault, "not-ready", retry_after=2)
        return {"ready": True}

    @router.get(f"{VERSIONED}/ready", summary="Whether a model is ready", responses=MODEL_READY_ANSWERS,
                openapi_extra=VERSION_PARAMETER)  # fmt: skip
    @router.get("/models/{model}/ready", summary="Whether a model is ready", responses=MODEL_READY_ANSWERS)
    async def report_model_ready(request: Request, model: str) -> dict[str, Any]:
        chosen = find_version(request, service, model)
        if (fault := chosen.find_fault()) is not None:
            raise ProblemError(503, fault, "not-ready", retry_after=2)
        return {"name": chosen.name, "ready": True}

    @router.get(VERSIONED, summary="A model and its tensors", responses=MODEL_ANSWERS, openapi_extra=VERSION_PARAMETER)
    @router.get("/models/{model}", summary="A model and its tensors", responses=MODEL_ANSWERS)
    async def describe_model(request: Request, model: str) -> dict[str, Any]:
        chosen = find_version(request, service, model)
        outputs = [{"name": n, "datatype": DATATYPES[n], "shape": shape} for n, shape in list_outputs(chosen).items()]
        return {
            "name": chosen.name,
            "versions": [VERSION],
            "platform": "resnext",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": describe_input(chosen)}],
            "outputs": outputs,
        }

    @router.post(f"{VERSIONED}/infer", summary=INFER, openapi_extra=VERSIONED_INFER_BODY, responses=INFER_ANSWERS)
    @router.post("/models/{model}/infer", summary=INFER, openapi_extra=INFER_BODY, responses=INFER_ANSWERS)
    async def infer(request: Request, model: str) -> Response:
        return await answer_inference(request, service, find_version(request, service, model))

    return router


def find_version(request: Request, service: Service, name: str) -> ServedModel:
    """Return the model of a request. Raises ProblemError: 404, also for a version it does not have, or 503."""
    model = service.find_model(name)
    version = request.path_params.get("version", VERSION)
    if version != VERSION:
        raise ProblemError(404, f"model {name} has the version {VERSION} only, not {version[:40]!r}", "model")
    return model


async def answer_inference(request: Request, service: Service, model: ServedModel) -> Response:
    """Answer an inference request. Raises ProblemError."""
    async with receive_body(request, service, model) as body:
        text, data = split_body(body, request.headers.get(HEADER))
        values = await service.decoders.run(parse_json, text, MAX_JSON_VALUES + JSON_TOKENS, size=len(body))
        if not isinstance(values, dict) or not _is_text(values.get("id", "")):
            raise ProblemError(400, "the JSON must be an object with inputs, and an id that is a text")
        asked = parse_outputs(values.get("outputs"), values.get("parameters"), model)
        images = await service.decoders.run(
            parse_images, values.get("inputs"), data, model, service.limits, size=len(body)
        )
        ask = service.detect if model.task == "detection" else service.classify
        answer = await answer_while_connected(request, ask(model, images))
    for index, result in enumerate(answer.results):
        if isinstance(result, ProblemError):
            place = f"image {index}: " if len(images) > 1 else ""
            raise ProblemError(result.status, place + result.detail, result.reason)
    facts = {"model_name": model.name, "model_version": VERSION}
    if "id" in values:
        facts["id"] = values["id"]
    head, tail = await service.decoders.run(encode_answer, facts, asked, answer.results, model)
    if not any(one.is_binary for one in asked):
        return Response(head, media_type="application/json")
    return Response(head + tail, headers={HEADER: str(len(head))}, media_type="application/octet-stream")


def _is_text(value: object) -> bool:
    """Return whether a JSON value is a text that can be sent back: JSON allows halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
