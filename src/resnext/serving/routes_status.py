"""Probes and metrics: answered at once on the event loop, whatever the models do."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from resnext.serving.metrics import MEDIA_TYPE
from resnext.serving.problems import ProblemError
from resnext.serving.schemas import describe_problems
from resnext.serving.service import Service

METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Metrics", "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}
}


def make_status_router(service: Service) -> APIRouter:
    """Make ``/healthz`` (the process answers), ``/readyz`` (the models do) and ``/metrics``."""
    router = APIRouter()

    @router.get("/healthz", summary="200 as long as the process answers")
    async def get_health() -> Response:
        return JSONResponse({"status": "alive"})

    @router.get("/readyz", summary="200 if all models answer, else 503", responses=describe_problems(503))
    async def get_readiness() -> Response:
        fault = service.find_fault()
        if fault is not None:
            raise ProblemError(503, f"not ready: {fault}", "not-ready", retry_after=2)
        return JSONResponse({"status": "ready", "models": list(service.models)})

    @router.get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        response_class=Response,
        responses=METRICS | describe_problems(401),
    )
    async def get_metrics() -> Response:
        return Response(service.metrics.format(), media_type=MEDIA_TYPE)

    return router
