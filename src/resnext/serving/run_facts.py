"""What the pages say about a run: a line in the list, and the details of one. Read from its small files."""

import csv
import io
import json
import threading
from dataclasses import dataclass
from typing import Any

from resnext.errors import RequestError
from resnext.recipe import infer_kind, parse_sections
from resnext.serving.run_logs import MAX_COLUMNS, is_step_row, parse_lines, to_number
from resnext.serving.run_state import Progress, find_state
from resnext.serving.run_table import FileStamp, FoundRun, RunTable

LOG, RECIPE, METRICS, SPEED = ("log.jsonl",), ("recipe.yaml",), ("metrics.csv",), ("speed.csv",)
ENVIRONMENT, EVALUATION = ("environment.json",), ("evaluation", "metrics.json")
READ_FILES = (LOG, RECIPE, METRICS, SPEED, EVALUATION)
MAX_RECIPE_BYTES = 1 << 16  # YAML is slow: this much takes half a second, a recipe of ours a hundredth
MAX_CSV_BYTES, MAX_JSON_BYTES = 8 << 20, 64 << 20
MAX_EPOCHS = 2_000  # rows of metrics.csv in an answer, the newest
MAX_TEXT = 300  # characters of a text in an answer
SPARK_POINTS = 60
TAIL_BYTES = 1 << 14
PICTURES = {  # file name in an address -> (path in the run, what it shows)
    "curves.png": (("curves.png",), "Curves"),
    "samples.png": (("samples.png",), "Training images"),
    "worst.png": (("evaluation", "worst.png"), "Images with the highest loss"),
    "images.png": (("evaluation", "images.png"), "Best and worst images"),
    "confusion.png": (("evaluation", "confusion.png"), "Confusion matrix"),
    "reliability.png": (("evaluation", "reliability.png"), "Reliability of the probabilities"),
    "precision_recall.png": (("evaluation", "precision_recall.png"), "Precision and recall"),
}
# the metric that says most about a run: column, what it is called, and whether lower is better
HEADLINES = (("top1_error", "top-1 error, %", True), ("ap", "AP", False))

Columns = dict[str, list[float | None]]


@dataclass(frozen=True)
class Facts:
    """What is read of a run's files for the list, and kept while they stay as they are."""

    stamps: tuple[FileStamp | None, ...]
    progress: Progress
    line: dict[str, Any]


class RunFacts:
    """Describes the runs of a table. Thread-safe."""

    def __init__(self, table: RunTable) -> None:
        self.table = table
        self.lock = threading.Lock()
        self.kept: dict[str, Facts] = {}

    def list_lines(self) -> list[dict[str, Any]]:
        """Return the entries of /v1/runs, the run with the newest point first."""
        runs = self.table.list_runs()
        lines = [self.describe_line(run) for run in runs]
        with self.lock:
            here = {run.id for run in runs}
            self.kept = {run_id: facts for run_id, facts in self.kept.items() if run_id in here}
        return sorted(lines, key=lambda line: (-(line["last_point"] or 0), line["name"]))

    def describe_line(self, run: FoundRun) -> dict[str, Any]:
        """Return the entry of one run in /v1/runs."""
        stamps = tuple(self.table.stamp(run, *names) for names in READ_FILES)
        with self.lock:
            facts = self.kept.get(run.id)
        if facts is None or facts.stamps != stamps:
            facts = self._read_facts(run, stamps)
            with self.lock:
                self.kept[run.id] = facts
        log, evaluation = stamps[0], stamps[-1]
        state = find_state(self.table, run, facts.progress, evaluation is not None)
        last_point = log.mtime_ns / 1e9 if log is not None and log.size else None
        return {"id": run.id, "name": run.name, "state": state, "last_point": last_point, **facts.line}

    def describe(self, run: FoundRun) -> dict[str, Any]:
        """Return the answer of /v1/runs/ID."""
        text = read_text(self.table, run, *RECIPE, limit=MAX_RECIPE_BYTES)
        metrics = read_columns(self.table.read(run, *METRICS, limit=MAX_CSV_BYTES))
        address = f"v1/runs/{run.id}/files"
        pictures = [
            {"name": name, "title": title, "url": f"{address}/{name}"}
            for name, (names, title) in PICTURES.items()
            if self.table.stamp(run, *names) is not None
        ]
        has_report = self.table.stamp(run, "report.html") is not None
        return {
            **self.describe_line(run),
            "recipe": text,
            "settings": flatten_settings(read_sections(text)),
            "metrics": {key: column[-MAX_EPOCHS:] for key, column in metrics.items()},
            "environment": prune(read_json(self.table, run, *ENVIRONMENT)),
            "evaluation": prune(read_json(self.table, run, *EVALUATION)),
            "links": {"report": f"{address}/report.html" if has_report else None, "pictures": pictures},
        }

    def _read_facts(self, run: FoundRun, stamps: tuple[FileStamp | None, ...]) -> Facts:
        sections = read_sections(read_text(self.table, run, *RECIPE, limit=MAX_RECIPE_BYTES))
        settings = flatten_settings(sections)
        metrics = read_columns(self.table.read(run, *METRICS, limit=MAX_CSV_BYTES))
        speed = read_columns(self.table.read(run, *SPEED, limit=MAX_CSV_BYTES))
        rows = read_last_rows(self.table, run)
        steps = [row for row in rows if row.get("kind") == "step" and is_step_row(row)]
        is_stopped = bool(rows) and rows[-1].get("kind") == "stop"
        last = steps[-1] if steps else None
        epoch, step = (int((metrics.get(key) or [None])[-1] or 0) for key in ("epoch", "step"))
        step = last["step"] if last is not None else step
        progress = Progress(step, epoch, (speed.get("seconds") or [None])[-1], settings, is_stopped)
        losses = metrics.get("train_loss") or []
        spark = losses if len(losses) >= 3 else [to_number(row["loss"]) for row in steps]
        line = {
            "task": infer_kind(sections) or "classification",
            "model": settings.get("model.name"),
            "data": settings.get("data.source"),
            "step": step,
            "steps": progress.total_steps,
            "epoch": epoch,
            "epochs": progress.total_epochs,
            "loss": to_number(last["loss"]) if last is not None else None,
            "metric": find_headline(metrics),
            "spark": thin(spark, SPARK_POINTS),
        }
        return Facts(stamps, progress, line)


