"""Error answers as problem details (RFC 9457): a status and one sentence."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from resnext.errors import escape_unprintable

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request that cannot be answered: the status, and one sentence that says why.

    ``reason`` is a word for the metrics, such as "busy". 429 and 503 say after how many seconds to try again.
    """

    def __init__(self, status: int, detail: str, reason: str = "invalid", retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.reason = status, detail, reason
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = 'Bearer realm="resnext"'

    def to_response(self) -> Response:
        """Return the HTTP answer."""
        return make_problem(self.status, self.detail, self.headers)


def format_problem(status: int, detail: str) -> bytes:
    """Return the JSON of a problem."""
    values: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": escape_unprintable(detail),
    }
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace")


def make_problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an HTTP answer with a problem."""
    return Response(format_problem(status, detail), status, headers, media_type=MEDIA_TYPE)
