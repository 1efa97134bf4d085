"""Write ``report.html`` of a training run: its evaluation, plots, settings and environment in one file."""

from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from resnext.data.dataset import BadImageError, Dataset
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.evaluation.calibration import Calibration
from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.metrics import compute_class_scores, compute_interval95, from_percent
from resnext.evaluation.output.html import read_epochs, write_page
from resnext.evaluation.output.protocol import format_protocol
from resnext.evaluation.output.tables import PICTURES, measure_calibration
from resnext.evaluation.output.thumbnails import Thumbnail, make_thumbnail
from resnext.plotting import convert_to_pixels
from resnext.run_directory import RunDirectory
from resnext.text import format_share

MAX_WORST_IMAGES = 12  # rows in the table of the worst images
MAX_MISTAKES = 10  # pairs of classes in the table of mistakes


def write_report(
    run_dir: Path | str,
    evaluation: Evaluation,
    metrics: dict[str, Any],
    dataset: Dataset | None = None,
    preprocessing: Preprocessing | None = None,
) -> Path:
    """Write the run's ``report.html`` atomically, and return its path.

    ``metrics`` is what ``write_evaluation`` returned for ``evaluation``. Plots, settings and epochs are read from the
    run's files; missing or damaged ones are left out. The images with the highest loss are shown, as the network saw
    them, if ``dataset`` and ``preprocessing`` are given. Raises WorkError if the report cannot be written.
    """
    run = RunDirectory(Path(run_dir))
    epochs = read_epochs(run.metrics, "top1_error", min)
    content = {
        "protocol": format_protocol(metrics["protocol"], evaluation.n),
        "headline": _choose_headline(metrics, epochs),
        "last": None if epochs is None else _describe_outcome(epochs["last"], metrics["n"]),
        "best": None if epochs is None else _describe_outcome(epochs["best"], metrics["n"]),
        "calibration": describe_calibration(measure_calibration(evaluation)),
        "classes": compute_class_scores(evaluation.confusion, evaluation.classes),
        "mistakes": count_mistakes(evaluation),
        "worst": _list_worst_images(evaluation, dataset, preprocessing),
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


def _describe_outcome(error: float, n: int) -> str:
    """Say how many images are right, and the error; the error alone if a damaged file gave it."""
    wrong = _count_wrong(error, n)
    return ("" if wrong is None else f"{n - wrong:,} of {n:,} right, ") + f"{error:.2f} % top-1 error"


def describe_calibration(calibration: Calibration) -> dict[str, Any]:
    """Say in a sentence whether the probabilities are too high or too low, and list the bins for a table."""
    return {
        "sentence": _compare_confidence(calibration),
        "bins": [
            {
                "range": f"{100 * low:.0f} to {100 * high:.0f} %",
                "images": int(count),
                "right": round(accuracy * count) if count else 0,
                "accuracy": accuracy if count else None,
                "confidence": confidence if count else None,
                "gap": f"{100 * (accuracy - confidence):+.1f}" if count else "–",
            }
            for low, high, count, accuracy, confidence in zip(
                calibration.edges[:-1],
                calibration.edges[1:],
                calibration.count,
                calibration.accuracy,
                calibration.confidence,
                strict=True,
            )
        ],
    }


def _compare_confidence(calibration: Calibration) -> str:
    filled, n = calibration.count > 0, int(calibration.count.sum())
    if not n:
        return "There are no images."
    said, right = (
        float((calibration.count * values)[filled].sum()) / n
        for values in (calibration.confidence, calibration.accuracy)
    )
    low, high = compute_interval95(round(n * right), n)  # percent
    verdict = (
        "so it is surer than it should be"
        if 100 * said > high
        else "so it is less sure than it could be"
        if 100 * said < low
        else "which agree as well as so many images can tell"
    )
    return (
        f"On average the network gave its prediction a probability of {format_share(said)}, and {format_share(right)} "
        f"of the {n:,} predictions were right, {verdict}."
    )


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


def _list_worst_images(
    evaluation: Evaluation, dataset: Dataset | None, preprocessing: Preprocessing | None
) -> list[dict[str, Any]]:
    return [
        {
            "path": evaluation.paths[row],
            "label": evaluation.classes[evaluation.label[row]],
            "predicted": evaluation.classes[evaluation.predicted[row]],
            "probability": evaluation.probability[row],
            "probability_of_label": evaluation.probability_of_label[row],
            "loss": evaluation.losses[row],
            "thumbnail": None
            if dataset is None or preprocessing is None
            else _show_image(dataset, int(evaluation.index[row]), preprocessing),
        }
        for row in evaluation.find_worst(MAX_WORST_IMAGES)
    ]


def _show_image(dataset: Dataset, index: int, preprocessing: Preprocessing) -> Thumbnail | None:
    """Make a thumbnail of the centre crop; None if the image cannot be read any more."""
    try:
        image = dataset.image(index)
    except BadImageError:
        return None
    return make_thumbnail(Image.fromarray(convert_to_pixels(build_eval_transform(preprocessing)(image))))
