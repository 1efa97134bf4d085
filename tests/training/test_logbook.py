"""The log of a run: rows as written, and cut at a line that a killed process left incomplete."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from resnext.errors import WorkError
from resnext.run_directory import RunDirectory
from resnext.training import logbook
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


def test_rows_can_be_read_by_others_seconds_after_they_were_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.5, 1.9, 2.0, 2.1, 7.0])
    monkeypatch.setattr(logbook, "time", SimpleNamespace(monotonic=lambda: next(times)))
    run = create_run(tmp_path / "run")
    with Logbook(run, None) as book:
        seen = []
        for step in range(1, 7):
            book.log_step(step, 1, 0.5, 0.1)
            seen.append(len(read_log(run.log)))
        assert seen == [1, 1, 1, 4, 4, 6]


def test_a_full_disk_is_reported_when_a_row_is_flushed(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run")
    with Logbook(run, None) as book:
        book.file.close()
        book.file = open("/dev/full", "w")  # noqa: SIM115 (closed by the log book)
        with pytest.raises(WorkError, match="No space left"):
            book.log_step(1, 1, 0.5, 0.1)


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
