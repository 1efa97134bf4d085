"""The application: routes, error answers, and what is done for every request."""

import logging
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnext.serving.bodies import ClientLeftError
from resnext.serving.page_files import make_page_router
from resnext.serving.problems import ProblemError, make_problem
from resnext.serving.routes_own import make_own_router
from resnext.serving.routes_status import make_status_router
from resnext.serving.security import SecurityMiddleware
from resnext.serving.service import Service
from resnext.version import __version__

logger = logging.getLogger("resnext.serving")
LEFT = 499  # in metrics and logs: the client left before the answer (the status that nginx writes)
RequestLogger = Callable[[dict[str, Any]], None]


def make_app(
    service: Service,
    *,
    token: str | None = None,
    hosts: Sequence[str] = (),
    routers: Sequence[APIRouter] = (),
    has_runs: bool = False,
    log_request: RequestLogger | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        service: The models.
        token: The bearer token; None if none is needed.
        hosts: Allowed names in the Host header, beside loopback and addresses in numbers.
        routers: More routes, such as those of other conventions and of runs.
        has_runs: Whether the page of runs is shown.
        log_request: Called with the facts of each request.
    """
    app = FastAPI(
        title="resnext serve",
        version=__version__,
        description="Classify pictures with the models of this server.",
        docs_url=None,  # its page, and that of redoc, load scripts from elsewhere
        redoc_url=None,
    )
    app.add_exception_handler(ProblemError, _answer_problem)
    app.add_exception_handler(ClientLeftError, _answer_nobody)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    for router in (make_status_router(service), make_own_router(service), *routers, make_page_router(has_runs)):
        app.include_router(router)
    app.add_middleware(SecurityMiddleware, token=token, hosts=hosts)
    app.add_middleware(RecordMiddleware, service=service, log_request=log_request)
    return app


class RecordMiddleware:
    """Counts and logs every request, and answers 500 with a problem for an error of the program."""

    def __init__(self, app: ASGIApp, service: Service, log_request: RequestLogger | None) -> None:
        self.app, self.service, self.log_request = app, service, log_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 0
        scope.setdefault("state", {})

        async def send_and_watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.service.is_stopping:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        try:
            await self.app(scope, receive, send_and_watch)
        except Exception:
            logger.exception("request %s %s failed", scope["method"], scope["path"])
            scope["state"]["problem"] = "error"
            if status:
                raise
            answer = make_problem(500, "the server failed on this request; its log says why", None, scope["path"])
            await answer(scope, receive, send_and_watch)
        finally:
            seconds = time.monotonic() - start
            route = getattr(scope.get("route"), "path", "other")
            self.service.metrics.record_request(route, status or LEFT, seconds)
            if "problem" in scope["state"]:
                self.service.metrics.record_problem(scope["state"]["problem"])
            if self.log_request is not None:
                self.log_request(_describe_request(scope, status or LEFT, seconds))


def _describe_request(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    client = scope.get("client")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1")[:500],
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
    }


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    request.state.problem = error.reason
    return error.to_response(request.scope["path"])


async def _answer_nobody(request: Request, _: Exception) -> Response:
    request.state.problem = "client-left"
    return Response(status_code=LEFT)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Say in one sentence which parameter is wrong."""
    assert isinstance(error, RequestValidationError)
    request.state.problem = "invalid"
    first = error.errors()[0]
    place = ".".join(str(part) for part in first.get("loc", ()) if part not in ("query", "path", "body"))
    detail = f"{place or 'the request'}: {first.get('msg', 'is not valid')}"
    return make_problem(422, detail, None, request.scope["path"])


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request.state.problem = "http"
    words = {404: "there is nothing at this address", 405: "this address does not take this method"}
    is_plain = error.detail == HTTPStatus(error.status_code).phrase  # not the words of one of our routes
    detail = words.get(error.status_code, error.detail) if is_plain else error.detail
    return make_problem(error.status_code, detail, error.headers, request.scope["path"])
