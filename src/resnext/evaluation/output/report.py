"""Write ``report.html`` of a training run: its evaluation, plots, settings and environment in one file."""

from collections import Counter
from pathlib import Path
from typing import Any

from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.metrics import compute_class_scores, compute_interval95, from_percent
from resnext.evaluation.output.html import read_epochs, write_page
from resnext.evaluation.output.protocol import format_protocol
from resnext.evaluation.output.tables import PICTURES
from resnext.run_directory import RunDirectory

MAX_WORST_IMAGES = 12  # rows in the table of the worst images
MAX_MISTAKES = 10  # pairs of classes in the table of mistakes


def write_report(run_dir: Path | str, evaluation: Evaluation, metrics: dict[str, Any]) -> Path:
    """Write the run's ``report.html`` atomically, and return its path.

    ``metrics`` is what ``write_evaluation`` returned for ``evaluation``. Plots, settings and epochs are read from the
    run's files; missing or damaged ones are left out. Raises WorkError if the report cannot be written.
    """
    run = RunDirectory(Path(run_dir))
    epochs = read_epochs(run.metrics, "top1_error", min)
    content = {
        "protocol": format_protocol(metrics["protocol"], evaluation.n),
        "headline": _choose_headline(metrics, epochs),
        "classes": compute_class_scores(evaluation.confusion, evaluation.classes),
        "mistakes": count_mistakes(evaluation),
        "worst": _list_worst_images(evaluation),
    }
    return write_page(run, "resnext.evaluation.output", metrics, epochs, PICTURES, content)


def _choose_headline(metrics: dict[str, Any], epochs: dict[str, Any] | None) -> dict[str, Any]:
    """Choose the error to show first: that of the last epoch, as the best epoch was selected on these same images."""
    own = {"error": metrics["top1_error"], "interval": metrics["top1_error_interval95"], "right": metrics["correct1"]}
    own["of"] = ""
    if epochs is None or metrics["protocol"].get("checkpoint") != "best":
        return own
    if epochs["last_epoch"] == epochs["best_epoch"]:
        return own | {"of": " after the last epoch, which is the best one"}
    wrong = _count_wrong(epochs["last"], metrics["n"])
    return {
        "error": epochs["last"],
        "interval": None if wrong is None else compute_interval95(wrong, metrics["n"]),
        "right": None if wrong is None else metrics["n"] - wrong,
        "of": " after the last epoch",
    }


def _count_wrong(error: float, n: int) -> int | None:
    """Count the images that an error in percent of ``n`` images means; None if a damaged file gave the error."""
    return from_percent(error, n) if 0 <= error <= 100 else None


def count_mistakes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Count the most frequent pairs of label and wrong prediction, as rows with label, predicted and count."""
    wrong, names = evaluation.label != evaluation.predicted, evaluation.classes
    pairs = zip(evaluation.label[wrong].tolist(), evaluation.predicted[wrong].tolist(), strict=True)
    return [
        {"label": names[label], "predicted": names[predicted], "count": count}
        for (label, predicted), count in Counter(pairs).most_common(MAX_MISTAKES)
    ]


def _list_worst_images(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "path": evaluation.paths[row],
            "label": evaluation.classes[evaluation.label[row]],
            "predicted": evaluation.classes[evaluation.predicted[row]],
            "probability": evaluation.probability[row],
            "probability_of_label": evaluation.probability_of_label[row],
            "loss": evaluation.losses[row],
        }
        for row in evaluation.find_worst(MAX_WORST_IMAGES)
    ]
