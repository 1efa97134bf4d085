"""A log is read while it grows: exactly its lines, no ghosts after a cut, no duplicates, few points."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from resnext.serving import run_logs
from resnext.serving.run_logs import LogReader, average_buckets, pick_extremes


def step_line(step: int, loss: float = 1.0) -> bytes:
    """Return a line as the Logbook writes it."""
    return json.dumps({"kind": "step", "step": step, "epoch": 1, "loss": loss, "lr": 0.1}).encode() + b"\n"


def epoch_line(epoch: int, **values: float | None) -> bytes:
    """Return an epoch's line as the Logbook writes it."""
    return json.dumps({"kind": "epoch", "epoch": epoch, "step": 10 * epoch, **values}).encode() + b"\n"


def open_at(path: Path) -> Callable[[], BinaryIO]:
    """Return what opens a file as the reader wants it."""
    return lambda: open(path, "rb", buffering=0)


def parse_whole_file(data: bytes) -> tuple[list[tuple[int, float]], list[int]]:
    """Read steps and epochs of all whole lines in the simplest way: the oracle."""
    steps, epochs = [], []
    for line in data.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["kind"] == "step":
            steps.append((row["step"], float(np.float32(row["loss"]))))
        else:
            epochs.append(row["epoch"])
    return steps, epochs


class Follower:
    """A page: keeps what it got, asks after its cursor, drops all when the generation changes."""

    def __init__(self, reader: LogReader) -> None:
        self.reader = reader
        self.generation, self.cursor = "", 0
        self.steps: list[tuple[int, float]] = []
        self.epochs: list[int] = []

    def poll(self, seconds: float = 60.0) -> bool:
        """Ask once; return whether there is more to ask for."""
        part = self.reader.read(self.cursor, self.generation, seconds)
        if part.generation != self.generation or part.after != self.cursor:
            assert part.after == 0
            self.steps, self.epochs = [], []
        self.generation, self.cursor = part.generation, part.next
        self.steps += [(int(row["step"]), float(row["loss"])) for row in part.steps]
        self.epochs += [int(row["epoch"] or 0) for row in part.epochs]
        return part.more


class ChangingLog(RuleBasedStateMachine):
    """Appends, partial writes, cuts and replacements of a log, with two pages that poll in between."""

    path: Path

    def __init__(self) -> None:
        super().__init__()
        self.path.write_bytes(b"")
        reader = LogReader(open_at(self.path))
        self.followers = [Follower(reader), Follower(reader)]
        self.step = 0

    def append(self, data: bytes) -> None:
        """Append bytes to the file in place."""
        with open(self.path, "ab") as file:
            file.write(data)

    @rule(count=st.integers(1, 5), loss=st.floats(-10, 10))
    def append_steps(self, count: int, loss: float) -> None:
        """Write whole lines."""
        for _ in range(count):
            self.step += 1
            self.append(step_line(self.step, loss))

    @rule(epoch=st.integers(1, 99))
    def append_epoch(self, epoch: int) -> None:
        """Write the line of an epoch."""
        self.append(epoch_line(epoch, top1_error=3.5))

    @rule(share=st.floats(0, 1))
    def append_part_of_a_line(self, share: float) -> None:
        """Write as a buffered writer does: a line without its end."""
        self.step += 1
        line = step_line(self.step)
        self.append(line[: round(share * len(line))])

    @rule(data=st.sampled_from([b"\n", b"{]\n", b"\xff\xfe\n", b"\0\0\0\n"]))
    def append_damage(self, data: bytes) -> None:
        """Write what is no JSON."""
        self.append(data)

    @rule(share=st.floats(0, 1))
    def resume(self, share: float) -> None:
        """Cut as a resume does: the rows up to a checkpoint are written to a new file of the same name."""
        lines = self.path.read_bytes().split(b"\n")[:-1]
        kept = [line + b"\n" for line in lines[: round(share * len(lines))]]
        part = self.path.with_suffix(".part")
        part.write_bytes(b"".join(kept))
        os.replace(part, self.path)

    @rule(share=st.floats(0, 1), loss=st.floats(-10, 10), count=st.integers(0, 6))
    def cut_in_place(self, share: float, loss: float, count: int) -> None:
        """Cut the same file, and let it grow again before anyone looks."""
        os.truncate(self.path, round(share * self.path.stat().st_size))
        self.append(b"\n")
        self.append_steps(count, loss) if count else None

    @rule()
    def remove(self) -> None:
        """Start anew with an empty file."""
        self.path.unlink()
        self.path.write_bytes(b"")

    @rule(which=st.integers(0, 1))
    def poll(self, which: int) -> None:
        """One page asks, perhaps with little time."""
        self.followers[which].poll()

    @invariant()
    def pages_show_the_file(self) -> None:
        """After a poll a page shows the lines of the file as it is now."""
        follower = self.followers[0]
        follower.poll()
        assert (follower.steps, follower.epochs) == parse_whole_file(self.path.read_bytes())

    def teardown(self) -> None:
        """The other page, which asked less often, shows the same."""
        self.followers[1].poll()
        assert (self.followers[1].steps, self.followers[1].epochs) == parse_whole_file(self.path.read_bytes())


