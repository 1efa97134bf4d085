"""The time that a run has used, and whether more of it fits into ``train.max_time``."""

from dataclasses import dataclass, field
from time import monotonic

FINISH_SECONDS = 5.0  # to draw the plots and write the report


@dataclass
class TimeLimit:
    """The clock of a run. Without a ``limit`` everything fits. With several processes that of rank 0 decides.

    The time to come is estimated from the latest epoch and the latest evaluation; before the first evaluation, an
    image counts as much in evaluation as in training.
    """

    limit: float | None = None  # seconds, over all sittings
    used: float = 0.0  # seconds in earlier sittings
    evaluation_batches: float = 0.0  # held-out images, in batches of training
    start: float = field(default_factory=lambda: monotonic())  # looked up late: tests replace the clock
    epoch_start: float | None = None
    epoch_steps: int = 0  # done in this sitting since ``epoch_start``
    step_seconds: float | None = None  # mean over the latest epoch
    evaluation_seconds: float | None = None  # of the latest evaluation
    is_forecast: bool = False  # whether the user was told in this sitting where the time will be over

    @property
    def elapsed(self) -> float:
        """Seconds of training over all sittings."""
        return self.used + monotonic() - self.start

    def start_epoch(self) -> None:
        """Begin to measure the steps of an epoch."""
        self.epoch_start, self.epoch_steps = monotonic(), 0

    def count_step(self) -> None:
        """Count a step of the epoch."""
        self.epoch_steps += 1
        self.step_seconds = (monotonic() - (self.epoch_start or 0.0)) / self.epoch_steps

    def is_up(self, evaluations: int) -> bool:
        """Whether what is left does not suffice for one step more, so many evaluations and the report."""
        return not self.has_time_for(1, evaluations)

    def has_time_for(self, steps: int, evaluations: int) -> bool:
        """Whether so many steps, so many evaluations and the report fit into the time that is left."""
        if self.limit is None:
            return True
        step, now = self.step_seconds, monotonic()
        if step is None:  # within the first step, or before it
            step = 0.0 if self.epoch_start is None else now - self.epoch_start
        evaluation = self.evaluation_seconds
        evaluation = self.evaluation_batches * step if evaluation is None else evaluation
        return self.elapsed + steps * step + evaluations * evaluation + FINISH_SECONDS <= self.limit