def find_headline(metrics: Columns) -> dict[str, Any] | None:
    """Return the last and the best value of the metric that says most about a run; None before an evaluation."""
    for name, label, is_lower_better in HEADLINES:
        values = [value for value in metrics.get(name, []) if value is not None]
        if values:
            best = min(values) if is_lower_better else max(values)
            return {"name": name, "label": label, "lower": is_lower_better, "last": values[-1], "best": best}
    return None


def thin(values: list[float | None], limit: int) -> list[float]:
    """Return at most ``limit`` of the values, evenly spaced, with the last; None is left out."""
    known = [value for value in values if value is not None]
    if len(known) <= limit:
        return known
    return [known[round(i * (len(known) - 1) / (limit - 1))] for i in range(limit)]


def read_last_rows(table: RunTable, run: FoundRun) -> list[dict[str, Any]]:
    """Read the rows in the last 16 kB of a log, whose last line may be partial."""
    try:
        with table.open(run, *LOG) as file:
            end = file.seek(0, 2)
            start = file.seek(max(0, end - TAIL_BYTES))
            data = file.read(TAIL_BYTES)
    except OSError:
        return []
    whole = data[data.find(b"\n") + 1 if start else 0 : data.rfind(b"\n") + 1]
    return [row for _, row in parse_lines(whole, 0)]


def read_text(table: RunTable, run: FoundRun, *names: str, limit: int) -> str | None:
    """Read a text file of a run of at most ``limit`` bytes; None if there is none or it is larger."""
    data = table.read(run, *names, limit=limit)
    return None if data is None else data.decode("utf-8", "replace")


def read_json(table: RunTable, run: FoundRun, *names: str) -> object:
    """Read a JSON file of a run; None if it is missing, damaged or too large."""
    try:
        return json.loads(table.read(run, *names, limit=MAX_JSON_BYTES) or b"null")
    except (ValueError, RecursionError):
        return None


def read_columns(data: bytes | None) -> Columns:
    """Read CSV of numbers by column; what is no number is None, and rows that lack columns are left out."""
    if data is None:
        return {}
    try:
        header, *rows = csv.reader(io.StringIO(data.decode("utf-8", "replace")))
    except (ValueError, csv.Error):
        return {}
    header = header[:MAX_COLUMNS]
    whole = [row for row in rows if len(row) >= len(header)]
    return {name: [_parse_number(row[i]) for row in whole] for i, name in enumerate(header)}


def _parse_number(text: str) -> float | None:
    try:
        return to_number(int(text) if text.isdecimal() and len(text) < 16 else float(text))
    except ValueError:
        return None


def read_sections(text: str | None) -> dict[str, Any]:
    """Parse a resolved recipe; empty if it cannot be read."""
    try:
        return parse_sections(text or "", "recipe.yaml")
    except RequestError:
        return {}


def flatten_settings(sections: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe as ``train.epochs`` -> value."""
    flat: dict[str, Any] = {}
    for section, inside in sections.items():
        if isinstance(inside, dict):
            flat |= {f"{section}.{key}": prune(value) for key, value in inside.items()}
        else:
            flat[str(section)] = prune(inside)
    return flat


def prune(value: object, depth: int = 3) -> Any:
    """Return a JSON value without long lists, long texts, deep nesting and numbers that are not finite."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return to_number(value)
    if isinstance(value, dict) and depth:
        items = list(value.items())[:100]
        return {
            str(key)[:MAX_TEXT]: inside for key, v in items if (inside := prune(v, depth - 1)) is not None or v is None
        }
    if isinstance(value, list) and depth and len(value) <= 16:
        return [prune(inside, depth - 1) for inside in value]
    if not isinstance(value, list | dict):
        return str(value)[:MAX_TEXT]  # a date of YAML
    return None
