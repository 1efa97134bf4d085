"""The detection task: what ``train/loop.py`` calls to train and evaluate a detector."""

import json
from collections.abc import Iterable
from typing import Any

from resnext.detect.classes import match_classes
from resnext.detect.evaluator import beyond_sentence
from resnext.detect.files import serialized
from resnext.detect.finish import evaluate_held_out, percent, write_beginning, write_results
from resnext.detect.judge import counted_detections
from resnext.detect.session import DetectSession, prepare
from resnext.detect.step import train_step
from resnext.train.finetune import trained_and_frozen
from resnext.train.task import Task

PARTS = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
JUDGED = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")


def _trained(session: DetectSession) -> dict[str, Any]:
    position, images = session.position, max(session.position.images, 1)
    parts = {name: position.loss_parts.get(name) for name in PARTS}
    return {
        "train_loss": position.loss_sum / images,
        **{name: None if value is None else value / images for name, value in parts.items()},
    }


def _judge(session: DetectSession) -> dict[str, Any]:
    evaluation = evaluate_held_out(session, session.used)
    numbers = {name: getattr(evaluation, name, None) for name in JUDGED}
    return dict(json.loads(session.world.share_bytes(json.dumps(numbers).encode())))


def _about(session: DetectSession) -> Iterable[str]:
    trained, frozen = trained_and_frozen(session.model)
    settings = session.model.settings
    yield (
        f"Faster R-CNN ({settings.layout}, {session.recipe.train.learn}) on {session.model.architecture.name}, "
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
    if beyond := beyond_sentence(session.val, counted_detections(session.model), settings.detections, advice):
        yield beyond


def _line(row: dict[str, Any]) -> Iterable[str]:
    yield f"train loss {row['train_loss']:.4f}"
    if any(row[name] is not None for name in JUDGED):
        yield f"AP {percent(row['ap'])} AP50 {percent(row['ap50'])} AR {percent(row['ar100'])}"


DETECTION = Task(
    verb="detect train",
    columns=("epoch", "step", "lr", "train_loss", *PARTS, *JUDGED, "bad_images"),
    judged=JUDGED,
    goal="ap",
    lower=False,
    prepare=prepare,
    begin=write_beginning,
    step=train_step,
    trained=_trained,
    judge=_judge,
    finish=write_results,
    about=_about,
    line=_line,
    encode=serialized,
)
