"""``resnext bench startup``: time of ``resnext --help`` and ``import resnext``, each in a fresh process."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial

from resnext.bench import results
from resnext.bench.measure import Candidate, Timing, time_interleaved
from resnext.errors import WorkError

BARE = "python, nothing imported"
STARTS = {  # name -> arguments of python, limit in seconds
    BARE: (["-c", "pass"], None),
    "import resnext": (["-c", "import resnext"], 0.3),
    "resnext --help": (["-m", "resnext", "--help"], 0.5),
    "resnext train --help": (["-m", "resnext", "train", "--help"], None),
    "resnext bench train --help": (["-m", "resnext", "bench", "train", "--help"], None),
}
MAX_IMPORTS = 6  # slowest imports that are listed if a start exceeds its limit


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench startup``."""

    rounds: int


def run(options: Options) -> int:
    """Run the benchmark; exit status 0, also if a start exceeds its limit. Raises WorkError if a start fails."""
    path = results.prepare_csv(options.out, "startup")
    with results.show_progress("starts") as progress:
        candidates = [Candidate(name, partial(_run_python, words), 1) for name, (words, _) in STARTS.items()]
        timings = time_interleaved(candidates, options.rounds, progress=progress)

    from rich.table import Table

    from resnext.screen import make_screen

    console = make_screen()
    table = Table(box=None, header_style="bold")
    table.add_column("start")
    for heading in ("median s", "best s", "limit s", ""):
        table.add_column(heading, justify="right")
    rows = [_make_row(timing) for timing in timings]
    results.write_rows(path, rows, results.collect_protocol(options.command))
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("start", "median_seconds", "best_seconds", "limit_seconds", "kept")))
    console.print(table)
    for row in rows:
        if row["kept"] == "no":
            console.print(
                f"{row['start']}: slowest imports: {', '.join(find_costly_imports(STARTS[str(row['start'])][0]))}"
            )
    console.print(str(path))
    return 0


def find_costly_imports(words: list[str]) -> list[str]:
    """Find the modules whose own code is slowest to import, with milliseconds, by ``python -X importtime``."""
    lines = _run_python(["-X", "importtime", *words]).splitlines()
    timed = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    own = [(int(first), name.strip()) for first, _, name in timed if first.strip().isdigit()]
    return [f"{name} {micro / 1000:.0f} ms" for micro, name in sorted(own, reverse=True)[:MAX_IMPORTS]]


def _run_python(words: list[str]) -> str:
    """Run python and return its standard error. Raises WorkError if it fails."""
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        raise WorkError(f"python {' '.join(words)} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stderr


def _make_row(timing: Timing) -> dict[str, object]:
    limit = STARTS[timing.name][1]
    median = 1 / timing.median
    return {
        "start": timing.name,
        "rounds": len(timing.seconds),
        "median_seconds": f"{median:.3f}",
        "best_seconds": f"{1 / timing.best:.3f}",
        "limit_seconds": "" if limit is None else limit,
        "kept": "" if limit is None else "yes" if median < limit else "no",
    }
