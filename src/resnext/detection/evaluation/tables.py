"""Write a detection evaluation to disk: numbers as JSON and CSV, and plots."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation import plots
from resnext.detection.evaluation.coco_eval import STATS, DetectionEvaluation
from resnext.detection.evaluation.coco_results import write_coco_results
from resnext.evaluation.output.tables import write_csv, write_metrics
from resnext.files import check_output_directory
from resnext.plotting import save_figure

FORMAT = "resnext-detection-evaluation"
FILES = (
    *("metrics.json", "per_class.csv", "images.csv", "curves.csv", "detections.json"),
    *("precision_recall.png", "images.png"),
)


def write_detection_evaluation(
    evaluation: DetectionEvaluation,
    dataset: DetectionDataset,
    directory: Path | str,
    protocol: dict[str, Any],
    environment: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write FILES into ``directory``, created if missing, each atomically; return the content of metrics.json.

    ``protocol`` describes how the detections were made, in JSON values; ``environment`` defaults to this process's.
    Replaces an earlier evaluation. Raises RequestError where a file there is not ours or the directory cannot be
    written, WorkError where writing fails later.
    """
    directory = Path(directory)
    check_output_directory(directory, FILES, FORMAT)
    directory.mkdir(parents=True, exist_ok=True)
    metrics = write_metrics(directory, to_metrics_dict(evaluation), protocol, environment)
    header = ("class", "images", "boxes", "detections", "ap", "ap50", "ap75", "ar100")
    write_csv(directory / "per_class.csv", header, evaluation.per_class)
    write_csv(directory / "images.csv", *_make_image_rows(evaluation, dataset))
    write_csv(directory / "curves.csv", *_make_curve_rows(evaluation))
    write_coco_results(directory / "detections.json", dataset, evaluation.detections)
    save_figure(plots.plot_precision_recall(evaluation), directory / "precision_recall.png")
    save_figure(plots.plot_best_and_worst(evaluation, dataset), directory / "images.png")
    return metrics


def to_metrics_dict(evaluation: DetectionEvaluation) -> dict[str, Any]:
    """Convert an evaluation's numbers to JSON values; null where the data has no boxes for them."""
    return {
        "format": FORMAT,
        "version": 1,
        "data": evaluation.name,
        "n": evaluation.n,
        "classes": list(evaluation.classes),
        "boxes": evaluation.boxes,
        "detections": evaluation.detections.n,
        "max_detections": evaluation.max_detections,
        "images_beyond": evaluation.images_over_limit,
        **{name: getattr(evaluation, name) for name in STATS},
        "threshold": None if evaluation.threshold is None else evaluation.threshold._asdict(),
        "per_class": [one._asdict() for one in evaluation.per_class],
        "units": "shares from 0 to 1; sizes small, medium, large: areas up to 32² pixels, to 96², above; "
        "max_detections: of a class and image, that count, also in ar100; images_beyond: with more boxes of a class; "
        "threshold: the score with the best F1 at IoU 0.5",
    }


def _make_image_rows(
    evaluation: DetectionEvaluation, dataset: DetectionDataset
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    m = evaluation.matches
    header = ("path", "boxes", "matched", "missed", "false", "f1", "overlap")
    columns = (column.tolist() for column in (m.boxes, m.matched, m.missed, m.false, m.f1, m.overlap))
    rows = []
    for path, boxes, matched, missed, false, f1, overlap in zip(dataset.files, *columns, strict=True):
        known_f1 = f1 if boxes or false else None  # without boxes and detections F1 has no meaning
        rows.append((path, boxes, matched, missed, false, known_f1, overlap if matched else None))
    return header, rows


def _make_curve_rows(evaluation: DetectionEvaluation) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    c = evaluation.curves
    columns = (c.precision50, c.precision75, c.precision)
    rows = (
        (name, round(float(recall), 2), *(float(values[k, i]) for values in columns))
        for k, name in enumerate(evaluation.classes)
        if not np.isnan(c.precision50[k, 0])
        for i, recall in enumerate(c.recall)
    )
    return ("class", "recall", "precision50", "precision75", "precision"), rows
