"""Train the runs of the folds that are not finished, each in a process of its own."""

from rich.console import Console

from resnext.child_runs import ProgressReporter, describe_failures, make_train_command, read_state, train_runs
from resnext.cross_validation.directory import FoldRun
from resnext.cross_validation.request import CrossvalRequest
from resnext.environment import count_available_cores
from resnext.screen import print_line


def list_pending(request: CrossvalRequest) -> list[FoldRun]:
    """List the folds whose runs are not finished. Raises RequestError for a damaged directory."""
    return [run for run in request.runs if not read_state(request.directory.fold(run)).is_finished]


def train_folds(request: CrossvalRequest, images: int, jobs: int, console: Console) -> None:
    """Train what is not finished, ``jobs`` folds at a time; ``images`` is the number of images of all folds.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the runs have saved checkpoints.
        WorkError: A fold failed; the others are not trained any further.
    """
    directory, pending = request.directory, list_pending(request)
    done = len(request.runs) - len(pending)
    if done:
        print_line(console, f"{done} of {request.folds} folds are finished already")
    if not pending:
        return
    reporter = ProgressReporter(console, pending, count_epochs(request, images), directory.fold, stops_at_failure=True)
    try:
        failed = train_runs(
            pending, directory.path, lambda run: make_fold_command(request, run, jobs), jobs, reporter
        )  # fmt: skip
    finally:
        reporter.stop()
    if failed:
        raise describe_failures(failed, directory.path)


def count_epochs(request: CrossvalRequest, images: int) -> int:
    """Count the epochs of a fold's run; ``images`` is the number of images of all folds."""
    train = request.recipe.train
    steps_per_epoch = max(1, images * (request.folds - 1) // request.folds // train.batch_size)
    return train.total_epochs(steps_per_epoch)


def make_fold_command(request: CrossvalRequest, run: FoldRun, jobs: int) -> list[str]:
    """Make the ``resnext train`` command of a fold. Runs side by side share the cores, unless threads are set."""
    settings: dict[str, object] = {"data.fold": run.setting}
    if jobs > 1 and request.recipe.train.threads is None:
        settings["train.threads"] = max(1, count_available_cores() // jobs)
    return make_train_command(request.directory.recipe, request.directory.fold(run), settings)
