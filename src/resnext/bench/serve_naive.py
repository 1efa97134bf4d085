"""The server that most tutorials write: FastAPI and PyTorch in eager mode, one picture after another, in fp32.

A baseline for ``bench serve``: ``python -m resnext.bench.serve_naive SOURCE`` prints its address when it is ready.
"""

import io
import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import normalize_pixels, prepare_pixels
from resnext.deploy.exported import find_exported_file, open_exported
from resnext.evaluation.outputs import get_preprocessing
from resnext.model.network import Network
from resnext.serving.server import bind_socket, format_address
from resnext.weights import load

TOP = 5


def make_app(network: Network, preprocessing: Preprocessing) -> FastAPI:
    """Make the application: ``POST /v1/predict`` with a picture as the body."""
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, Any]:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB" if preprocessing.channels == 3 else "L")
        pixels = prepare_pixels(image, preprocessing)[None]
        with torch.inference_mode():
            logits = network(torch.from_numpy(normalize_pixels(pixels, preprocessing)))[0]
        values, indices = logits.softmax(0).topk(min(TOP, len(logits)))
        return {"classes": indices.tolist(), "probabilities": values.tolist()}

    @app.get("/healthz")
    async def get_health() -> dict[str, str]:
        return {"status": "alive"}

    return app


def load_network(source: str) -> tuple[Network, Preprocessing]:
    """Load the network; of an exported file, its architecture with new weights, which take the same time."""
    file = find_exported_file(source)
    if file is None:
        network = load(source).eval()
        return network, get_preprocessing(network)
    info = open_exported(file).info
    return Network(info.parse_architecture()).eval(), info.parse_preprocessing()


def main() -> None:
    """Serve until SIGTERM."""
    app = make_app(*load_network(sys.argv[1]))
    bound = bind_socket("127.0.0.1", 0)
    print(format_address(bound), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False)).run([bound])


if __name__ == "__main__":
    main()
