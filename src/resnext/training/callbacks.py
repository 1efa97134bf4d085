"""What is called after every epoch of a run, and what it is given."""

from collections.abc import Callable
from dataclasses import dataclass

from resnext.run_directory import RunDirectory


@dataclass(frozen=True)
class EpochResult:
    """A finished epoch, as a callback gets it: its row is logged, its checkpoints are written.

    If ``train.max_time`` is over before the first evaluation, the last result is of an epoch that is not finished.
    """

    epoch: int  # from 1
    step: int  # optimizer steps done
    metrics: dict[str, float | None]  # the other columns of metrics.csv by name; None where nothing was measured
    is_best: bool  # whether the "best" checkpoint is of this epoch
    run: RunDirectory
    stopped: str | None = None  # why the run ends here before its last step, as "after 12 of 30 epochs: ..."


EpochCallback = Callable[[EpochResult], None]
