"""A log of requests that never holds the event loop: a thread writes it, and lines are lost if nobody reads them."""

import json
import queue
import threading
from typing import Any, TextIO

from resnext.serving.worker_threads import block_signals

MAX_LINES = 10_000  # that wait to be written


class RequestLog:
    """Writes one line of JSON for each request.

    Args:
        stream: Where to write, such as ``sys.stderr``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(MAX_LINES)
        self.lost = 0  # lines for which there was no room
        threading.Thread(target=self._write, name="request-log", daemon=True).start()

    def __call__(self, facts: dict[str, Any]) -> None:
        """Log the facts of a request."""
        try:
            self._lines.put_nowait(json.dumps(facts))
        except queue.Full:
            self.lost += 1

    def _write(self) -> None:
        block_signals()
        while True:
            line = self._lines.get()
            try:
                print(line, file=self._stream, flush=True)
            except (OSError, ValueError):
                return  # the reader is gone, or the stream is closed
