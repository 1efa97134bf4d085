"""Patience and time limits: where a run ends, what it keeps, and that resuming changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnext.errors import RequestError
from resnext.recipe import read_recipe
from resnext.run import open_run
from resnext.run_directory import RunDirectory
from resnext.settings_fields import parse_duration
from resnext.training import early_stop, epoch_end, time_limit
from resnext.training.callbacks import EpochResult
from resnext.training.classification import Classification, State
from resnext.training.logbook import read_log
from resnext.training.loop import run_training
from tests.training.helpers import cut_off_before, read_changed, train
from tests.training.test_resume import assert_same_end

ERRORS = (50.0, 40.0, 45.0, 40.0, 41.0, 30.0, 35.0, 36.0)  # held-out errors of epochs 1, 2, ...: best are 2, then 6

write_final_evaluation = Classification.write_final_evaluation


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out errors as in ERRORS."""

    def evaluate(_: Classification, state: State) -> dict[str, float | None]:
        error = ERRORS[state.position.epoch]
        return {"val_loss": error / 10, "top1_error": error, "top5_error": None}

    monkeypatch.setattr(Classification, "evaluate", evaluate)


class Clock:
    """A clock that stands still but for steps of 1 s and evaluations of 2 s."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wait_in(self, patch: pytest.MonkeyPatch, name: str, seconds: float) -> None:
        work: Callable[..., Any] = getattr(Classification, name)

        def slow_work(*arguments: object) -> Any:
            self.now += seconds
            return work(*arguments)

        patch.setattr(Classification, name, slow_work)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.wait_in(monkeypatch, "step", 1.0)
    clock.wait_in(monkeypatch, "evaluate", 2.0)
    for module in (time_limit, epoch_end):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    return clock


def stop_rows(run: RunDirectory) -> list[dict[str, Any]]:
    return [row for row in read_log(run.log) if row["kind"] == "stop"]


@pytest.fixture(autouse=True)
def _quick(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Draw and evaluate nothing at the start and the end."""
    monkeypatch.setattr(Classification, "write_samples", lambda *_: None)
    monkeypatch.setattr(Classification, "write_final_evaluation", lambda *_: "")


@pytest.mark.usefixtures("errors")
def test_a_run_out_of_patience_stops_and_keeps_the_best_weights(tiny_recipe: Path, tmp_path: Path) -> None:
    results: list[EpochResult] = []
    recipe = read_changed(tiny_recipe, {"train__epochs": 30, "train__patience": 3, "schedule__name": "constant"})
    run = train(recipe, tmp_path / "run", on_epoch_end=results.append)
    reason = "after 5 of 30 epochs: no better for 3 epochs"
    assert [result.epoch for result in results] == [1, 2, 3, 4, 5], "the equal error of epoch 4 is no better"
    assert [result.stopped for result in results] == [None] * 4 + [reason]
    assert run.state("best")["position"]["best"]["epoch"] == 2
    assert [row["reason"] for row in stop_rows(run)] == [reason]
    assert open_run(run.path).stopped == reason


@pytest.mark.usefixtures("errors")
@pytest.mark.parametrize("step", [25, pytest.param(13, marks=pytest.mark.slow)])
def test_a_resumed_run_stops_at_the_same_epoch(tiny_recipe: Path, tmp_path: Path, step: int) -> None:
    recipe = read_changed(tiny_recipe, {"train__epochs": 30, "train__patience": 3})
    whole = train(recipe, tmp_path / "whole")
    with cut_off_before(step):
        train(recipe, tmp_path / "run")
    run = train(recipe, tmp_path / "run", resume=True)
    assert_same_end(run.path, whole.path)
    train(recipe, tmp_path / "run", resume=None)  # --continue of a stopped run takes no further step
    assert_same_end(run.path, whole.path)


