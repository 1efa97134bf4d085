"""Error answers: a status and one sentence, as problem details (RFC 9457), or as another convention has them."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from resnext.errors import escape_unprintable

MEDIA_TYPE = "application/problem+json"
ERROR_ADDRESSES = ("/v2", "/hf")  # there, errors are {"error": "one sentence"}: Open Inference Protocol, Hugging Face


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

    def to_response(self, path: str) -> Response:
        """Return the HTTP answer to a request for the address ``path``."""
        return make_problem(self.status, self.detail, self.headers, path)


def format_problem(status: int, detail: str, path: str) -> tuple[bytes, str]:
    """Return the JSON of a problem, and its media type, as a client of the address ``path`` expects them."""
    detail = escape_unprintable(detail)
    values: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    media_type = MEDIA_TYPE
    if any(path == address or path.startswith(f"{address}/") for address in ERROR_ADDRESSES):
        values, media_type = {"error": detail}, "application/json"
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace"), media_type


def make_problem(status: int, detail: str, headers: Mapping[str, str] | None, path: str) -> Response:
    """Return an HTTP answer with a problem, to a request for the address ``path``."""
    body, media_type = format_problem(status, detail, path)
    return Response(body, status, headers, media_type=media_type)
