"""The ceiling of ``bench serve``: the same network on the same pictures without a server, in a process of its own.

It loads the model as the server does, decodes in as many threads, and runs batches of the fastest size while the next
ones are decoded. It reads one JSON object a line on standard input, and answers with one.
"""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from resnext.deploy.predictor import Predictor
from resnext.environment import count_available_cores
from resnext.errors import RequestError, ResnextError
from resnext.serving.batcher import measure_seconds
from resnext.serving.decoding import count_decoders
from resnext.serving.loading import LoadOptions, ModelSource, load_model

BATCHES_AHEAD = 2  # that are decoded while one is computed


class Ceiling:
    """A predictor with its pictures.

    Args:
        predictor: The network.
        sizes: Sizes of batches it may run in.
        pictures: The bytes of JPEG files.
    """

    def __init__(self, predictor: Predictor, sizes: list[int], pictures: list[bytes]) -> None:
        self.predictor, self.pictures = predictor, pictures
        self.inputs = [predictor.prepare(picture) for picture in pictures]
        predictor.warm_up(sizes)
        seconds = measure_seconds(self._infer, sizes, budget=1.0)
        self.batch = max(seconds, key=lambda size: size / seconds[size])

    def _infer(self, size: int) -> None:
        self.predictor.infer_all(list(islice(cycle(self.inputs), size)))

    def measure(self, kind: str, seconds: float) -> float:
        """Measure images per second: kind "JPEG" with decoding, "tensors" without."""
        iterate = self._iterate_tensors if kind == "tensors" else self._iterate_decoded
        batches = iterate()
        next(batches)  # the first has the cost of starting
        count, start = 0, time.perf_counter()
        while (taken := time.perf_counter() - start) < seconds:
            next(batches)
            count += self.batch
        batches.close()
        return count / taken

    def _iterate_tensors(self) -> Generator[None]:
        while True:
            self._infer(self.batch)
            yield

    def _iterate_decoded(self) -> Generator[None]:
        pictures = cycle(self.pictures)
        ahead: deque[list[Future[np.ndarray]]] = deque()
        with ThreadPoolExecutor(count_decoders()) as pool:
            while True:
                while len(ahead) <= BATCHES_AHEAD:
                    ahead.append([pool.submit(self.predictor.prepare, one) for one in islice(pictures, self.batch)])
                self.predictor.infer_all([future.result() for future in ahead.popleft()])
                yield


def load_ceiling(words: dict[str, Any]) -> Ceiling:
    """Load the model as the server does. Raises RequestError if it is a detector, or cannot be loaded."""
    options = LoadOptions(
        engine=words["engine"], precision=words["precision"], max_batch=words["max_batch"], explain=False
    )
    model = load_model(ModelSource("bench", words["source"]), options)
    if model.task != "classification":
        raise RequestError(f"{words['source']} is a detector; resnext bench serve measures classifiers")
    return Ceiling(model.predictor, model.sizes, [Path(path).read_bytes() for path in words["pictures"]])


def write_tensors(ceiling: Ceiling, folder: Path) -> list[str]:
    """Write each prepared picture, uint8 [S, S, C], as raw bytes."""
    paths = [folder / f"{number}.pixels" for number in range(len(ceiling.inputs))]
    for path, pixels in zip(paths, ceiling.inputs, strict=True):
        path.write_bytes(np.ascontiguousarray(pixels).tobytes())
    return [str(path) for path in paths]


def main() -> None:
    """Load, say what was loaded, and measure whenever a line asks for it."""
    say = partial(print, flush=True)
    words = json.loads(sys.stdin.readline())
    try:
        ceiling = load_ceiling(words)
    except ResnextError as error:
        say(json.dumps({"error": str(error), "is_request": isinstance(error, RequestError)}))
        os._exit(1)
    predictor = ceiling.predictor
    facts = {
        "model": predictor.architecture.name,
        "engine": predictor.engine,
        "input": predictor.input,
        "batch": ceiling.batch,
        "shape": list(ceiling.inputs[0].shape),
        "tensors": write_tensors(ceiling, Path(words["folder"])),
        "cores": count_available_cores(),
    }
    say(json.dumps(facts))
    for line in sys.stdin:
        asked = json.loads(line)
        say(json.dumps({"images_per_second": ceiling.measure(asked["kind"], asked["seconds"])}))
    os._exit(0)  # without destructors of engines, which can hang


if __name__ == "__main__":
    main()
