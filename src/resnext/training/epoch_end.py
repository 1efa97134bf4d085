"""End an epoch: evaluate, log it, decide whether the run goes on, write the best and the last checkpoint."""

import resource
import sys
from time import monotonic
from typing import Any

from resnext.training.callbacks import EpochResult
from resnext.training.checkpoint import write_checkpoint
from resnext.training.early_stop import describe_time_stop, explain_stop, forecast_end
from resnext.training.logbook import Logbook
from resnext.training.progress import Reporter
from resnext.training.remote_checkpoints import upload_run
from resnext.training.state import BatchT, EpochSums, ModelT, RecipeT, SavedState, TrainState
from resnext.training.task import Task


def finish_epoch(
    state: TrainState[RecipeT, ModelT, BatchT],
    task: Task[RecipeT, ModelT, BatchT],
    logbook: Logbook,
    reporter: Reporter,
) -> EpochResult:
    """Evaluate, log the epoch, write the best and the last checkpoint. Raises StopRequested on a signal."""
    position = state.position
    due = is_evaluation_due(state, position.epoch + 1)
    row, metrics = log_epoch(state, task, logbook, reporter, evaluate=due)
    position.epoch += 1
    state.sums, position.bad_images = EpochSums(), 0
    is_best = due and task.is_better(row, position.best)
    if is_best:
        position.best = pick_best(row, task)
        save_checkpoint("best", state, task)
    if due:
        position.stopped = explain_stop(state)
        if not state.time_limit.is_forecast and (forecast := forecast_end(state)):
            reporter.print_line(forecast)
        state.time_limit.is_forecast = True
    save_last_checkpoint(state, task, logbook)
    return EpochResult(position.epoch, position.step, metrics, is_best, state.run, position.stopped)


def finish_cut_epoch(
    state: TrainState[RecipeT, ModelT, BatchT],
    task: Task[RecipeT, ModelT, BatchT],
    logbook: Logbook,
    reporter: Reporter,
) -> EpochResult | None:
    """End a run whose time is over within an epoch, which a resumed run finishes as if nothing had happened.

    So the last checkpoint knows nothing of the evaluation here: it is made only if there was none before, and then
    its weights are the best ones. Returns its result. Raises StopRequested on a signal.
    """
    position, result = state.position, None
    if position.best is None:
        row, metrics = log_epoch(state, task, logbook, reporter, evaluate=True)
        position.best = pick_best(row, task)
        save_checkpoint("best", state, task)
        position.best = None
    position.stopped = describe_time_stop(state)
    if position.best is None:
        result = EpochResult(row["epoch"], position.step, metrics, True, state.run, position.stopped)
    save_last_checkpoint(state, task, logbook)
    return result


def pick_best(row: dict[str, Any], task: Task[RecipeT, ModelT, BatchT]) -> dict[str, Any]:
    """Return what a checkpoint says about the best epoch, whose row this is."""
    return {name: row[name] for name in ("epoch", "step", task.best_metric)}


def log_epoch(
    state: TrainState[RecipeT, ModelT, BatchT],
    task: Task[RecipeT, ModelT, BatchT],
    logbook: Logbook,
    reporter: Reporter,
    *,
    evaluate: bool,
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Evaluate if asked to, log and print the current epoch; return its row, and the metrics in it."""
    position, epoch = state.position, state.position.epoch + 1
    speed = {
        "epoch": epoch,
        "images_per_second": round(reporter.images_per_second, 2),
        "data_wait_share": round(reporter.wait_share, 4),
        "seconds": round(reporter.epoch_seconds, 2),
        "peak_memory_mb": measure_peak_memory_mb(),
    }
    start = monotonic()
    with state.interrupts.stop_immediately():
        evaluated = task.evaluate(state) if evaluate else {}
    if evaluate:
        state.time_limit.evaluation_seconds = monotonic() - start
    state.check_lock()
    metrics: dict[str, float | None] = {
        "lr": state.learning_rate_at(position.step - 1),
        **task.train_metrics(state),
        **dict.fromkeys(task.evaluation_columns),
        **evaluated,
        "bad_images": position.bad_images,
    }
    row = {"epoch": epoch, "step": position.step, **metrics}
    logbook.log_epoch(row, speed)
    reporter.report_epoch(row, speed, task.summarize_epoch(row))
    return row, metrics


def save_last_checkpoint(
    state: TrainState[RecipeT, ModelT, BatchT], task: Task[RecipeT, ModelT, BatchT], logbook: Logbook
) -> None:
    """Flush the log, write the last checkpoint, then upload it if there is a ``train.checkpoint_url``."""
    if state.world.is_main:
        if state.position.stopped is not None:
            logbook.log_stop(state.position)
        logbook.flush()
        save_checkpoint("last", state, task)
        if state.recipe.train.checkpoint_url is not None:
            upload_run(state.run, state.recipe.train.checkpoint_url)


def save_checkpoint(
    which: str, state: TrainState[RecipeT, ModelT, BatchT], task: Task[RecipeT, ModelT, BatchT]
) -> None:
    """Write the checkpoint ``which`` in rank 0."""
    state.check_lock()
    position, clock = state.position, state.time_limit
    if clock.limit is not None:
        position.seconds = max(position.seconds, clock.elapsed)
    if state.world.is_main:
        saved = SavedState(state.position, state.sums, state.facts, state.scaler.state_dict())
        write_checkpoint(state.run, which, saved, state.model, state.ema, state.optimizer, task.serialize_model)


def is_evaluation_due(state: TrainState[RecipeT, ModelT, BatchT], epoch: int) -> bool:
    """Whether epoch ``epoch`` (from 1) ends with an evaluation."""
    return epoch % state.recipe.train.evaluate_every == 0 or epoch == state.epochs


def measure_peak_memory_mb() -> int:
    """Return the peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if sys.platform != "darwin" else 1024**2)
