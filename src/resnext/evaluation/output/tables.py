"""Write an evaluation to disk: metrics as JSON, tables as CSV, and plots."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnext.data.dataset import Dataset
from resnext.data.preprocessing import Preprocessing
from resnext.environment import describe_environment
from resnext.errors import WorkError
from resnext.evaluation.calibration import BINS, Calibration, compute_calibration
from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.metrics import compute_class_scores, compute_mean_class_error
from resnext.evaluation.output import plots
from resnext.evaluation.suites.real import RealScore
from resnext.files import atomic_write, check_output_directory
from resnext.plotting import save_figure

FORMAT = "resnext-evaluation"
PICTURES = ("confusion.png", "reliability.png", "worst.png")
FILES = ("metrics.json", "per_class.csv", "confusion.csv", "images.csv", *PICTURES)


def write_evaluation(
    evaluation: Evaluation,
    dataset: Dataset,
    preprocessing: Preprocessing,
    directory: Path,
    protocol: dict[str, Any],
    real: RealScore | None = None,
) -> dict[str, Any]:
    """Write FILES into ``directory`` (created if missing), each atomically; return the content of metrics.json.

    ``protocol`` is what ``build_protocol`` returns; ``real`` adds the error on ReaL labels. Replaces an earlier
    evaluation there. Raises RequestError if ``directory`` cannot be used (see ``check_output_directory`` of
    ``files.py``), WorkError if writing fails.
    """
    check_output_directory(directory, FILES, FORMAT)
    directory.mkdir(parents=True, exist_ok=True)
    reliability = measure_calibration(evaluation)
    numbers = collect_metrics(evaluation, reliability) | ({} if real is None else {"real": real.to_dict()})
    metrics = write_metrics(directory, numbers, protocol)
    write_csv(directory / "per_class.csv", *_make_class_table(evaluation))
    write_csv(directory / "confusion.csv", *_make_confusion_table(evaluation))
    write_csv(directory / "images.csv", *_make_image_table(evaluation, real))
    save_figure(plots.plot_confusion(evaluation.confusion, evaluation.classes), directory / "confusion.png")
    save_figure(plots.plot_reliability(reliability), directory / "reliability.png")
    seen = str(protocol.get("view") or "center")
    save_figure(plots.plot_worst_images(evaluation, dataset, preprocessing, view_name=seen), directory / "worst.png")
    return metrics


def write_metrics(
    directory: Path, numbers: dict[str, Any], protocol: dict[str, Any], environment: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write metrics.json with the protocol and the environment (None: this process's); return its content."""
    environment = environment or describe_environment(str(protocol.get("device") or "cpu"))
    metrics = numbers | {"protocol": protocol, "environment": environment}
    write_json(directory / "metrics.json", metrics)
    return metrics


def measure_calibration(evaluation: Evaluation) -> Calibration:
    """Compute the calibration of an evaluation's predictions."""
    return compute_calibration(evaluation.probability, evaluation.predicted == evaluation.label)


def collect_metrics(evaluation: Evaluation, reliability: Calibration) -> dict[str, Any]:
    """Collect all metrics of an evaluation as plain JSON values."""
    return {
        "format": FORMAT,
        "version": 1,
        "n": evaluation.n,
        **({"left_out": evaluation.left_out} if evaluation.left_out else {}),
        "classes": list(evaluation.classes),
        "correct1": evaluation.correct1,
        "correct5": evaluation.correct5,
        "top1_error": evaluation.top1_error,
        "top1_error_interval95": list(evaluation.interval95),
        "top5_error": evaluation.top5_error,
        "mean_class_error": compute_mean_class_error(compute_class_scores(evaluation.confusion, evaluation.classes)),
        "loss": evaluation.loss,
        "loss_sum": evaluation.loss_sum,
        "calibration": {
            "bins": BINS,
            "expected_error": 100 * reliability.ece,
            "max_error": 100 * reliability.max_gap,
            "count": reliability.count.tolist(),
            "accuracy": _to_json_numbers(reliability.accuracy),
            "confidence": _to_json_numbers(reliability.confidence),
        },
        "units": "errors and calibration errors in percent, loss in nats per image",
    }


def _to_json_numbers(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _make_class_table(evaluation: Evaluation) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    header = ("class", "images", "correct", "predicted", "error", "precision", "recall", "f1")
    scores = compute_class_scores(evaluation.confusion, evaluation.classes)
    return header, ((s.name, s.images, s.correct, s.predicted, s.error, s.precision, s.recall, s.f1) for s in scores)


def _make_confusion_table(evaluation: Evaluation) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    rows = zip(evaluation.classes, evaluation.confusion.tolist(), strict=True)
    return ("true \\ predicted", *evaluation.classes), ((name, *counts) for name, counts in rows)


def _make_image_table(evaluation: Evaluation, real: RealScore | None) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    e, names = evaluation, evaluation.classes
    header = ("path", "label", "predicted", "probability", "probability_of_label", "loss", "rank")
    verdicts = [()] * e.n if real is None else [(verdict,) for verdict in real.outcomes]
    rows = zip(
        e.paths, e.label, e.predicted, e.probability, e.probability_of_label, e.losses, e.rank, verdicts, strict=True
    )
    return (*header, *(() if real is None else ("real",))), (
        (where, names[label], names[predicted], float(p), float(own), float(loss), int(rank), *verdict)
        for where, label, predicted, p, own, loss, rank, verdict in rows
    )


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically."""
    with atomic_write(path, "w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([_escape_text(value) for value in header])
        table.writerows([_escape_text(value) for value in row] for row in rows)


def _escape_text(value: Any) -> Any:
    """Escape what UTF-8 cannot hold: other bytes of a file name are written with backslashes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically. Raises WorkError for a number that is not finite."""
    try:
        text = json.dumps(values, indent=1, allow_nan=False)
    except ValueError:
        raise WorkError(f"{path} would hold a number that is not finite") from None
    with atomic_write(path, "w") as file:
        file.write(text + "\n")
