"""What a run learns: the parts of the loop that differ between kinds of training, as plain functions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from resnext.train.finetune import trained_and_frozen
from resnext.train.finish import evaluate_held_out, write_beginning, write_results
from resnext.train.logbook import METRICS
from resnext.train.session import Session, prepare
from resnext.train.step import train_step
from resnext.weights.native import serialized


@dataclass(kw_only=True)
class Task:
    """Every function takes the session that ``prepare`` made."""

    verb: str  # the command that goes on with such a run
    columns: tuple[str, ...]  # of metrics.csv
    judged: tuple[str, ...]  # those of them that an evaluation fills
    goal: str  # the one of them that says which checkpoint is the best
    lower: bool  # whether less of it is better
    prepare: Callable[..., Any]  # recipe, run, world, whether it goes on, console -> session
    begin: Callable[[Any], None]  # writes what a run directory has before the first step
    step: Callable[[Any, Any, float], float]  # session, batch, learning rate -> loss
    trained: Callable[[Any], dict[str, Any]]  # columns of an epoch's training
    judge: Callable[[Any], dict[str, Any]]  # columns of its evaluation
    finish: Callable[[Any, Console], None]  # writes what a run directory has at the end
    about: Callable[[Any], Iterable[str]]  # what is trained on what, in lines
    line: Callable[[dict[str, Any]], Iterable[str]]  # an epoch in a few words
    encode: Callable[[Any, dict[str, Any]], bytes]  # a weights file of a model and its provenance

    def better(self, row: dict[str, Any], best: dict[str, Any] | None) -> bool:
        """Whether an epoch's row beats the best one so far; the earlier of equals stays."""
        if best is None:
            return True
        now, before = row[self.goal], best[self.goal]
        if now is None or before is None:  # nothing it could be of
            return before is None and now is not None
        return bool(now < before if self.lower else now > before)


def _trained(session: Session) -> dict[str, Any]:
    position, images = session.position, max(session.position.images, 1)
    mixes = session.recipe.augment.mixes
    return {
        "train_loss": position.loss_sum / images,
        "train_error": None if mixes else 100 * position.wrong / images,
    }


def _judge(session: Session) -> dict[str, Any]:
    evaluation = evaluate_held_out(session, session.used)
    return {
        "val_loss": evaluation.loss,
        "top1_error": evaluation.top1_error,
        "top5_error": evaluation.top5_error,
    }


def _about(session: Session) -> Iterable[str]:
    source = session.source
    yield (
        f"{session.model.architecture.name} on {source.train.name}: {len(source.train):,} images to train on, "
        f"{len(source.val):,} held out; {session.total_steps:,} steps on {session.world.device} into {session.run.path}"
    )
    if session.recipe.init.weights is not None:
        trained, frozen = trained_and_frozen(session.model)
        yield f"from {session.recipe.init.weights}: {trained:,} parameters train, {frozen:,} are frozen"


def _line(row: dict[str, Any]) -> Iterable[str]:
    error = "" if row["train_error"] is None else f" error {row['train_error']:5.2f} %"
    yield f"train loss {row['train_loss']:.4f}{error}"
    if row["top1_error"] is not None:
        yield f"held-out loss {row['val_loss']:.4f} error {row['top1_error']:5.2f} %"


CLASSIFICATION = Task(
    verb="train",
    columns=METRICS,
    judged=("val_loss", "top1_error", "top5_error"),
    goal="top1_error",
    lower=True,
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
