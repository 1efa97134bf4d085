"""The detection task: what ``train/loop.py`` calls to train and evaluate a detector."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console

from resnext.detect.evaluate.class_matching import match_classes
from resnext.detect.evaluate.coco_eval import describe_images_over_limit
from resnext.detect.evaluate.inference import resolve_max_detections
from resnext.detect.settings import DetectRecipe
from resnext.detect.train.outputs import evaluate_held_out, format_percent, write_final_report, write_initial_files
from resnext.detect.train.session import DetectSession, prepare
from resnext.detect.train.step import train_step
from resnext.detect.weights import serialize_detector
from resnext.run_directory import RunDirectory
from resnext.train.checkpoint import Position
from resnext.train.finetune import count_trainable_and_frozen
from resnext.train.loop import EpochResult, run_training
from resnext.train.task import Task

LOSS_NAMES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
EVALUATED = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")


def _summarize_training(session: DetectSession) -> dict[str, Any]:
    position, images = session.position, max(session.position.images, 1)
    parts = {name: position.loss_parts.get(name) for name in LOSS_NAMES}
    return {
        "train_loss": position.loss_sum / images,
        **{name: None if value is None else value / images for name, value in parts.items()},
    }


def _evaluate_epoch(session: DetectSession) -> dict[str, Any]:
    evaluation = evaluate_held_out(session, session.eval_model)
    numbers = {name: getattr(evaluation, name, None) for name in EVALUATED}
    return dict(json.loads(session.world.broadcast_bytes(json.dumps(numbers).encode())))


def _describe_run(session: DetectSession) -> Iterable[str]:
    trained, frozen = count_trainable_and_frozen(session.model)
    settings = session.model.settings
    yield (
        f"Faster R-CNN ({settings.layout}, {session.recipe.train.stage}) on {session.model.architecture.name}, "
        f"{trained:,} trainable parameters, {frozen:,} frozen; {len(session.train):,} training images of "
        f"{session.train.name}, {len(session.val):,} held-out images of {session.val.name}; "
        f"{session.total_steps:,} steps on {session.world.device} into {session.run.path}"
    )
    for dataset in (session.train, session.val):
        for what, count in dataset.counts.items():
            yield f"{dataset.name}: {count:,} {what}"
    if note := match_classes(session.model, session.val).note:
        yield f"{session.val.name}: {note}"
    advice = "raise detector.detections to give and count more"
    if beyond := describe_images_over_limit(
        session.val, resolve_max_detections(session.model), settings.detections, advice
    ):
        yield beyond


def _format_epoch(row: dict[str, Any]) -> Iterable[str]:
    yield f"train loss {row['train_loss']:.4f}"
    if any(row[name] is not None for name in EVALUATED):
        yield f"AP {format_percent(row['ap'])} AP50 {format_percent(row['ap50'])} AR {format_percent(row['ar100'])}"


DETECTION = Task(
    verb="detect train",
    columns=("epoch", "step", "lr", "train_loss", *LOSS_NAMES, *EVALUATED, "bad_images"),
    evaluation_columns=EVALUATED,
    best_metric="ap",
    lower_is_better=False,
    build=prepare,
    on_start=write_initial_files,
    step=train_step,
    train_metrics=_summarize_training,
    evaluate=_evaluate_epoch,
    on_finish=write_final_report,
    describe_run=_describe_run,
    summarize_epoch=_format_epoch,
    encode=serialize_detector,
)


def train_detector(
    recipe: DetectRecipe,
    run: RunDirectory,
    *,
    resume: bool | None = False,
    console: Console | None = None,
    on_epoch_end: Callable[[EpochResult], None] | None = None,
) -> Position:
    """Train a detector by a recipe into a run directory: ``run_training`` for detection."""
    return run_training(DETECTION, recipe, run, resume=resume, console=console, on_epoch_end=on_epoch_end)
