"""Write ``report.html``: everything a run directory holds, in one self-contained file."""

from pathlib import Path
from typing import Any

from resnext.evaluate.metrics import compute_interval95
from resnext.evaluate.output.html import (
    embed_png,
    format_facts,
    is_number,
    read_csv_rows,
    read_json,
    read_recipe_sections,
    write_page,
)
from resnext.evaluate.output.protocol import format_protocol
from resnext.evaluate.output.tables import FORMAT
from resnext.run_directory import RunDirectory

MAX_WORST_IMAGES = 12  # rows in the table of the worst images
MAX_MISTAKES = 10  # pairs of classes in the table of mistakes
MAX_OPEN_ROWS = 20  # a longer table of classes starts collapsed


def write_report(run_dir: Path | str) -> Path:
    """Write the run's ``report.html`` atomically from the files in the run, and return its path.

    Missing or damaged files are left out. Raises WorkError if it cannot be written.
    """
    run = RunDirectory(Path(run_dir))
    return write_page(run, "resnext.evaluate.output", _collect_content(run))


def _collect_content(run: RunDirectory) -> dict[str, Any]:
    """Collect what the template shows; None or an empty list for what is missing."""
    metrics = _read_metrics(run.evaluation / "metrics.json")
    pictures = {name: embed_png(run.path / name) for name in ("curves.png", "samples.png")}
    for name in ("confusion.png", "reliability.png", "worst.png"):
        pictures[name] = embed_png(run.evaluation / name)
    recipe, epochs = read_recipe_sections(run.recipe), _read_epochs(run)
    return {
        "title": _make_title(run, recipe, metrics),
        "name": run.path.resolve().name,
        "metrics": metrics,
        "protocol": format_protocol(metrics["protocol"], metrics["n"]) if metrics else None,
        "epochs": epochs,
        "headline": _choose_headline(metrics, epochs),
        "recipe": recipe,
        "pictures": pictures,
        "classes": [row for row in read_csv_rows(run.evaluation / "per_class.csv") if _is_class_row(row)],
        "open_rows": MAX_OPEN_ROWS,
        "mistakes": _count_mistakes(run.evaluation / "images.csv"),
        "worst": _read_worst_images(run.evaluation / "images.csv"),
        "environment": format_facts(read_json(run.environment)),
    }


def _make_title(run: RunDirectory, recipe: dict[str, dict[str, Any]], metrics: dict[str, Any] | None) -> str:
    model = recipe.get("model", {}).get("name")
    data = metrics["protocol"].get("data") if metrics else recipe.get("data", {}).get("source")
    return f"{model} on {data}" if model and data else run.path.resolve().name


def _read_metrics(path: Path) -> dict[str, Any] | None:
    """Read the metrics of the evaluation; None unless all that the report shows has the right type."""
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    numbers = ("n", "correct1", "top1_error", "loss")
    interval, calibration = values.get("top1_error_interval95"), values.get("calibration")
    whole = (
        all(is_number(values.get(key)) for key in numbers)
        and isinstance(interval, list)
        and len(interval) == 2
        and all(map(is_number, interval))
        and isinstance(calibration, dict)
        and all(is_number(calibration.get(key)) for key in ("expected_error", "max_error"))
        and isinstance(values.get("protocol"), dict)
    )
    optional = {
        key: values.get(key) if is_number(values.get(key)) else None for key in ("top5_error", "mean_class_error")
    }
    real = values.get("real")
    error = real.get("top1_error") if isinstance(real, dict) else None
    optional["real_error"] = error if is_number(error) else None
    return values | optional if whole else None


def _is_class_row(row: dict[str, str]) -> bool:
    """Tell whether a row of per_class.csv is valid."""
    try:
        [int(row[key]) for key in ("images", "correct", "predicted")]
        [float(row[key] or 0) for key in ("error", "precision", "recall", "f1")]
    except (KeyError, TypeError, ValueError):
        return False
    return bool(row.get("class") is not None)


def _read_epochs(run: RunDirectory) -> dict[str, Any] | None:
    """Read the last epoch of the log and the epoch with the lowest error."""
    errors = []
    for row in read_csv_rows(run.metrics):
        try:
            errors.append((float(row["top1_error"]), row["epoch"]))
        except (KeyError, TypeError, ValueError):
            continue
    if not errors:
        return None
    best = min(errors, key=lambda pair: pair[0])
    return {
        "last": errors[-1][0],
        "last_epoch": errors[-1][1],
        "best": best[0],
        "best_epoch": best[1],
    }


def _choose_headline(metrics: dict[str, Any] | None, epochs: dict[str, Any] | None) -> dict[str, Any] | None:
    """Choose the error to show first: that of the last epoch, as the best epoch was selected on these same images."""
    if metrics is None:
        return None if epochs is None else {"error": epochs["last"], "interval": None, "of": " after the last epoch"}
    own = {"error": metrics["top1_error"], "interval": metrics["top1_error_interval95"], "of": ""}
    if epochs is None or metrics["protocol"].get("checkpoint") != "best":
        return own
    if epochs["last_epoch"] == epochs["best_epoch"]:
        return own | {"of": " after the last epoch, which is the best one"}
    return {
        "error": epochs["last"],
        "interval": _compute_interval(epochs["last"], metrics["n"]),
        "of": " after the last epoch",
    }


def _compute_interval(error: float, n: float) -> tuple[float, float] | None:
    """Compute the 95 % interval of an error, in percent, of ``n`` images; None if it is impossible."""
    try:
        return compute_interval95(round(error * n / 100), int(n))
    except (ValueError, OverflowError):
        return None


def _count_mistakes(path: Path) -> list[dict[str, Any]]:
    """Count the most frequent pairs of true and wrongly predicted class."""
    counts: dict[tuple[str, str], int] = {}
    for row in read_csv_rows(path):
        pair = (row.get("label") or "", row.get("predicted") or "")
        if pair[0] != pair[1]:
            counts[pair] = counts.get(pair, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])[:MAX_MISTAKES]
    return [{"label": label, "predicted": predicted, "count": count} for (label, predicted), count in ranked]


def _read_worst_images(path: Path) -> list[dict[str, Any]]:
    """Read the images with the highest loss."""
    rows: list[dict[str, Any]] = []
    for row in read_csv_rows(path):
        try:
            numbers = {key: float(row[key]) for key in ("loss", "probability", "probability_of_label")}
        except (KeyError, TypeError, ValueError):
            continue
        rows.append({key: row.get(key) or "" for key in ("path", "label", "predicted")} | numbers)
    return sorted(rows, key=lambda row: -row["loss"])[:MAX_WORST_IMAGES]
