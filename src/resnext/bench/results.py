"""Results of a benchmark: a table on the terminal, and rows of ``bench-WHAT.csv`` that include the protocol."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.bench.measure import Progress, Timing, compute_speed_ratio
from resnext.errors import RequestError
from resnext.files import atomic_write, check_folder
from resnext.text import format_number

if TYPE_CHECKING:
    from rich.console import Console

# keys of describe_environment()
PROTOCOL_KEYS = ("date", "resnext", "torch", "torchvision", "cpu", "isa", "cores", "threads")
GPU_KEYS = ("gpu", "cuda")  # further ones on a CUDA device
VARIABLE_PREFIXES = (
    *("RESNEXT_", "ONEDNN_", "ATEN_", "OMP_", "KMP_", "MKL_", "DNNL_"),
    *("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES"),
)
MAX_CSV_BYTES = 16 << 20  # larger CSV files are refused

Values = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The options that all benchmarks share."""

    command: str  # that repeats the benchmark
    out: str | None = None  # folder of the CSV


def prepare_csv(out: str | None, what: str, prefix: str = "bench") -> Path:
    """Return the path of ``PREFIX-WHAT.csv`` in the output folder, which is created. Call it before measuring.

    Raises RequestError if the folder cannot be written, or the file is there and no benchmark wrote it.
    """
    path = make_out_folder(out) / f"{prefix}-{what}.csv"
    read_rows(path)
    return path


def make_out_folder(out: str | None) -> Path:
    """Create and return the output folder: ``out`` if given. Raises RequestError if it cannot be written."""
    folder = Path(out).expanduser() if out else Path("results") if Path("results").is_dir() else Path()
    check_folder(folder, "--out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def show_progress(what: str) -> Iterator[Progress]:
    """Show a progress bar on standard error if it is a terminal; yields the ``progress`` of ``time_interleaved``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from resnext.screen import make_screen

    console = make_screen(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def progress(done: int, total: int, candidate: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{what}: {candidate}" if candidate else what)

        yield progress


def print_timings(
    console: "Console", title: str, timings: Sequence[Timing], ours: str, more: Mapping[str, Values] | None = None
) -> None:
    """Print images per second of each candidate, and the speed of candidate ``ours`` relative to it, with quartiles.

    ``more`` adds columns: by candidate name, a mapping from heading to value.
    """
    from rich.table import Table

    more = more or {}
    further = list(dict.fromkeys(heading for values in more.values() for heading in values))
    table = Table(box=None, header_style="bold", title=title, title_justify="left", title_style="bold")
    table.add_column("candidate", overflow="fold")
    for heading in ("median images/s", "best", "spread", f"{ours} is", *further):
        table.add_column(heading, justify="right")
    reference = _find_timing(timings, ours)
    for timing in timings:
        middle, low, high = compute_speed_ratio(reference, timing)
        said = "" if timing is reference else f"{middle:.2f}x ({low:.2f}-{high:.2f})"
        values = more.get(timing.name, {})
        table.add_row(
            timing.name, format_number(timing.median), format_number(timing.best), f"{timing.spread:.0%}", said,
            *(_format_value(values.get(heading)) for heading in further),
        )  # fmt: skip
    console.print(table)


def make_timing_rows(
    timings: Sequence[Timing], ours: str, more: Mapping[str, Values] | None = None
) -> list[dict[str, object]]:
    """Make CSV rows with the same numbers; ``ours_over_arm`` is the speed of candidate ``ours`` relative to the row."""
    reference, more = _find_timing(timings, ours), more or {}
    rows = []
    for timing in timings:
        middle, low, high = compute_speed_ratio(reference, timing)
        rows.append(
            {
                "arm": timing.name,
                "images": timing.images,
                "rounds": len(timing.seconds),
                "median_images_per_second": f"{timing.median:.5g}",
                "best_images_per_second": f"{timing.best:.5g}",
                "spread": f"{timing.spread:.3f}",
                "ours_over_arm": f"{middle:.4g}",
                "ours_over_arm_low": f"{low:.4g}",
                "ours_over_arm_high": f"{high:.4g}",
                **more.get(timing.name, {}),
            }
        )
    return rows


def collect_protocol(command: str, device: str = "cpu") -> dict[str, str]:
    """Collect what the numbers depend on: versions, machine, environment variables, and the command to repeat them."""
    from resnext.environment import describe_environment

    facts = describe_environment(device)
    set_here = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(VARIABLE_PREFIXES) and "/" not in v)
    keys = [*PROTOCOL_KEYS, *(key for key in GPU_KEYS if key in facts)]
    plain = {k: " ".join(facts[k]) if isinstance(facts[k], list) else str(facts[k]) for k in keys}
    return plain | {"variables": " ".join(set_here), "command": command}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV; none if it does not exist. Raises RequestError if no benchmark wrote it."""
    if not path.exists():
        return []
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise RequestError(f"{path} is larger than any file a benchmark writes; move it away")
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path} cannot be read, so no rows can be added to it: {error}") from None
    if any("command" not in row or None in row or None in row.values() for row in rows):
        raise RequestError(f"{path} is not a CSV file that a benchmark wrote; move it away")
    return rows


def write_rows(path: Path, rows: Sequence[Values], facts: Mapping[str, str]) -> None:
    """Write ``rows`` with the protocol ``facts``; they replace earlier rows of the same command and variables."""
    same = ("command", "variables")
    old = [row for row in read_rows(path) if any(row.get(key) != facts[key] for key in same)]
    new: list[Values] = [*old, *({**facts, **row} for row in rows)]
    columns = list(dict.fromkeys(key for row in new for key in row if key not in facts))
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, [*columns, *facts], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(new)


def _find_timing(timings: Sequence[Timing], name: str) -> Timing:
    return next(timing for timing in timings if timing.name == name)


def _format_value(value: object) -> str:
    return "" if value is None else format_number(value) if isinstance(value, float) else str(value)
