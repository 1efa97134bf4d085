"""Print the results of ``resnext evaluate``, each with its protocol."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from resnext.evaluation.classifier import Classifier
from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.output.protocol import format_protocol
from resnext.evaluation.output.tables import measure_calibration
from resnext.evaluation.output.view_text import format_view
from resnext.evaluation.suites.imagenet_c import SEVERITIES, CorruptionResult, compute_mean_errors, summarize_results
from resnext.evaluation.suites.real import RealScore
from resnext.screen import Screen
from resnext.text import format_percent
from resnext.weights.released import identify_released


def print_evaluation(
    console: Screen, evaluation: Evaluation, protocol: dict[str, Any], real: RealScore | None = None
) -> None:
    """Print the result as a small table, followed by its protocol."""
    low, high = evaluation.interval95
    wrong = evaluation.n - evaluation.correct1
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("images", f"{evaluation.n:,}")
    table.add_row(
        "top-1 error", f"{evaluation.top1_error:.2f} %  ({wrong:,} wrong; 95 % interval {low:.2f} to {high:.2f})"
    )
    if evaluation.top5_error is not None:
        table.add_row("top-5 error", f"{evaluation.top5_error:.2f} %")
    table.add_row("loss", f"{evaluation.loss:.4f}")
    reliability = measure_calibration(evaluation)
    table.add_row(
        "calibration error", f"{100 * reliability.ece:.2f} %  (largest gap {100 * reliability.max_gap:.1f} %)"
    )
    if real is not None:
        table.add_row("ReaL error", format_real_score(real))
    console.print(table)
    console.print(format_protocol(protocol, evaluation.n))


def format_real_score(real: RealScore) -> str:
    """Format the error on ReaL labels with the counts behind it."""
    without = f"{real.unlabelled:,} without a label left out"
    if real.n == 0:
        return f"none of the images has a label ({without})"
    low, high = real.interval95
    return f"{real.error:.2f} %  ({real.wrong:,} of {real.n:,} wrong, {without}; interval {low:.2f} to {high:.2f})"


def print_published(
    console: Screen, model: Classifier, weights: str, evaluation: Evaluation, protocol: dict[str, Any]
) -> None:
    """Print published results beside the measured ones, if the weights are known."""
    entry = identify_released(model.provenance, weights, model.architecture.name)
    if entry is None:
        return
    certain = "" if entry.is_certain else "probably "
    console.print(f"these are {certain}the weights of {entry.name}" + (f": {entry.note}" if entry.note else ""))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "top-1 error", "top-5 error"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    table.add_column("on")
    measured = f"{evaluation.n:,} images of {protocol['data']} · {format_view(protocol)}"
    table.add_row("measured", format_percent(evaluation.top1_error), format_percent(evaluation.top5_error), measured)
    for figure in entry.figures:
        table.add_row(
            "published", format_percent(figure.top1_error), format_percent(figure.top5_error), figure.protocol
        )
    console.print(table)


def print_corruptions(
    console: Screen, results: Sequence[CorruptionResult], protocol: dict[str, Any], official: bool
) -> None:
    """Print errors by corruption and severity, their mean, and the mCE or why there is none."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    severities = [severity for severity in SEVERITIES if any(r.severity == severity for r in results)]
    table.add_column("top-1 error, %, at severity")
    for severity in severities:
        table.add_column(str(severity), justify="right")
    table.add_column("mean", justify="right")
    errors = {(r.corruption, r.severity): r.error for r in results}
    for name, mean in compute_mean_errors(results).items():
        row = [errors.get((name, severity)) for severity in severities]
        table.add_row(name, *("" if error is None else f"{error:.2f}" for error in row), f"{mean:.2f}")
    console.print(table)
    console.print(format_summary(results, official))
    console.print(format_protocol(protocol, sum(r.n for r in results)))


def format_summary(results: Sequence[CorruptionResult], official: bool) -> str:
    """Format the mean error and the mCE in one sentence."""
    numbers = summarize_results(results, official)
    count = len(numbers["errors"])
    mean = f"mean error {numbers['mean_error']:.2f} % over {count} corruption{'s' if count > 1 else ''}"
    if numbers["mce"] is not None:
        return f"mCE {numbers['mce']:.2f} % (of AlexNet's errors); {mean}"
    return f"{mean}; no mCE: {numbers['no_mce_because']}"