@pytest.mark.parametrize("chunk_bytes", [100, run_logs.CHUNK_BYTES])
def test_a_page_shows_the_lines_of_the_file_whatever_is_written_and_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(run_logs, "CHUNK_BYTES", chunk_bytes)
    machine = type("Machine", (ChangingLog,), {"path": tmp_path / "log.jsonl"})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))


def test_a_partial_last_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    line = step_line(2)
    path.write_bytes(step_line(1) + line[:-1])
    page = Follower(LogReader(open_at(path)))
    page.poll()
    assert page.steps == [(1, 1.0)]
    assert page.cursor == len(step_line(1))
    path.write_bytes(step_line(1) + line)
    page.poll()
    assert page.steps == [(1, 1.0), (2, 1.0)]


def test_the_generation_stays_while_a_log_grows_and_changes_when_it_is_replaced_by_equal_lines(tmp_path: Path) -> None:
    path, part = tmp_path / "log.jsonl", tmp_path / "part"
    path.write_bytes(step_line(1))
    reader = LogReader(open_at(path))
    first = reader.read().generation
    with open(path, "ab") as file:
        file.write(step_line(2))
    assert reader.read().generation == first
    part.write_bytes(step_line(1) + step_line(2))
    os.replace(part, path)
    assert reader.read().generation != first


@pytest.mark.parametrize(("after", "generation"), [(10**9, None), (1, "of another server"), (-5, None)])
def test_a_cursor_of_another_file_gets_all_rows(tmp_path: Path, after: int, generation: str | None) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(step_line(1) + step_line(2))
    reader = LogReader(open_at(path))
    known = reader.read().generation
    part = reader.read(after, known if generation is None else generation)
    assert (part.after, len(part.steps)) == (0, 2)


def test_a_long_log_comes_in_parts_when_time_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_logs, "CHUNK_BYTES", 1000)
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(step_line(i) for i in range(1, 101)))
    page = Follower(LogReader(open_at(path)))
    polls = 1
    while page.poll(seconds=0):
        polls += 1
    assert polls > 5
    assert [step for step, _ in page.steps] == list(range(1, 101))


def test_a_line_without_end_costs_no_memory_and_hides_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_logs, "CHUNK_BYTES", 200)
    monkeypatch.setattr(run_logs, "MAX_LINE_BYTES", 800)
    path = tmp_path / "log.jsonl"
    path.write_bytes(step_line(1) + b"x" * 10_000)
    page = Follower(LogReader(open_at(path)))
    page.poll()
    with open(path, "ab") as file:
        file.write(b"y" * 5_000 + b"\n" + step_line(2))
    page.poll()
    assert [step for step, _ in page.steps] == [1, 2]


