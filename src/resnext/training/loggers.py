"""Log a run where ``train.log_to`` says, without ever making its training fail.

``loggers.json`` in the run directory keeps the ids, so that a resumed run goes on in the same place.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from types import TracebackType

from resnext.errors import RequestError
from resnext.files import atomic_write
from resnext.run_directory import RunDirectory
from resnext.settings_shared import LoggerName, RecipeBase
from resnext.training.callbacks import EpochResult
from resnext.training.mlflow_logger import MlflowLogger
from resnext.training.run_logger import RunLogger, select_numbers
from resnext.training.wandb_logger import WandbLogger

LOGGERS: dict[LoggerName, Callable[[], RunLogger]] = {"wandb": WandbLogger, "mlflow": MlflowLogger}
MAX_MESSAGE = 200  # characters of an error


@dataclass
class LoggedRun:
    """What a run directory keeps of one logger."""

    id: str
    step: int = 0  # of the last epoch that was logged: a run that was killed repeats some


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Raise RequestError if the package of a logger is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise RequestError(f"train.log_to {name} needs the package {name}: pip install 'resnext[{name}]'")


class Loggers:
    """The loggers of a run, in rank 0. One that fails is reported once, and logs no more; training goes on.

    As a context it closes them, as failed if an error leaves it.
    """

    def __init__(
        self, names: Sequence[LoggerName], run: RunDirectory, recipe: RecipeBase, say: Callable[[str], None]
    ) -> None:
        self.run, self.recipe, self.say = run, recipe, say
        self.active: dict[str, RunLogger] = {name: LOGGERS[name]() for name in names}
        self.saved = read_logged_runs(run) if names else {}

    def __enter__(self) -> "Loggers":
        def start(name: str, logger: RunLogger) -> None:
            before = self.saved.get(name)
            run_id, where = logger.start(self.run, self.recipe, None if before is None else before.id)
            is_same = before is not None and before.id == run_id
            self.saved[name] = before if before is not None and is_same else LoggedRun(run_id)
            self.say(f"{name}: {where}")
            self._save()

        self._run_each(start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run_each(lambda _, logger: logger.close(failed=kind is not None))
        self.active = {}

    def log_epoch(self, result: EpochResult) -> None:
        """Log an epoch, unless an earlier sitting has logged it: an ``EpochCallback``."""

        def log(name: str, logger: RunLogger) -> None:
            if result.step > self.saved[name].step:
                logger.log_epoch(result)
                self.saved[name].step = result.step
                self._save()

        self._run_each(log)

    def log_outcome(self, best: Mapping[str, object] | None) -> None:
        """Log the results of a finished run, whose report is written; ``best`` is what it says of its best epoch."""
        self._run_each(lambda _, logger: logger.log_outcome(self.run, select_numbers(best or {})))

    def _run_each(self, work: Callable[[str, RunLogger], None]) -> None:
        for name, logger in list(self.active.items()):
            try:
                work(name, logger)
            except Exception as error:
                del self.active[name]
                about = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_MESSAGE]
                self.say(f"warning: train.log_to {name} failed and logs no more of this run: {about}")

    def _save(self) -> None:
        with atomic_write(self.run.loggers, "w") as file:
            json.dump({name: asdict(logged) for name, logged in self.saved.items()}, file, indent=1)


def read_logged_runs(run: RunDirectory) -> dict[str, LoggedRun]:
    """Read loggers.json of a run; empty if there is none or it is damaged."""
    try:
        saved = json.loads(run.loggers.read_text(encoding="utf-8"))
        return {str(name): LoggedRun(str(one["id"]), int(one["step"])) for name, one in saved.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
