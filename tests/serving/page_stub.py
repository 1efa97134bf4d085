"""A small server with the page and fixed answers by the HTTP contract, so that the page is tested without a network.

The class activation maps it answers with peak on the brightest object of the picture it was sent; it finds that object
with Pillow alone, so the page's drawing is compared with the picture and not with itself.
"""

import base64
import io
import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image, ImageOps

import resnext

PAGE = files(resnext) / "serving" / "page"
CSP = "default-src 'self'; img-src 'self' blob: data:"
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "html": "text/html; charset=utf-8"}
NAMES = ("tabby", "tiger cat", "Egyptian cat", "lynx", "plastic bag", "doormat", "carton", "sock", "lampshade", "quilt")
CELLS = 14  # the side of a class activation map

Reply = tuple[int, dict[str, str], object]


@dataclass
class Request:
    """One request for predictions as the server got it."""

    query: dict[str, str]
    headers: Message
    body: bytes


@dataclass
class Model:
    """A model of the stub: what /v1/models says of it, and its crop mode."""

    name: str
    task: str = "classification"
    names: tuple[str, ...] = NAMES
    classes: int = 1000
    fit: str = "crop"
    architecture: str = "resnext50_32x4d"
    has_cam: bool = True

    def describe(self) -> dict[str, Any]:
        """Return the entry of /v1/models."""
        return {
            "name": self.name,
            "task": self.task,
            "architecture": self.architecture,
            "classes": self.classes,
            "image_size": 224,
            "channels": 3,
            "engine": "int8 (OpenVINO)",
            "has_cam": self.has_cam,
            "provenance": {"recipe": "paper/imagenet-resnext50-32x4d", "epochs": 100, "weights": "sha256:4f1a90c2"},
        }


def open_gate() -> threading.Event:
    """Return an event that is set."""
    gate = threading.Event()
    gate.set()
    return gate


