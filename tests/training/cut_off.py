"""Cut a classification run off, as if the machine had disappeared."""

import pytest

from resnext.data.loader import Batch
from resnext.errors import WorkError
from resnext.training.classification import Classification, State
from resnext.training.step import StepResult


def cut_off_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise WorkError "cut off" instead of taking the step after ``step``."""
    take_step = Classification.step

    def no_further(task: Classification, state: State, batch: Batch, lr: float) -> StepResult:
        if state.position.step == step:
            raise WorkError("cut off")
        return take_step(task, state, batch, lr)

    monkeypatch.setattr(Classification, "step", no_further)
