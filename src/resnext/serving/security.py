"""Who may ask: allowed host names, the token, no other origin; and the headers that keep the page to itself.

Pure ASGI: Starlette's BaseHTTPMiddleware would hide that a client left.
"""

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnext.serving.problems import ProblemError

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]*)?")  # a name or an address, and a port
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = (  # answered without the token: probes, and pages, which ask for it
    "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/", "/runs",
)  # fmt: skip
OPEN_PREFIX = "/static/"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityMiddleware:
    """Refuses requests for other hosts, from pages of other origins, or without the token.

    Args:
        app: The application.
        token: The bearer token; None if none is needed.
        hosts: Allowed names in the Host header, beside addresses in numbers: a page of another site that rebinds its
            name to this address (DNS rebinding) sends its own name.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self._digest = None if token is None else _hash(token)
        self._own_hosts = {name.lower().rstrip(".") for name in hosts}
        self._hosts = self._own_hosts | set(LOOPBACK_NAMES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)  # a route may be stricter: reports of runs are in a sandbox
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self.check(scope["path"], Headers(scope=scope))
        except ProblemError as problem:
            scope.setdefault("state", {})["problem"] = problem.reason
            await problem.to_response(scope["path"])(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def check(self, path: str, headers: Headers) -> None:
        """Raise ProblemError: 421 for another host, 403 for another origin, 401 without the token."""
        host = headers.get("host", "")
        if not self._is_allowed_host(host):
            raise ProblemError(
                421, f"this server does not answer for the host {host[:100]!r}; resnext serve --allow-host", "host"
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_same_origin(origin, host):
            raise ProblemError(403, "requests from pages of another origin are refused", "origin")
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            raise ProblemError(403, "requests from pages of another site are refused", "origin")
        if self._digest is None or path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise ProblemError(401, "this server needs a token: send the header Authorization: Bearer TOKEN", "token")
        if not hmac.compare_digest(_hash(given.strip()), self._digest):
            raise ProblemError(401, "the token is not the one of this server", "token")

    def _is_same_origin(self, origin: str, host: str) -> bool:
        """Compare with the Host header; behind a proxy that rewrites it, the origin must be an allowed host."""
        try:
            parts = urlsplit(origin)
            return parts.netloc.lower() == host.lower() or (parts.hostname or "") in self._own_hosts
        except ValueError:
            return False

    def _is_allowed_host(self, host: str) -> bool:
        match = HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        return name.rstrip(".") in self._hosts or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _hash(token: str) -> bytes:
    """Hash a token, so that the comparison tells nothing of its length either."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def list_own_hosts() -> list[str]:
    """List the names of this machine."""
    return [socket.gethostname(), f"{socket.gethostname()}.local"]
