"""The parts of the training loop that depend on the task, and those of classification."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from resnext.train.finetune import count_trainable_and_frozen
from resnext.train.logbook import METRICS_COLUMNS
from resnext.train.outputs import evaluate_held_out, write_final_report, write_initial_files
from resnext.train.session import Session, build_session
from resnext.train.step import train_step
from resnext.weights.native import serialize_network


@dataclass(kw_only=True)
class Task:
    """What the loop calls for one kind of training. The functions take the session that ``build`` returned."""

    verb: str  # the command that resumes such a run: resnext VERB --resume
    columns: tuple[str, ...]  # of metrics.csv
    evaluation_columns: tuple[str, ...]  # those of the columns that an evaluation fills
    best_metric: str  # the column that selects the best checkpoint
    lower_is_better: bool  # whether a lower value is better
    build: Callable[..., Any]  # recipe, run, world, resume, console -> session
    on_start: Callable[[Any], None]  # writes files before the first step
    step: Callable[[Any, Any, float], float]  # session, batch, learning rate -> loss
    train_metrics: Callable[[Any], dict[str, Any]]  # training columns of an epoch
    evaluate: Callable[[Any], dict[str, Any]]  # evaluation columns of an epoch
    on_finish: Callable[[Any, Console], None]  # writes files at the end
    describe_run: Callable[[Any], Iterable[str]]  # lines printed at the start: model, data, steps
    summarize_epoch: Callable[[dict[str, Any]], Iterable[str]]  # parts of the line printed after an epoch
    encode: Callable[[Any, dict[str, Any]], bytes]  # model, provenance -> bytes of a weights file

    def is_better(self, row: dict[str, Any], best: dict[str, Any] | None) -> bool:
        """Return whether an epoch's row is better than the best so far. Of equal epochs the earlier one stays best."""
        if best is None:
            return True
        now, before = row[self.best_metric], best[self.best_metric]
        if now is None or before is None:  # not measurable on this data
            return before is None and now is not None
        return bool(now < before if self.lower_is_better else now > before)


def _compute_train_metrics(session: Session) -> dict[str, Any]:
    position, images = session.position, max(session.position.images, 1)
    mixes = session.recipe.augment.is_mixing
    return {
        "train_loss": position.loss_sum / images,
        "train_error": None if mixes else 100 * position.wrong / images,
    }


def _evaluate_epoch(session: Session) -> dict[str, Any]:
    evaluation = evaluate_held_out(session, session.eval_model)
    return {
        "val_loss": evaluation.loss,
        "top1_error": evaluation.top1_error,
        "top5_error": evaluation.top5_error,
    }


def _describe_run(session: Session) -> Iterable[str]:
    source = session.source
    yield (
        f"{session.model.architecture.name} on {source.train.name}: {len(source.train):,} images to train on, "
        f"{len(source.val):,} held out; {session.total_steps:,} steps on {session.world.device} into {session.run.path}"
    )
    if session.recipe.init.weights is not None:
        trained, frozen = count_trainable_and_frozen(session.model)
        yield f"from {session.recipe.init.weights}: {trained:,} parameters train, {frozen:,} are frozen"


def _summarize_epoch(row: dict[str, Any]) -> Iterable[str]:
    error = "" if row["train_error"] is None else f" error {row['train_error']:5.2f} %"
    yield f"train loss {row['train_loss']:.4f}{error}"
    if row["top1_error"] is not None:
        yield f"held-out loss {row['val_loss']:.4f} error {row['top1_error']:5.2f} %"


CLASSIFICATION = Task(
    verb="train",
    columns=METRICS_COLUMNS,
    evaluation_columns=("val_loss", "top1_error", "top5_error"),
    best_metric="top1_error",
    lower_is_better=True,
    build=build_session,
    on_start=write_initial_files,
    step=train_step,
    train_metrics=_compute_train_metrics,
    evaluate=_evaluate_epoch,
    on_finish=write_final_report,
    describe_run=_describe_run,
    summarize_epoch=_summarize_epoch,
    encode=serialize_network,
)
