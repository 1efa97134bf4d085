"""The log of a run: rows as written, and cut at a line that a killed process left incomplete."""

from pathlib import Path

import pytest

from resnext.run_directory import RunDirectory
from resnext.training.logbook import Logbook, read_log
from resnext.training.state import Position
from tests.training.helpers import create_run


def row(epoch: int, step: int) -> dict[str, object]:
    values = dict.fromkeys(("lr", "train_loss", "train_error", "val_loss", "top1_error", "top5_error"), 1.0)
    return {"epoch": epoch, "step": step, **values, "bad_images": 0}


def write_two_epochs(folder: Path) -> RunDirectory:
    """Two epochs of two steps."""
    run = create_run(folder)
    with Logbook(run, None) as book:
        for epoch in (1, 2):
            for step in (2 * epoch - 1, 2 * epoch):
                book.log_step(step, epoch, 0.5, 0.1)
            book.log_epoch(row(epoch, 2 * epoch), {"epoch": epoch})
    return run


@pytest.mark.parametrize(
    ("position", "kept"),
    [
        (Position(step=0, epoch=0), []),
        (Position(step=1, epoch=0), ["step 1"]),
        (Position(step=2, epoch=0), ["step 1", "step 2"]),
        (Position(step=2, epoch=1), ["step 1", "step 2", "epoch 2"]),
        (Position(step=4, epoch=1), ["step 1", "step 2", "epoch 2", "step 3", "step 4"]),
    ],
)
def test_a_resumed_log_ends_where_its_checkpoint_does(tmp_path: Path, position: Position, kept: list[str]) -> None:
    run = write_two_epochs(tmp_path / "run")
    with Logbook(run, position):
        pass
    assert [f"{r['kind']} {r['step']}" for r in read_log(run.log)] == kept


@pytest.mark.parametrize("rest", ['{"kind": "st', '{"kind": "step", "step": 9}\n', "[]\n", "\x00\x00\n"])
def test_a_ragged_end_is_left_out(tmp_path: Path, rest: str) -> None:
    run = write_two_epochs(tmp_path / "run")
    whole = read_log(run.log)
    with open(run.log, "a") as file:
        file.write(rest)
    assert read_log(run.log) == whole


def test_metrics_csv_has_one_line_an_epoch(tmp_path: Path) -> None:
    header, *lines = write_two_epochs(tmp_path / "run").metrics.read_text().splitlines()
    assert len(lines) == 2
    assert header.startswith("epoch,step,lr,train_loss")


def test_tensorboard_has_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = write_two_epochs(tmp_path / "run")
    events = EventAccumulator(str(run.path))
    events.Reload()
    assert [event.step for event in events.Scalars("epoch/top1_error")] == [2, 4]


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []
