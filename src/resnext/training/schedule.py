"""The learning rate as a pure function of the step, so that it needs no state in checkpoints."""

import math

from resnext.settings_shared import ScheduleSettings


def compute_learning_rate(
    schedule: ScheduleSettings, peak: float, total_steps: int, steps_per_epoch: int, step: int
) -> float:
    """Compute the learning rate of optimizer step ``step`` (from 0) of ``total_steps``.

    Warm-up is linear up to ``peak``. The step schedule multiplies by ``gamma`` at each milestone: with 30, 60, 90 it
    is the release's ``0.1^floor((epoch-1)/30)`` (epoch from 1).
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        start = schedule.warmup_start
        return peak * (start + (1 - start) * step / warmup)
    if schedule.name == "constant":
        return peak
    if schedule.name == "step":
        unit = steps_per_epoch if schedule.milestone_unit == "epochs" else 1
        passed = sum(step >= round(milestone * unit) for milestone in schedule.milestones)
        return peak * schedule.gamma**passed
    progress = (step - warmup) / (total_steps - warmup)
    return schedule.final_lr + (peak - schedule.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
