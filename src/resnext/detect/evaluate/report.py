"""Write ``report.html`` of a detection run, a single self-contained file."""

from pathlib import Path
from typing import Any

from resnext.detect.evaluate.coco_eval import STATS
from resnext.detect.evaluate.protocol import format_detection_protocol
from resnext.detect.evaluate.tables import FORMAT
from resnext.evaluate.output.html import (
    embed_png,
    format_facts,
    is_number,
    read_csv_rows,
    read_json,
    read_recipe_sections,
    write_page,
)
from resnext.run_directory import RunDirectory

MAX_WORST_IMAGES = 12  # rows in the table of images
MAX_OPEN_ROWS = 20  # a longer table of classes starts collapsed
THRESHOLD_KEYS = ("score", "precision", "recall", "f1")


def write_detection_report(run_dir: Path | str) -> Path:
    """Write the run's ``report.html`` atomically from the files of its directory; return its path.

    Missing or damaged files are left out. Raises WorkError where writing fails.
    """
    run = RunDirectory(Path(run_dir))
    return write_page(run, "resnext.detect.evaluate", _collect_content(run))


def _collect_content(run: RunDirectory) -> dict[str, Any]:
    """Collect the template's values; None or an empty list where something is missing."""
    metrics = _read_metrics(run.evaluation / "metrics.json")
    pictures = {name: embed_png(run.path / name) for name in ("curves.png", "samples.png")}
    for name in ("precision_recall.png", "images.png"):
        pictures[name] = embed_png(run.evaluation / name)
    recipe, epochs = read_recipe_sections(run.recipe), _read_epochs(run)
    best = metrics is not None and metrics["ap"] is not None and metrics["protocol"].get("checkpoint") == "best"
    chosen = best and not (epochs and epochs["last_epoch"] == epochs["best_epoch"])  # on these images
    model = recipe.get("model", {}).get("name")
    data = metrics["protocol"].get("data") if metrics else recipe.get("data", {}).get("val")
    return {
        "title": f"{model} on {data}" if model and data else run.path.resolve().name,
        "name": run.path.resolve().name,
        "metrics": metrics,
        "protocol": format_detection_protocol(metrics["protocol"], metrics["n"], metrics["boxes"]) if metrics else None,
        "epochs": epochs,
        "chosen": chosen,
        "recipe": recipe,
        "pictures": pictures,
        "classes": [row for row in read_csv_rows(run.evaluation / "per_class.csv") if _is_class_row(row)],
        "open_rows": MAX_OPEN_ROWS,
        "worst": _read_worst_images(run.evaluation / "images.csv"),
        "environment": format_facts(read_json(run.environment)),
    }


def _read_metrics(path: Path) -> dict[str, Any] | None:
    """Read the evaluation's numbers; None unless all that the report shows have the right type."""
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    counts = all(is_number(values.get(key)) for key in ("n", "boxes", "detections"))
    numbers = all(key in values and (values[key] is None or is_number(values[key])) for key in STATS)
    threshold = values.get("threshold")
    known = isinstance(threshold, dict) and all(is_number(threshold.get(key)) for key in THRESHOLD_KEYS)
    if not (counts and numbers and isinstance(values.get("protocol"), dict)):
        return None
    return values | {"threshold": threshold if known else None}


def _is_class_row(row: dict[str, str]) -> bool:
    """Return whether a row of per_class.csv is valid."""
    try:
        [int(row[key]) for key in ("images", "boxes", "detections")]
        [float(row[key] or 0) for key in ("ap", "ap50", "ap75", "ar100")]
    except (KeyError, TypeError, ValueError):
        return False
    return row.get("class") is not None


def _read_epochs(run: RunDirectory) -> dict[str, Any] | None:
    """Read the last evaluated epoch of the log and the epoch with the highest AP."""
    rows = []
    for row in read_csv_rows(run.metrics):
        try:
            rows.append((float(row["ap"]), row["epoch"]))
        except (KeyError, TypeError, ValueError):
            continue
    if not rows:
        return None
    best = max(rows, key=lambda pair: pair[0])
    return {"last": rows[-1][0], "last_epoch": rows[-1][1], "best": best[0], "best_epoch": best[1]}


def _read_worst_images(path: Path) -> list[dict[str, Any]]:
    """Read the images with the lowest F1, those with more mistakes first."""
    rows: list[dict[str, Any]] = []
    for row in read_csv_rows(path):
        try:
            counts = {key: int(row[key]) for key in ("boxes", "matched", "missed", "false")}
            rows.append({"path": row.get("path") or "", "f1": float(row["f1"] or 1), **counts})
        except (KeyError, TypeError, ValueError):
            continue
    ranked = sorted(rows, key=lambda row: (row["f1"], -row["missed"] - row["false"]))
    return [row for row in ranked if row["missed"] or row["false"]][:MAX_WORST_IMAGES]
