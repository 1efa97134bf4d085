"""Routes of other conventions, whose errors are ``{"error": "one sentence"}``."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from resnext.errors import escape_unprintable
from resnext.serving.problems import ProblemError

ERROR_SCHEMA = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


class ErrorRoute(APIRoute):
    """A route that answers a ProblemError as ``{"error": ...}``, with the same status and headers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except ProblemError as error:
                request.state.problem = error.reason
                values = {"error": escape_unprintable(error.detail)}
                return JSONResponse(values, error.status, error.headers)
            except RequestValidationError as error:
                request.state.problem = "invalid"
                first = error.errors()[0]
                place = ".".join(str(part) for part in first.get("loc", ())[1:])
                return JSONResponse({"error": f"{place}: {first.get('msg', 'is not valid')}"}, 422)

        return handle_errors


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers for OpenAPI."""
    content = {"application/json": {"schema": ERROR_SCHEMA}}
    return {status: {"description": "What is wrong, in one sentence", "content": content} for status in statuses}
