"""A real HTTP server with only the routes of runs and the page's files, for tests in a browser."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import resnext
from resnext.serving.routes_runs import make_runs_router

PAGE = Path(resnext.__file__).parent / "serving" / "page"
CSP = "default-src 'self'; img-src 'self' blob: data:"


class Gate:
    """Sends the page's policy, and refuses without ``token`` if there is one; counts requests by path."""

    def __init__(self, app: ASGIApp, paths: list[str], token: str) -> None:
        self.app, self.paths, self.token = app, paths, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        self.paths.append(scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("Content-Security-Policy", CSP)
            await send(message)

        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        if self.token and scope["path"].startswith("/v1/") and given != f"Bearer {self.token}":
            await send_with_headers({"type": "http.response.start", "status": 401, "headers": []})
            return await send({"type": "http.response.body", "body": b""})
        return await self.app(scope, receive, send_with_headers)


@contextmanager
def serve_runs(folder: Path, paths: list[str], token: str = "", port: int = 0) -> Iterator[str]:
    """Serve the runs below a folder on a loopback port within the context; ``paths`` gets those asked for."""
    app = FastAPI()
    app.include_router(make_runs_router(folder))
    app.mount("/static", StaticFiles(directory=PAGE))
    app.add_api_route("/runs", lambda: FileResponse(PAGE / "runs.html"))
    app.add_middleware(Gate, paths=paths, token=token)
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/runs"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
