"""The server's own API: ``/v1/predict`` and ``/v1/models``."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from resnext.serving.answers import describe_model, draw_view, format_classified, format_detected, format_times
from resnext.serving.bodies import NamedPicture, answer_while_connected, parse_pictures, receive_body
from resnext.serving.problems import ProblemError
from resnext.serving.schemas import ANSWER, PREDICT_BODY, describe_problems
from resnext.serving.served_model import ServedModel
from resnext.serving.service import Answer, ClassifiedImage, DetectedImage, Service, Times

MAX_TOP = 1000
MAX_EXPLAINED = 50  # classes with a map in an answer


def make_own_router(service: Service) -> APIRouter:
    """Make the routes of the server's own API."""
    router = APIRouter(prefix="/v1")

    @router.get("/models", summary="The models and what they are", responses=describe_problems(401, 422))
    async def list_models(
        classes: Annotated[bool, Query(description="list the names of the classes")] = False,
    ) -> dict[str, Any]:
        return {"models": [describe_model(model, classes) for model in service.models.values()]}

    @router.post(
        "/predict",
        summary="Classify pictures, or find objects in them",
        openapi_extra=PREDICT_BODY,
        responses=ANSWER | describe_problems(400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503),
    )
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="name of the model; by default the first")] = None,
        top: Annotated[int, Query(ge=1, le=MAX_TOP, description="number of classes")] = 5,
        explain: Annotated[
            bool, Query(description="class activation maps of these classes, where the model has them")
        ] = False,
        view: Annotated[bool, Query(description="what the network saw, as a PNG")] = False,
        score: Annotated[float, Query(ge=0, le=1, description="lowest score of a box (detection)")] = 0.5,
    ) -> Response:
        if explain and top > MAX_EXPLAINED:
            raise ProblemError(422, f"explain=1 goes with top up to {MAX_EXPLAINED}, not {top}")
        chosen = service.find_model(model)
        async with receive_body(request, service, chosen) as body:
            pictures = await parse_pictures(request, body, service)
            answer = await answer_while_connected(request, answer_pictures(service, chosen, pictures))
        entries = []
        for picture, result in zip(pictures, answer.results, strict=True):
            if isinstance(result, ProblemError):
                if len(pictures) == 1:
                    raise result
                entry: dict[str, Any] = {"error": result.detail}
            elif isinstance(result, DetectedImage):
                entry = format_detected(chosen, result, score)
            else:
                entry = format_classified(chosen, result, top, explain)
                if view:
                    entry["view"] = await service.decoders.run(draw_view, chosen, result)
            entries.append({"name": picture.name} | entry)
        times = format_times(answer.times)
        return JSONResponse({"model": chosen.name, "task": chosen.task, "predictions": entries, "milliseconds": times})

    return router


async def answer_pictures(service: Service, model: ServedModel, pictures: Sequence[NamedPicture]) -> Answer:
    """Classify pictures, or find objects in them; those that could not be taken from the request keep their problem."""
    ask = service.detect if model.task == "detection" else service.classify
    good = [picture.data for picture in pictures if isinstance(picture.data, bytes)]
    answer = await ask(model, good) if good else Answer([], Times())
    found = iter(answer.results)
    results: list[ClassifiedImage | DetectedImage | ProblemError] = [
        picture.data if isinstance(picture.data, ProblemError) else next(found) for picture in pictures
    ]
    return Answer(results, answer.times)
