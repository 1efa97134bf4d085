"""The learning rate as a pure function of the step: nothing to save, nothing to lose on resume."""

import math

from resnext.settings import ScheduleSettings

WARMUP_START = 0.01  # of the rate


def learning_rate(schedule: ScheduleSettings, peak: float, epochs: int, steps_per_epoch: int, step: int) -> float:
    """The rate of optimizer step ``step`` (from 0).

    Warm-up rises linearly to the peak. The step schedule multiplies by ``factor`` after each milestone, so
    milestones 30, 60, 90 give the rate of the release's ``0.1^floor((epoch-1)/30)`` (epoch from 1).
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (WARMUP_START + (1 - WARMUP_START) * step / warmup)
    if schedule.name == "constant":
        return peak
    if schedule.name == "step":
        passed = sum(step >= round(milestone * steps_per_epoch) for milestone in schedule.milestones)
        return peak * schedule.factor**passed
    progress = (step - warmup) / (epochs * steps_per_epoch - warmup)
    return schedule.final_lr + (peak - schedule.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
