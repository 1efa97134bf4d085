"""Measure the accuracy that a precision costs, on all held-out images of a run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from resnext.choices import EngineChoice, EnginePrecision
from resnext.data.dataset import Dataset
from resnext.data.sources.registry import open_data
from resnext.deploy.predictor import Predictor
from resnext.evaluation.evaluator import evaluate
from resnext.evaluation.outputs import get_preprocessing
from resnext.model.network import Network
from resnext.run_directory import is_run, read_run_recipe


def open_held_out_images(model: str) -> Dataset | None:
    """Open the held-out images of a run; None if ``model`` is not a run. Raises RequestError if they are missing."""
    return open_data(read_run_recipe(model).data).val if is_run(Path(model)) else None


def measure_accuracy(
    precisions: Sequence[EnginePrecision],
    engine: EngineChoice,
    network: Network,
    calibration: Tensor | None,
    console: Any,
    held_out: Dataset | None,
) -> list[dict[str, object]]:
    """Evaluate each precision against plain fp32, print the errors, and return CSV rows; nothing without images."""
    if held_out is None:
        return []
    judge = partial(evaluate, dataset=held_out, preprocessing=get_preprocessing(network), device="cpu", batch_size=64)
    plain = judge(network)
    wrong = plain.n - plain.correct1
    console.print(f"{held_out.name}: {wrong} errors on {plain.n:,} images in plain fp32 ({plain.top1_error:.2f} %)")
    rows: list[dict[str, object]] = []
    for precision in precisions:
        images = calibration if precision == "int8" else None
        predictor = Predictor(
            network, engine=engine, precision=precision, goal="throughput", batch=64, calibration=images
        )
        found = judge(predictor)
        lost, changed = found.top1_error - plain.top1_error, int((found.predicted != plain.predicted).sum())
        console.print(
            f"  {precision}: {found.n - found.correct1} errors, {lost:+.2f} percentage points, {changed} predictions "
            f"changed ({predictor.engine})",
        )
        rows.append(
            {
                "model": network.architecture.name,
                "arm": f"accuracy {precision}",
                "precision": precision,
                "way": predictor.engine,
                "images": found.n,
                "wrong": found.n - found.correct1,
                "wrong_in_fp32": wrong,
                "points_lost": f"{lost:.3f}",
                "predictions_changed": changed,
            }
        )
    return rows
