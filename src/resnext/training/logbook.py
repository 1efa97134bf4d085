"""Log a run: log.jsonl (every step and epoch), metrics.csv, speed.csv and TensorBoard events.

log.jsonl and metrics.csv have only values that the recipe determines, so a resumed run ends with the same bytes as an
uninterrupted one. Times go to speed.csv.
"""

import csv
import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from torch.utils.tensorboard import SummaryWriter

from resnext.files import atomic_write, report_write_errors
from resnext.run_directory import RunDirectory
from resnext.training.state import Position

METRICS_COLUMNS = (
    *("epoch", "step", "lr", "train_loss", "train_error"),
    *("val_loss", "top1_error", "top5_error", "bad_images"),
)
SPEED_COLUMNS = ("epoch", "images_per_second", "data_wait_share", "seconds", "peak_memory_mb")
TENSORBOARD_EVERY = 10  # steps
FLUSH_SECONDS = 2  # a row logged this long after the last flush is flushed, so that others can watch a run


class Logbook:
    """Write the log files of a run. Only rank 0 writes; in other processes every call is a no-op.

    When resuming at ``position``, rows that a killed run wrote after its last checkpoint are removed.
    """

    def __init__(
        self,
        run: RunDirectory,
        position: Position | None,
        is_main: bool = True,
        columns: tuple[str, ...] = METRICS_COLUMNS,
    ) -> None:
        self.run = run
        self.columns = columns  # of metrics.csv
        self.is_main = is_main
        self.epoch_rows: list[dict[str, Any]] = []
        if not is_main:
            return
        if position is not None:
            rows = [row for row in read_log(run.log) if is_reached(row, position)]
            with atomic_write(run.log, "w") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            self.epoch_rows = [row for row in rows if row["kind"] == "epoch"]
        self.file: IO[str] = open(run.log, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self.last_flush = -math.inf  # by time.monotonic()
        self.tensorboard = SummaryWriter(str(run.path), purge_step=None if position is None else position.step + 1)

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_main:
            with suppress(OSError):  # a full disk was reported by an earlier write
                self.file.close()
                self.tensorboard.close()

    def log_step(self, step: int, epoch: int, loss: float, lr: float) -> None:
        """Log optimizer step ``step`` (from 1) of epoch ``epoch`` (from 1)."""
        if not self.is_main:
            return
        self._append({"kind": "step", "step": step, "epoch": epoch, "loss": loss, "lr": lr})
        if step % TENSORBOARD_EVERY == 0:
            self.tensorboard.add_scalar("step/loss", loss, step)
            self.tensorboard.add_scalar("step/lr", lr, step)

    def log_epoch(self, row: dict[str, Any], speed: dict[str, Any]) -> None:
        """Log a finished epoch: ``row`` has the columns of metrics.csv, ``speed`` those of speed.csv."""
        if not self.is_main:
            return
        self._append({"kind": "epoch", **row})
        self.epoch_rows.append({"kind": "epoch", **row})
        for name, value in row.items():
            if name not in ("epoch", "step") and value is not None:
                self.tensorboard.add_scalar(f"epoch/{name}", value, row["step"])
        self.flush()
        with atomic_write(self.run.metrics, "w") as file:
            _write_csv(file, self.columns, self.epoch_rows)
        new = not self.run.speed.exists()
        with report_write_errors(self.run.speed), open(self.run.speed, "a", encoding="utf-8", newline="") as file:
            _write_csv(file, SPEED_COLUMNS, [speed], header=new)

    def log_stop(self, position: Position) -> None:
        """Log why the run ends before its last step."""
        if self.is_main:
            self._append({"kind": "stop", "step": position.step, "epoch": position.epoch, "reason": position.stopped})

    def flush(self) -> None:
        """Write everything logged so far to disk (fsync), before a checkpoint relies on it."""
        with report_write_errors(self.run.log):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.tensorboard.flush()

    def _append(self, row: dict[str, Any]) -> None:
        with report_write_errors(self.run.log):
            self.file.write(json.dumps(row) + "\n")
            now = time.monotonic()
            if now - self.last_flush >= FLUSH_SECONDS:
                self.file.flush()  # to the operating system only: a checkpoint syncs what it relies on
                self.last_flush = now


def is_reached(row: dict[str, Any], position: Position) -> bool:
    """Whether a row of the log belongs to a run that is at ``position``, and was not written after its checkpoint."""
    is_stopped_here = position.stopped is not None and row["step"] <= position.step
    if row["kind"] == "stop":
        return is_stopped_here
    if row["kind"] == "epoch":  # a stopped run may have evaluated within an epoch
        return is_stopped_here or bool(row["epoch"] <= position.epoch)
    return bool(row["step"] <= position.step)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a log.jsonl up to the first incomplete line, which a killed process may leave."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith("\n") or not isinstance(row, dict) or not {"kind", "step", "epoch"} <= row.keys():
                break
            rows.append(row)
    return rows


def find_last_evaluated(rows: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """Return the row of the last epoch with a value of ``metric``; that of the last epoch if none has one."""
    epochs = [row for row in rows if row["kind"] == "epoch"]
    return next((row for row in reversed(epochs) if row[metric] is not None), epochs[-1])


def _write_csv(file: IO[str], columns: tuple[str, ...], rows: list[dict[str, Any]], header: bool = True) -> None:
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
