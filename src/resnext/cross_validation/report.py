"""Write the pooled numbers: tables, predictions.csv, summary.json and report.html."""

from typing import Any

from resnext.cross_validation.directory import CrossvalDirectory
from resnext.cross_validation.held_out import HeldOut
from resnext.cross_validation.summary import (
    CrossvalSummary,
    describe_interval,
    describe_leaks,
    describe_networks,
)
from resnext.data.dataset import Dataset
from resnext.device import pick_device
from resnext.evaluation.metrics import compute_class_scores, compute_interval95
from resnext.evaluation.output.html import write_page
from resnext.evaluation.output.protocol import build_protocol, format_protocol
from resnext.evaluation.output.report import count_mistakes, describe_calibration
from resnext.evaluation.output.tables import PICTURES, measure_calibration, write_csv, write_evaluation, write_json
from resnext.settings import Recipe

MAX_CLASS_COLUMNS = 200  # with more classes predictions.csv has the probabilities of label and prediction only


def write_results(
    directory: CrossvalDirectory, recipe: Recipe, whole: Dataset, held_out: HeldOut, summary: CrossvalSummary
) -> None:
    """Write evaluation/, predictions.csv, summary.json and report.html. Raises WorkError."""
    evaluation = held_out.evaluation
    protocol = build_protocol(
        held_out.preprocessing,
        data=evaluation.name,
        split=f"{len(summary.scores)} folds, each held out once; split_seed {recipe.data.split_seed}",
        device=str(pick_device(recipe.train.device)),
        precision=recipe.train.precision,
        weights="the last checkpoint of each fold",
    )
    metrics = write_evaluation(evaluation, whole, held_out.preprocessing, directory.evaluation, protocol)
    write_json(directory.environment, metrics["environment"])
    write_predictions(directory, held_out)
    write_json(directory.summary, summary.to_dict())
    content = {
        "summary": summary,
        "about_networks": describe_networks(summary),
        "about_interval": describe_interval(summary),
        "about_leaks": describe_leaks(summary),
        "protocol": format_protocol(protocol, evaluation.n),
        "classes": _list_classes(held_out),
        "mistakes": count_mistakes(evaluation),
        "calibration": describe_calibration(measure_calibration(evaluation)),
        "recipe_note": f"{directory.recipe.name} has the recipe of all folds.",
        "labels_page": directory.labels_page.name,
    }
    write_page(directory, "resnext.cross_validation", metrics, None, PICTURES, content)


def _list_classes(held_out: HeldOut) -> list[dict[str, Any]]:
    evaluation, rows = held_out.evaluation, []
    for score in compute_class_scores(evaluation.confusion, evaluation.classes):
        low, high = compute_interval95(score.correct, score.images)
        rows.append({"score": score, "low": low, "high": high})
    return rows


def write_predictions(directory: CrossvalDirectory, held_out: HeldOut) -> None:
    """Write a row for each image: label, prediction, fold, and the probability of each class. Raises WorkError."""
    e, names = held_out.evaluation, held_out.evaluation.classes
    columns = [f"probability of {name}" for name in names] if len(names) <= MAX_CLASS_COLUMNS else []
    header = ("file", "label", "predicted", "fold", "probability_of_predicted", "probability_of_label", *columns)
    rows = (
        (
            e.paths[row], names[e.label[row]], names[e.predicted[row]], int(held_out.fold[row]),
            f"{e.probability[row]:.6f}", f"{e.probability_of_label[row]:.6f}",
            *(f"{p:.6f}" for p in (held_out.probabilities[row] if columns else ())),
        )
        for row in range(e.n)
    )  # fmt: skip
    write_csv(directory.predictions, header, rows)
