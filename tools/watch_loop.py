"""Run `resnext` and note how long callbacks hold its event loop: ``python -m watch_loop FILE serve ...``.

FILE gets a line of JSON for each callback that took longer than any before it: seconds, and what it was.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from resnext.cli import main


def watch(file: Path) -> None:
    """Measure every callback of all event loops from now on."""
    run, longest = asyncio.Handle._run, 0.0

    def measure(handle: asyncio.Handle) -> None:
        nonlocal longest
        begin, computed = time.perf_counter(), time.thread_time()
        run(handle)
        seconds = time.perf_counter() - begin
        if seconds > longest:
            longest = seconds
            words = {"seconds": seconds, "computing": time.thread_time() - computed, "callback": repr(handle)[:300]}
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(words) + "\n")

    asyncio.Handle._run = measure  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
