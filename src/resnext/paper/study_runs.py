"""The runs of the study: the command that trains each, and the directories of those that are finished."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnext.child_runs import make_train_command, read_state
from resnext.errors import RequestError
from resnext.paper.study import StudyRun
from resnext.recipe import read_recipe
from resnext.run import Run
from resnext.settings import Recipe
from resnext.training.resume import compare_with_begun


def make_command(run: StudyRun, runs: Path, given: Mapping[str, Any]) -> list[str]:
    """Make the ``resnext train`` command that starts or continues a run."""
    return make_train_command(run.recipe, runs / run.name, run.make_overrides(given))


def open_finished(run: StudyRun, runs: Path, given: Mapping[str, Any]) -> Run | None:
    """Open the directory of a run if all its epochs are done, else return None.

    Raises RequestError if it was trained with other settings than the study's and those ``given``, which must not be
    averaged with the others, and as ``read_state``.
    """
    state = read_state(runs / run.name)
    if not state.is_finished or state.opened is None:
        return None
    begun = state.opened.recipe
    if not isinstance(begun, Recipe):
        raise RequestError(f"{state.opened.path} is a detection run")
    if changed := compare_with_begun(begun, read_recipe(run.recipe, run.make_overrides(given))):
        raise RequestError(
            f"{state.opened.path} was trained with other settings (run -> requested): {'; '.join(changed)}; give the "
            "settings it was trained with, or another folder of runs with --runs"
        )
    return state.opened