@dataclass
class Stub:
    """The server's state, which a test sets and reads."""

    models: list[Model] = field(default_factory=lambda: [Model("resnext50")])
    replies: dict[str, list[Reply]] = field(default_factory=dict)  # model -> refusals to give first
    token: str = ""
    has_runs: bool = False
    change: Callable[[dict[str, Any]], None] = lambda answer: None  # edits an answer before it is sent
    gate: threading.Event = field(default_factory=open_gate)  # predictions wait until it is set
    requests: list[Request] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """The address of the page."""
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_port}/"

    def start(self, port: int = 0) -> None:
        """Serve on a loopback port until ``stop``."""
        handler = type("StubHandler", (Handler,), {"stub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> int:
        """Close the port and return its number."""
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()
        return int(self.server.server_port)


class Handler(BaseHTTPRequestHandler):
    """Answers the page's files and the contract's routes."""

    stub: Stub

    def do_GET(self) -> None:
        """Answer for the page, its files, the models and the runs."""
        path = urlsplit(self.path).path
        self.stub.paths.append(path)
        name = "index.html" if path == "/" else path.removeprefix("/static/")
        if path == "/" or path.startswith("/static/"):
            self.send(200, {"Content-Type": TYPES[name.rpartition(".")[2]]}, (PAGE / name).read_bytes())
        elif not self.is_allowed():
            self.send_problem(401, "The token is missing or wrong.")
        elif path == "/v1/models":
            self.send(200, {}, {"models": [model.describe() for model in self.stub.models]})
        elif path == "/v1/runs":
            self.send(200 if self.stub.has_runs else 204, {}, {"runs": []} if self.stub.has_runs else b"")
        else:
            self.send_problem(404, "There is nothing at this address.")

    def do_POST(self) -> None:
        """Answer /v1/predict."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        if not self.is_allowed():
            return self.send_problem(401, "The token is missing or wrong.")
        self.stub.requests.append(Request(query, self.headers, body))
        self.stub.gate.wait(30)
        model = next(model for model in self.stub.models if model.name == query["model"])
        if self.stub.replies.get(model.name):
            return self.send(*self.stub.replies[model.name].pop(0))
        answer = answer_prediction(model, query, body)
        self.stub.change(answer)
        return self.send(200, {}, answer)

    def is_allowed(self) -> bool:
        """Return whether the request carries the token, if there is one."""
        return not self.stub.token or self.headers["Authorization"] == f"Bearer {self.stub.token}"

    def send_problem(self, status: int, detail: str) -> None:
        """Send a problem of RFC 9457."""
        self.send(*write_problem(status, detail))

    def send(self, status: int, headers: dict[str, str], content: object) -> None:
        """Send bytes as they are, anything else as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Security-Policy": CSP,
            "X-Content-Type-Options": "nosniff",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def write_problem(status: int, detail: str, **headers: str) -> Reply:
    """Return a refusal as a server sends it; ``Retry_After="1"`` becomes the header Retry-After."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail}
    return status, {"Content-Type": "application/problem+json", **fields}, body


def find_region(fit: str, width: int, height: int) -> list[float]:
    """Return the part of an upright picture that the network sees, in the picture's pixels."""
    side = {"crop": min(width, height) * 224 / 256, "pad": max(width, height)}.get(fit)
    if side is None:
        return [0, 0, width, height]
    return [(width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2]


def answer_prediction(model: Model, query: dict[str, str], body: bytes) -> dict[str, Any]:
    """Return the answer for one picture."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")
    size = list(image.size)
    prediction: dict[str, Any] = {"name": None, "size": size}
    times = {"decode": 3.4, "queue": 0.6, "network": 12.8, "total": 17.1}
    answer = {"model": model.name, "task": model.task, "predictions": [prediction], "milliseconds": times}
    if model.task == "detection":
        prediction["boxes"] = place_boxes(model, *image.size)
        return answer
    region = find_region(model.fit, *image.size)
    top = min(int(query["top"]), len(model.names))
    shares = np.array([0.62, 0.21, 0.08, 0.03, 0.012, 0.006, 0.004, 0.003, 0.002, 0.0005])[:top]
    prediction["top"] = [
        {"class": name, "index": 10 + i, "probability": float(share)}
        for i, (name, share) in enumerate(zip(model.names[:top], shares, strict=True))
    ]
    if query.get("explain") == "1":
        prediction["cam"] = {"height": CELLS, "width": CELLS, "region": region, "maps": make_maps(image, region, top)}
    if query.get("view") == "1":
        prediction["view"] = draw_view(image, region)
    return answer


def make_maps(image: Image.Image, region: list[float], count: int) -> list[list[float]]:
    """Return one map a class: the first peaks on the picture's brightest object, later ones are weaker and turned."""
    bright = np.asarray(image.convert("L"), dtype=np.float64)
    ys, xs = np.nonzero(bright >= bright.max() - 40)
    x0, y0, x1, y1 = region
    at_x, at_y = (xs.mean() + 0.5 - x0) / (x1 - x0) * CELLS, (ys.mean() + 0.5 - y0) / (y1 - y0) * CELLS
    centre = np.arange(CELLS) + 0.5
    first = 9 * np.exp(-((centre[None] - at_x) ** 2 + (centre[:, None] - at_y) ** 2) / 8) - 1.5
    return [(first if i == 0 else np.rot90(first, i) * 0.8**i).ravel().tolist() for i in range(count)]


def draw_view(image: Image.Image, region: list[float]) -> str:
    """Return the region as a PNG of 224 pixels in a data URL."""
    view = image.transform((224, 224), Image.Transform.EXTENT, tuple(region))
    stream = io.BytesIO()
    view.save(stream, "png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def place_boxes(model: Model, width: int, height: int) -> list[dict[str, Any]]:
    """Return boxes with scores from 0.98 downwards, each of the next class."""
    boxes = []
    for i in range(9):
        x, y = width * (0.08 + 0.09 * i), height * (0.3 + 0.25 * math.sin(1.7 * i))
        box = [x, y, min(x + width * 0.2, width), min(y + height * 0.26, height)]
        index = i % min(3, len(model.names))
        boxes.append({"class": model.names[index], "index": index, "score": 0.98 - 0.1 * i, "box": box})
    return boxes
