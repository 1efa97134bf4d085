"""The learning rate against the release's formula, torch's schedulers and the ends of the curve."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resnext.settings_shared import ScheduleSettings
from resnext.training.schedule import compute_learning_rate


@pytest.mark.parametrize("epoch", [1, 30, 31, 60, 61, 90, 91, 100])
def test_the_imagenet_steps_are_the_releases_formula(epoch: int) -> None:
    schedule = ScheduleSettings(name="step", milestones=(30, 60, 90))
    for step in ((epoch - 1) * 7, epoch * 7 - 1):  # first and last step of the epoch
        rate = compute_learning_rate(schedule, 0.1, 700, 7, step)
        assert rate == pytest.approx(0.1 * 0.1 ** math.floor((epoch - 1) / 30))


def test_the_released_cifar_drops_come_at_the_start_of_epochs_148_and_223() -> None:
    schedule = ScheduleSettings(name="step", milestones=(147, 222))
    rates = [compute_learning_rate(schedule, 0.1, 300, 1, epoch - 1) for epoch in range(1, 301)]
    released = [0.1 * 0.1 ** ((e / 300 > 0.49) + (e / 300 > 0.74)) for e in range(1, 301)]
    assert rates == pytest.approx(released)


def test_cosine_is_torchs_cosine() -> None:
    schedule = ScheduleSettings(name="cosine", final_lr=0.001)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.001)
    for step in range(40):
        assert compute_learning_rate(schedule, 0.3, 40, 4, step) == pytest.approx(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()


def test_warm_up_rises_evenly_to_the_peak() -> None:
    schedule = ScheduleSettings(name="constant", warmup_epochs=2)
    rates = [compute_learning_rate(schedule, 1.0, 50, 10, step) for step in range(25)]
    gaps = {round(b - a, 9) for a, b in pairwise(rates[:21])}
    assert rates[0] == pytest.approx(0.01)
    assert len(gaps) == 1
    assert rates[20:] == [1.0] * 5


def test_milestones_may_count_steps_and_the_warm_up_start_where_it_is_told() -> None:
    """ImageNet-5K's drops are counted in mini-batches (Section 5.2)."""
    schedule = ScheduleSettings(milestones=(30, 60), milestone_unit="steps")
    rates = [compute_learning_rate(schedule, 0.1, 90, 1000, step) for step in range(90)]
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)
    warm = ScheduleSettings(name="constant", warmup_epochs=1, warmup_start=0.25)
    assert compute_learning_rate(warm, 4.0, 90, 10, 0) == 1.0


@given(steps=st.integers(2, 500), per_epoch=st.integers(1, 100), data=st.data())
def test_a_cosine_never_rises_and_ends_near_its_end(steps: int, per_epoch: int, data: st.DataObject) -> None:
    schedule = ScheduleSettings(name="cosine", final_lr=0.001)
    step = data.draw(st.integers(1, steps - 1))
    before, after = (compute_learning_rate(schedule, 1.0, steps, per_epoch, s) for s in (step - 1, step))
    assert 0.001 <= after <= before <= 1.0