@pytest.mark.parametrize(
    "row",
    [
        {"step": "1", "epoch": 1, "loss": 1.0, "lr": 0.1},
        {"step": 10**400, "epoch": 1, "loss": 1.0, "lr": 0.1},
        {"step": -1, "epoch": 1, "loss": 1.0, "lr": 0.1},
        {"step": True, "epoch": 1, "loss": 1.0, "lr": 0.1},
        {"step": 1, "epoch": 1, "loss": None, "lr": 0.1},
        {"step": 1, "epoch": 1, "loss": 10**400, "lr": 0.1},
        {"step": 1, "epoch": 1},
    ],
)
def test_rows_that_no_logbook_writes_are_left_out(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "log.jsonl"
    deep = b'{"kind": "step", "step": ' + b"[" * 100_000 + b"\n"
    path.write_bytes(b'{"kind": "step", ' + json.dumps(row)[1:].encode() + b"\n" + deep + b"[]\n7\n" + step_line(5))
    assert LogReader(open_at(path)).read().steps["step"].tolist() == [5]


def test_epoch_rows_keep_their_columns_of_any_task(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(epoch_line(1, ap=0.25, ap_small=None, loss_box_reg=float("nan")))
    assert LogReader(open_at(path)).read().epochs == [
        {"epoch": 1, "step": 10, "ap": 0.25, "ap_small": None, "loss_box_reg": None}
    ]


def test_a_missing_log_is_empty_and_is_found_when_it_appears(tmp_path: Path) -> None:
    page = Follower(LogReader(open_at(tmp_path / "log.jsonl")))
    page.poll()
    assert (page.steps, page.cursor) == ([], 0)
    (tmp_path / "log.jsonl").write_bytes(step_line(1))
    page.poll()
    assert page.steps == [(1, 1.0)]
    (tmp_path / "log.jsonl").unlink()
    page.poll()
    assert page.steps == []


def test_more_steps_than_are_kept_are_thinned_and_their_peaks_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_logs, "MAX_ROWS", 400)
    monkeypatch.setattr(run_logs, "CHUNK_BYTES", 2_000)
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(step_line(i, 99.0 if i == 777 else 1.0) for i in range(1, 3001)))
    reader = LogReader(open_at(path))
    part = reader.read()
    assert reader.count_rows() <= 400
    assert part.count == 3000
    assert part.steps["step"].tolist() == sorted(part.steps["step"].tolist())
    assert (int(part.steps["step"][0]), int(part.steps["step"][-1])) == (1, 3000)
    assert 777 in part.steps["step"]


VALUES = st.floats(width=32) | st.just(float("nan"))


@given(arrays(np.float32, st.integers(1, 300), elements=VALUES), st.integers(4, 60))
def test_few_points_keep_the_ends_and_the_extremes(values: np.ndarray, limit: int) -> None:
    picked = pick_extremes(values, limit)
    assert len(picked) <= limit
    assert picked.tolist() == sorted(set(picked.tolist()))
    assert {0, len(values) - 1} <= set(picked.tolist())
    known = values[~np.isnan(values)]
    if len(known):
        assert known.min() in values[picked]
        assert known.max() in values[picked]


@given(arrays(np.float32, st.integers(1, 300), elements=st.floats(-100, 100, width=32)), st.integers(1, 40))
def test_averages_of_buckets_are_those_of_a_loop(values: np.ndarray, limit: int) -> None:
    steps = np.arange(1, len(values) + 1)
    x, y = average_buckets(steps, values, limit)
    width = -(-len(values) // limit)
    groups = [range(i, min(i + width, len(values))) for i in range(0, len(values), width)]
    assert len(x) == len(groups) <= limit
    np.testing.assert_allclose(x, [sum(steps[i] for i in group) / len(group) for group in groups])
    np.testing.assert_allclose(y, [sum(float(values[i]) for i in g) / len(g) for g in groups], atol=1e-9)
