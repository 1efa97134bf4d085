"""Results of the study: a row for each finished run, means, and differences on the same seeds. No torch here."""

import csv
import json
import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnext.child_runs import read_last_words
from resnext.errors import RequestError
from resnext.files import atomic_write
from resnext.paper.study import DATA, StudyNetwork, StudyRun, StudySize
from resnext.paper.study_runs import make_command, open_finished
from resnext.run import Run
from resnext.run_directory import MAX_JSON_BYTES

COLUMNS = (
    "data", "study", "network", "cardinality", "seed", "epochs", "test_error", "train_error", "macs", "parameters",
    "minutes", "images_per_second", "cpu", "torch", "resnext", "command", "failure",
)  # fmt: skip
NUMBERS = ("test_error", "train_error", "macs", "parameters", "minutes", "images_per_second")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The test error of one network minus that of another, on the seeds that both have, in points."""

    first: str
    second: str
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the differences; negative if the first network is better."""
        return statistics.fmean(self.differences)

    @property
    def half_width(self) -> float:
        """Half the width of the interval of a paired t test at 95 %; infinite for one seed."""
        from scipy.stats import t

        count = len(self.differences)
        if count < 2:
            return math.inf
        quantile = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1))
        return quantile * statistics.stdev(self.differences) / math.sqrt(count)

    @property
    def words(self) -> str:
        """The difference with its interval, and what it says."""
        if len(self.differences) < 2:
            return f"{self.mean:+.2f} (one seed)"
        low, high = self.mean - self.half_width, self.mean + self.half_width
        said = "better" if high < 0 else "worse" if low > 0 else "not separated"
        return f"{self.mean:+.2f} [{low:+.2f}, {high:+.2f}], {said}"


def collect_rows(planned: Iterable[StudyRun], runs: Path, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Collect a row for each finished run, in the order of the plan. Raises RequestError as ``open_finished``."""
    rows, costs = [], dict[tuple[str, str], tuple[int, int]]()
    for run in planned:
        opened = open_finished(run, runs, given)
        if opened is None:
            continue
        key = (run.data, run.network.label)
        if key not in costs:
            costs[key] = _count_costs(opened)
        rows.append(_make_row(run, opened, *costs[key], shlex.join(make_command(run, runs, given))))
    return rows


def _make_row(run: StudyRun, opened: Run, macs: int, parameters: int, command: str) -> dict[str, Any]:
    metrics, speed = opened.metrics, opened.speed
    facts = _read_facts(opened)
    rates = speed.get("images_per_second", ())
    train_error = float(metrics["train_error"][-1])  # nan with mixed labels, as of mixup
    return _make_key(run) | {
        "cardinality": run.network.cardinality,
        "epochs": int(metrics["epoch"][-1]),
        "test_error": f"{metrics['top1_error'][-1]:.2f}",
        "train_error": "" if math.isnan(train_error) else f"{train_error:.2f}",
        "macs": macs,
        "parameters": parameters,
        "minutes": f"{sum(speed['seconds']) / 60:.1f}" if "seconds" in speed else "",
        "images_per_second": f"{statistics.median(rates):.0f}" if len(rates) else "",
        "cpu": facts.get("cpu", ""),
        "torch": facts.get("torch", ""),
        "resnext": facts.get("resnext", ""),
        "command": command,
    }


def _make_key(run: StudyRun) -> dict[str, Any]:
    return {"data": run.data, "study": run.network.study, "network": run.network.label, "seed": run.seed}


def make_failure_row(run: StudyRun, runs: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Make the row of a run that failed or diverged: its last words instead of results."""
    command = shlex.join(make_command(run, runs, given))
    failure = read_last_words(run.name, runs).removeprefix("resnext: ")
    return _make_key(run) | {"cardinality": run.network.cardinality, "command": command, "failure": failure}


def _count_costs(opened: Run) -> tuple[int, int]:
    """Count MACs of an image, and parameters, of the network of a run."""
    from resnext.evaluation.outputs import get_preprocessing
    from resnext.model.complexity import complexity

    network = opened.load("last")
    cost = complexity(network, get_preprocessing(network).image_size)
    return cost.macs, cost.parameters


def _read_facts(opened: Run) -> dict[str, Any]:
    path = opened.files.environment
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_JSON_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], size: StudySize) -> None:
    """Write the rows as CSV, replacing those of the same run in the file and keeping all others."""
    keys = ("data", "study", "network", "seed")
    new = {tuple(str(row[key]) for key in keys) for row in rows}
    kept = [row for row in read_rows(path, size) if tuple(row.get(key, "") for key in keys) not in new]
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, *rows], key=partial(_get_place, size)))


def read_rows(path: Path, size: StudySize) -> list[dict[str, str]]:
    """Read the rows of such a CSV; none if there is no file. Raises RequestError for what is no such row."""
    if not path.exists():
        return []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (ValueError, csv.Error) as error:
        raise RequestError(f"{path} is no CSV file: {error}") from None
    for line, row in enumerate(rows, 2):
        try:
            _get_place(size, row)
            _ = [float(row[column] or 0) for column in NUMBERS]
        except (KeyError, ValueError) as error:
            raise RequestError(f"{path}, line {line}: not a run of this study ({error}); move the file away") from None
    return rows


def _get_place(size: StudySize, row: Mapping[str, Any]) -> tuple[int, int, int]:
    labels = [network.label for network in size.networks]
    return list(DATA).index(row["data"]), labels.index(row["network"]), int(row["seed"])


def get_errors(rows: Iterable[Mapping[str, Any]], label: str, column: str = "test_error") -> dict[int, float]:
    """Return the errors of a network by seed, of runs that have one."""
    return {int(row["seed"]): float(row[column]) for row in rows if row["network"] == label and row[column] != ""}


def compare(rows: Sequence[Mapping[str, Any]], size: StudySize) -> list[Difference]:
    """Compare the networks on the seeds that both have, as far as there are any."""
    found = []
    for first, second in size.list_comparisons():
        ours, theirs = get_errors(rows, first), get_errors(rows, second)
        seeds = sorted(ours.keys() & theirs.keys())
        if seeds:
            found.append(Difference(first, second, tuple(ours[seed] - theirs[seed] for seed in seeds)))
    return found


def describe_network(rows: Sequence[Mapping[str, Any]], network: StudyNetwork) -> tuple[str, ...] | None:
    """Describe a network: C x d, MACs, parameters, test and training error as mean ± std, seeds, minutes, speed.

    None without a finished run. What no run has is a dash.
    """
    own = [row for row in rows if row["network"] == network.label and row["test_error"] != ""]
    if not own:
        return None
    minutes, speed = ([float(row[key]) for row in own if row[key] != ""] for key in ("minutes", "images_per_second"))
    return (
        network.label,
        f"{int(own[0]['macs']) / 1e6:.1f} M",
        f"{int(own[0]['parameters']) / 1e6:.2f} M",
        format_spread(get_errors(own, network.label).values()),
        format_spread(get_errors(own, network.label, "train_error").values()),
        str(len(own)),
        f"{statistics.fmean(minutes):.0f}" if minutes else "–",
        f"{statistics.median(speed):.0f}" if speed else "–",
    )


def format_spread(values: Iterable[float]) -> str:
    """Format mean ± sample standard deviation; a dash without values."""
    numbers = list(values)
    if not numbers:
        return "–"
    spread = f" ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.2f}{spread}"