@pytest.mark.slow
@pytest.mark.usefixtures("errors")
def test_with_more_patience_a_stopped_run_goes_on_as_if_it_had_not_stopped(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = read_changed(tiny_recipe, {"train__epochs": 8, "train__patience": 3})
    patient = read_changed(tiny_recipe, {"train__epochs": 8, "train__patience": 5})
    run = train(recipe, tmp_path / "run")
    assert run.state("last")["position"]["epoch"] == 5
    train(patient, tmp_path / "run", resume=True)
    assert run.state("last")["position"]["epoch"] == 8
    assert stop_rows(run) == []
    assert run.state("best")["position"]["best"]["epoch"] == 6
    assert_same_end(run.path, train(patient, tmp_path / "whole").path)


@pytest.mark.slow
@pytest.mark.usefixtures("errors")
def test_with_less_patience_a_resumed_run_ends_at_once(tiny_recipe: Path, tmp_path: Path) -> None:
    with cut_off_before(27):  # in epoch 5, after the third that is no better than the second
        train(read_changed(tiny_recipe, {"train__epochs": 8}), tmp_path / "run")
    run = train(read_changed(tiny_recipe, {"train__epochs": 8, "train__patience": 2}), tmp_path / "run", resume=True)
    rate = "no better for 2 epochs; the schedule was cut short at a learning rate of 0.0259"
    assert [row["reason"] for row in stop_rows(run)] == [f"after 26 of 48 steps: {rate}"]


def test_patience_counts_evaluations() -> None:
    from resnext.settings_shared import RunSettings
    from resnext.training.state import Position

    count = early_stop.count_stale_evaluations
    every = RunSettings(evaluate_every=2, patience=1)
    at = [count(Position(epoch=epoch, best={"epoch": 4}), every) for epoch in (4, 5, 6, 7, 8)]
    assert at == [0, 0, 1, 1, 2]
    assert count(Position(epoch=9), every) == 0


def test_time_ends_a_run_after_the_last_epoch_that_fits(
    tiny_recipe: Path, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs take 6 steps and an evaluation, 8 s; after them come 2 s of evaluation and 5 s for the report."""
    recipe = read_changed(tiny_recipe, {"train__epochs": 30, "train__max_time": "40 s"})
    start = clock.now
    run_training(Classification, recipe, RunDirectory(tmp_path / "run"))
    position = RunDirectory(tmp_path / "run").state("last")["position"]
    assert position["epoch"] == 4, "4 * 8 + 7 = 39 s"
    assert clock.now - start <= 40
    out = capsys.readouterr().out
    reason = "after 4 of 30 epochs: train.max_time 40 s is over; the schedule was cut short at a learning rate of 0.04"
    assert f"stopped {reason}" in out
    assert "train.max_time 40 s ends this run after about 4 of 30 epochs" in out


@pytest.mark.usefixtures("clock")
def test_a_run_with_more_time_goes_on_exactly(tiny_recipe: Path, tmp_path: Path) -> None:
    settings = {"train__epochs": 4}
    whole = train(read_changed(tiny_recipe, settings), tmp_path / "whole")
    run, ends = RunDirectory(tmp_path / "run"), []
    for limit in ("10 s", "26 s", "10 m"):
        for _ in range(2):  # the second takes no step
            train(read_changed(tiny_recipe, settings | {"train__max_time": limit}), run.path, resume=None)
        ends.append((run.state("last")["position"]["step"], run.state("best")["position"]["best"]["step"]))
    assert ends == [(1, 1), (6, 6), (24, ends[2][1])], "no epoch fits into 10 s, so its first step is evaluated"
    state = json.loads((run.checkpoint("last") / "state.json").read_text())
    assert state["position"].pop("seconds") > 0
    for folder, name in ((run.path, "log.jsonl"), (run.path, "metrics.csv")):
        assert (folder / name).read_bytes() == (whole.path / name).read_bytes()
    for which in ("last", "best"):
        ours, theirs = (
            {f.name: f.read_bytes() for f in one.checkpoint(which).glob("*.safetensors")} for one in (run, whole)
        )
        assert ours == theirs


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90 s", 90), ("30m", 1800), ("1.5 h", 5400), ("1 h 30 min", 5400), ("2 d", 172800), ("30", None), ("m", None),
     ("3 weeks", None), ("-3 m", None), ("", None)],
)  # fmt: skip
def test_a_time_has_a_unit(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


def test_a_time_limit_without_a_unit_is_refused(tiny_recipe: Path) -> None:
    with pytest.raises(RequestError, match="max_time 30 must be a time with a unit, such as 90 s, 30 m or 2 h"):
        read_recipe(tiny_recipe, {"train.max_time": "30"})


def test_the_report_and_the_last_lines_say_where_training_stopped(
    tiny_recipe: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the first epoch, when nothing was evaluated before."""
    monkeypatch.setattr(Classification, "write_final_evaluation", write_final_evaluation)
    run = RunDirectory(tmp_path / "run")
    run_training(Classification, read_changed(tiny_recipe, {"train__max_time": "13 s"}), run)
    reason = "after 4 of 18 steps: train.max_time 13 s is over; the schedule was cut short at a learning rate of 0.05"
    assert clock.now == 1000 + 4 + 2, "and 7 s are left for the last evaluation and the report"
    lines = capsys.readouterr().out.splitlines()
    assert f"stopped {reason}" in lines
    assert any("images right: top-1 error" in line and "after step 4" in line for line in lines)
    assert reason in run.report.read_text()
    protocol = json.loads((run.evaluation / "metrics.json").read_text())["protocol"]
    assert (protocol["checkpoint"], protocol["step"]) == ("best", 4)
