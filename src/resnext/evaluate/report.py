"""``report.html``: all that a run directory says, in one file that opens anywhere and asks nothing of the network."""

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from resnext.evaluate.protocol import protocol_line
from resnext.evaluate.tables import FORMAT
from resnext.files import written_whole
from resnext.run_directory import RunDirectory

LARGEST_TEXT = 64 << 20  # bytes; what is larger is left out
LARGEST_PICTURE = 16 << 20
WORST = 12  # rows of the table of images
MISTAKES = 10  # pairs of classes
OPEN_ROWS = 20  # a longer table of classes starts folded


def write_report(run_dir: Path | str) -> Path:
    """Write the run's ``report.html`` from the files that are there, whole or not at all, and return its path.

    Files that are missing or damaged are left out. Raises WorkError when the disk refuses.
    """
    run = RunDirectory(Path(run_dir))
    html = _template().render(**_content(run))
    with written_whole(run.report, "w") as file:
        file.write(html.encode("utf-8", "replace").decode())
    return run.report


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("resnext.evaluate", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = lambda value: "–" if value in ("", None) else f"{100 * float(value):.1f} %"
    return environment.get_template("report.html.j2")


def _content(run: RunDirectory) -> dict[str, Any]:
    """All that the template shows; None or an empty list for what is not there."""
    metrics = _metrics(run.evaluation / "metrics.json")
    pictures = {name: _picture(run.path / name) for name in ("curves.png", "samples.png")}
    for name in ("confusion.png", "reliability.png", "worst.png"):
        pictures[name] = _picture(run.evaluation / name)
    recipe = _recipe(run.recipe)
    return {
        "title": _title(run, recipe, metrics),
        "name": run.path.resolve().name,
        "metrics": metrics,
        "protocol": protocol_line(metrics["protocol"], metrics["n"]) if metrics else None,
        "epochs": _epochs(run),
        "recipe": recipe,
        "pictures": pictures,
        "classes": [row for row in _rows(run.evaluation / "per_class.csv") if _is_class(row)],
        "open_rows": OPEN_ROWS,
        "mistakes": _mistakes(run.evaluation / "images.csv"),
        "worst": _worst(run.evaluation / "images.csv"),
        "environment": _facts(_json(run.environment)),
    }


def _title(run: RunDirectory, recipe: dict[str, dict[str, Any]], metrics: dict[str, Any] | None) -> str:
    model = recipe.get("model", {}).get("name")
    data = metrics["protocol"].get("data") if metrics else recipe.get("data", {}).get("source")
    return f"{model} on {data}" if model and data else run.path.resolve().name


def _metrics(path: Path) -> dict[str, Any] | None:
    """The evaluation's numbers, only where all that the report shows of them has the right type."""
    values = _json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    numbers = ("n", "correct1", "top1_error", "loss")
    interval, calibration = values.get("top1_error_interval95"), values.get("calibration")
    whole = (
        all(_is_number(values.get(key)) for key in numbers)
        and isinstance(interval, list)
        and len(interval) == 2
        and all(map(_is_number, interval))
        and isinstance(calibration, dict)
        and all(_is_number(calibration.get(key)) for key in ("expected_error", "max_error"))
        and isinstance(values.get("protocol"), dict)
    )
    optional = {
        key: values.get(key) if _is_number(values.get(key)) else None for key in ("top5_error", "mean_class_error")
    }
    real = values.get("real")
    error = real.get("top1_error") if isinstance(real, dict) else None
    optional["real_error"] = error if _is_number(error) else None
    return values | optional if whole else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_class(row: dict[str, str]) -> bool:
    """Whether a row of per_class.csv holds what it should."""
    try:
        [int(row[key]) for key in ("images", "correct", "predicted")]
        [float(row[key] or 0) for key in ("error", "precision", "recall", "f1")]
    except (KeyError, TypeError, ValueError):
        return False
    return bool(row.get("class") is not None)


def _epochs(run: RunDirectory) -> dict[str, Any] | None:
    """The last epoch of the log, and the epoch with the lowest error."""
    rows = list(_rows(run.metrics))
    errors = []
    for row in rows:
        try:
            errors.append((float(row["top1_error"]), row["epoch"]))
        except (KeyError, TypeError, ValueError):
            continue
    if not errors:
        return None
    best = min(errors, key=lambda pair: pair[0])
    return {"count": rows[-1].get("epoch"), "last": errors[-1][0], "best": best[0], "best_epoch": best[1]}


def _recipe(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of the recipe, settings that were not given left out."""
    text = _text(path, 1 << 20)
    try:
        values = yaml.safe_load(text) if text else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    sections = {str(name): inside for name, inside in values.items() if isinstance(inside, dict)}
    return {
        name: {str(key): _spell(value) for key, value in inside.items() if value is not None and value != []}
        for name, inside in sections.items()
    }


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_spell, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _facts(values: Any) -> list[tuple[str, str]]:
    """Pairs for a table out of a JSON object."""
    if not isinstance(values, dict):
        return []
    return [(str(key).replace("_", " "), _spell(value)) for key, value in values.items() if value is not None]


def _mistakes(path: Path) -> list[dict[str, Any]]:
    """The most frequent (true class, taken for) pairs."""
    counts: dict[tuple[str, str], int] = {}
    for row in _rows(path):
        pair = (row.get("label") or "", row.get("predicted") or "")
        if pair[0] != pair[1]:
            counts[pair] = counts.get(pair, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])[:MISTAKES]
    return [{"label": label, "predicted": predicted, "count": count} for (label, predicted), count in ranked]


def _worst(path: Path) -> list[dict[str, Any]]:
    """The images with the highest loss."""
    rows: list[dict[str, Any]] = []
    for row in _rows(path):
        try:
            numbers = {key: float(row[key]) for key in ("loss", "probability", "probability_of_label")}
        except (KeyError, TypeError, ValueError):
            continue
        rows.append({key: row.get(key) or "" for key in ("path", "label", "predicted")} | numbers)
    return sorted(rows, key=lambda row: -row["loss"])[:WORST]


def _picture(path: Path) -> str | None:
    """A PNG as a data URI."""
    data = _bytes(path, LARGEST_PICTURE)
    if not data or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    text = _text(path, LARGEST_TEXT)
    try:
        yield from csv.DictReader(text.splitlines(keepends=True)) if text else ()
    except csv.Error:
        return


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path, LARGEST_TEXT) or "null")
    except (ValueError, RecursionError):
        return None


def _text(path: Path, largest: int) -> str | None:
    data = _bytes(path, largest)
    return None if data is None else data.decode("utf-8", "replace")


def _bytes(path: Path, largest: int) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= largest else None
    except OSError:
        return None
