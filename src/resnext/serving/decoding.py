"""The decoding threads, and what they do: decode a picture and prepare it for a model."""

import asyncio
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import read_image, read_image_size
from resnext.environment import count_available_cores
from resnext.serving.limits import Limits
from resnext.serving.pictures import PictureHeader, check_pixels, check_work
from resnext.serving.problems import ProblemError
from resnext.serving.served_model import ServedModel
from resnext.serving.worker_threads import block_signals

R = TypeVar("R")
LARGE_NICE = 5  # of threads that decode large pictures: they leave two thirds of a busy core to others
MAX_READS = 100_000  # of a file; 20 MB of a PNG in chunks of 4 kB take 20,000, a JPEG takes some hundreds


def count_decoders() -> int:
    """Count the decoding threads for this machine: an engine takes several times as long as decoding."""
    return max(2, count_available_cores() // 4)


class Decoders:
    """The decoding threads: some for what is small and some for what is not, so that it never waits for that."""

    def __init__(self, small_size: int) -> None:
        self.small_size = small_size
        self._small = ThreadPoolExecutor(count_decoders(), "decode", initializer=block_signals)
        self._large = ThreadPoolExecutor(count_decoders(), "decode-large", initializer=_start_large)

    async def run(self, function: Callable[..., R], *arguments: object, size: int = 0) -> R:
        """Run a function in a decoding thread; ``size`` is the number of pixels or bytes it works on."""
        pool = self._large if size > self.small_size else self._small
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def _start_large() -> None:
    block_signals()
    if sys.platform == "linux":  # a thread has its own priority there; elsewhere the whole process would get it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LARGE_NICE)


@dataclass(frozen=True, eq=False)
class DecodedPicture:
    """A picture that is ready for the network."""

    size: tuple[int, int]  # width and height of the upright picture
    pixels: np.ndarray  # uint8: what the model takes
    seconds: float = 0.0  # of decoding, resizing and cropping


class _BoundedFile(io.BytesIO):
    """The bytes of a picture for a decoder, which may read only so often and compute only so long.

    Decoders written in Python read each block of a file by itself, and one file can have millions of empty ones. The
    time is that of the thread, so that a busy machine refuses nothing; it is looked at when more is read.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._reads, self._end = 0, time.thread_time() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes. Raises ValueError beyond the bounds."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise ValueError("it has too many parts")
        if time.thread_time() > self._end:
            raise ValueError("it takes too long to decode")
        return super().read(size)


def decode_picture(model: ServedModel, data: bytes, header: PictureHeader, limits: Limits) -> DecodedPicture:
    """Decode, turn upright and prepare a picture. Raises ProblemError (422) if it cannot be decoded."""
    start = time.monotonic()
    check_work(data, header, limits)
    file = _BoundedFile(data, limits.decode_seconds)
    try:
        check_pixels(read_image_size(file, exif=False), limits)  # what the decoder will allocate
        p = model.predictor.preprocessing
        if model.task == "detection":
            image = read_image(file, exif=p.exif)
            pixels = np.asarray(image)
        else:
            image = read_image(file, p.channels, p.exif)
            pixels = model.predictor.prepare(image)
    except BadImageError as error:
        reason = "it is damaged" if error.reason.startswith("not an image") else error.reason
        raise ProblemError(422, f"the {header.format} picture cannot be read: {reason}", "unreadable") from None
    except MemoryError:
        raise ProblemError(422, "the picture is too large for the memory of the server", "pixels") from None
    return DecodedPicture(image.size, pixels, time.monotonic() - start)
