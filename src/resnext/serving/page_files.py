"""The page's files: a fixed table, read once from the package, so that no path of a request reaches the disk."""

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from resnext.serving.problems import ProblemError

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
PAGES = {"/": "index.html", "/runs": "runs.html"}  # by address; the other files lie under /static/


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    content: bytes
    compressed: bytes  # by gzip
    media_type: str
    etag: str

    def respond(self, request: Request) -> Response:
        """Answer with the file, or with 304 if the browser has it."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag.removeprefix("W/") in known:
            return Response(status_code=304, headers=headers)
        if "gzip" in (name.strip() for name in request.headers.get("accept-encoding", "").split(",")):
            return Response(
                self.compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.media_type
            )
        return Response(self.content, headers=headers, media_type=self.media_type)


def load_page_files() -> dict[str, PageFile]:
    """Read the files of the page, by name. Empty if the package has none."""
    folder = resources.files("resnext.serving") / "page"
    if not folder.is_dir():
        return {}
    files = {}
    for item in sorted(folder.iterdir(), key=lambda one: one.name):
        kind = MEDIA_TYPES.get("." + item.name.rpartition(".")[2])
        if kind is not None and item.is_file():
            content = item.read_bytes()
            tag = f'W/"{hashlib.sha256(content).hexdigest()[:24]}"'  # weak: one for both encodings
            files[item.name] = PageFile(content, gzip.compress(content, mtime=0), kind, tag)
    return files


def make_page_router(has_runs: bool = False) -> APIRouter:
    """Make the routes of the page: ``/``, ``/static/...``, and ``/runs`` with ``has_runs``; no content without."""
    files = load_page_files()
    router = APIRouter(include_in_schema=False)

    @router.api_route("/static/{name}", methods=["GET", "HEAD"])
    async def get_static_file(request: Request, name: str) -> Response:
        if name not in files:
            raise ProblemError(404, "there is no such file", "path")
        return files[name].respond(request)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def get_index(request: Request) -> Response:
        if PAGES["/"] not in files:
            return Response("resnext serve: the API is described by /openapi.json\n", media_type="text/plain")
        return files[PAGES["/"]].respond(request)

    if not has_runs:

        @router.get("/v1/runs")
        async def answer_without_runs() -> Response:
            return Response(status_code=204)  # the page asks; browsers report a 404 on their console

    if has_runs and PAGES["/runs"] in files:

        @router.api_route("/runs", methods=["GET", "HEAD"])
        async def get_runs_page(request: Request) -> Response:
            return files[PAGES["/runs"]].respond(request)

    return router
