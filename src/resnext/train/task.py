"""The parts of the training loop that depend on the task, and those of classification."""

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
    """What the loop calls for one kind of training. The functions take the session that ``build`` returned."""

    verb: str  # the command that resumes such a run: resnext VERB --resume
    columns: tuple[str, ...]  # of metrics.csv
    judged: tuple[str, ...]  # those of the columns that an evaluation fills
    goal: str  # the column that selects the best checkpoint
    lower: bool  # whether a lower value is better
    prepare: Callable[..., Any]  # recipe, run, world, resume, console -> session
    begin: Callable[[Any], None]  # writes files before the first step
    step: Callable[[Any, Any, float], float]  # session, batch, learning rate -> loss
    trained: Callable[[Any], dict[str, Any]]  # training columns of an epoch
    judge: Callable[[Any], dict[str, Any]]  # evaluation columns of an epoch
    finish: Callable[[Any, Console], None]  # writes files at the end
    about: Callable[[Any], Iterable[str]]  # lines printed at the start: model, data, steps
    line: Callable[[dict[str, Any]], Iterable[str]]  # parts of the line printed after an epoch
    encode: Callable[[Any, dict[str, Any]], bytes]  # model, provenance -> bytes of a weights file

    def better(self, row: dict[str, Any], best: dict[str, Any] | None) -> bool:
        """Return whether an epoch's row is better than the best so far. Of equal epochs the earlier one stays best."""
        if best is None:
            return True
        now, before = row[self.goal], best[self.goal]
        if now is None or before is None:  # not measurable on this data
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
