"""The runs of the study: the command that trains each, and the directories of those that are finished."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnext.child_runs import make_train_command, read_state
from resnext.paper.study import StudyRun
from resnext.run import Run


def make_command(run: StudyRun, runs: Path, given: Mapping[str, Any]) -> list[str]:
    """Make the ``resnext train`` command that starts or continues a run."""
    return make_train_command(run.recipe, runs / run.name, run.make_overrides(given))


def open_finished(run: StudyRun, runs: Path) -> Run | None:
    """Open the directory of a run if all its epochs are done, else return None. Raises as ``read_state``."""
    state = read_state(runs / run.name)
    return state.opened if state.is_finished else None
