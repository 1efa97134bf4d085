"""Admission: refuse what would wait too long or take too much memory, before it costs anything.

All of it runs on the event loop; nothing here is thread-safe.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from resnext.serving.limits import Limits
from resnext.serving.problems import ProblemError

SMOOTHING = 0.9  # weight of the past in the moving average of the seconds that a picture takes to decode


class DecodeLoad:
    """How many pictures wait for decoding, and how long one takes."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.waiting = 0
        self.seconds_per_picture = 0.0

    def record(self, seconds: float) -> None:
        """Take the time of one picture into the moving average."""
        known = self.seconds_per_picture
        self.seconds_per_picture = SMOOTHING * known + (1 - SMOOTHING) * seconds if known else seconds

    def predict_wait(self) -> float:
        """Predict the seconds until what waits now is decoded."""
        return self.waiting * self.seconds_per_picture / self.threads


def check_wait(seconds: float, limits: Limits) -> None:
    """Raise ProblemError (429) if a request would wait longer for its turn than ``limits.max_wait``."""
    if seconds > limits.max_wait:
        raise ProblemError(
            429,
            f"the server is busy: the predicted wait is {seconds:.1f} seconds, and more than {limits.max_wait:g} are "
            "not accepted; try again later",
            "busy",
            retry_after=seconds,
        )


class BodyBudget:
    """The bytes of all requests that are being read or computed."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.used = 0

    @contextmanager
    def open_account(self) -> "Iterator[BodyAccount]":
        """Count the bytes of one request until the end of the context."""
        account = BodyAccount(self)
        try:
            yield account
        finally:
            self.used -= account.used


class BodyAccount:
    """The bytes of one request."""

    def __init__(self, budget: BodyBudget) -> None:
        self.budget = budget
        self.used = 0

    def add(self, count: int) -> None:
        """Count bytes that arrived. Raises ProblemError: 413 for a body too large, 429 for too many bytes in all."""
        limits = self.budget.limits
        self.used += count
        self.budget.used += count
        check_body_size(self.used, limits)
        if self.budget.used > limits.total_body_bytes:
            raise ProblemError(
                429, "the server is busy with other large requests; try again later", "bytes", retry_after=1
            )


def check_body_size(count: int, limits: Limits) -> None:
    """Raise ProblemError (413) for a body of too many bytes."""
    if count > limits.body_bytes:
        raise ProblemError(413, f"the request is larger than {limits.body_bytes / 1e6:g} MB", "size")


class PixelBudget:
    """The pixels of all pictures that are being decoded. Large pictures are decoded one at a time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.used = 0
        self._large = asyncio.Lock()
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, pixels: int) -> AsyncIterator[None]:
        """Wait until ``pixels`` more may be decoded, and hold them until the end of the context."""
        if pixels > self.limits.large_pixels:
            async with self._large:
                await self._acquire(pixels)
                try:
                    yield
                finally:
                    self._release(pixels)
            return
        await self._acquire(pixels)
        try:
            yield
        finally:
            self._release(pixels)

    async def _acquire(self, pixels: int) -> None:
        if not self._waiters and self._has_room(pixels):
            self.used += pixels
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((pixels, turn))
        try:
            await turn  # whoever wakes it has counted its pixels
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(pixels)
            else:
                self._waiters = deque(one for one in self._waiters if one[1] is not turn)
                self._wake_waiters()
            raise

    def _has_room(self, pixels: int) -> bool:
        return self.used == 0 or self.used + pixels <= self.limits.total_pixels

    def _release(self, pixels: int) -> None:
        self.used -= pixels
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        while self._waiters and self._has_room(self._waiters[0][0]):
            pixels, turn = self._waiters.popleft()
            if not turn.done():
                self.used += pixels
                turn.set_result(None)
