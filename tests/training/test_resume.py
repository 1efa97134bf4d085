"""A run killed at any point and resumed ends with the same bytes as one that was never interrupted."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import run_resnext

KILLED = Path(__file__).with_name("kill_at_point.py")
RESULTS = ("log.jsonl", "metrics.csv")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, the directory of its uninterrupted run)."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("whole")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY)
    done = run_resnext("train", recipe, "--run", folder / "run")
    assert done.returncode == 0, done.stderr
    return recipe, folder / "run"


def assert_same_end(run: Path, whole: Path) -> None:
    """Weights, average, optimizer state, position, metrics and log are the same bytes."""
    for name in RESULTS:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    for which in ("last", "best"):
        ours, theirs = run / "checkpoints" / which, whole / "checkpoints" / which
        assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
        for path in theirs.iterdir():
            assert (ours / path.name).read_bytes() == path.read_bytes(), path.name


def kill(point: str, count: int, *arguments: object) -> None:
    done = run_resnext(point, count, *arguments, script=KILLED)
    assert done.returncode == -signal.SIGKILL, (point, count, done.returncode, done.stderr)


def test_a_run_killed_again_and_again_ends_bit_identical(whole_run: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = whole_run
    run = tmp_path / "run"
    kill("step", 3, "train", recipe, "--run", run)  # mid-epoch, one step after a checkpoint
    kill("write", 2, "train", "--resume", run)  # half-way through the tensors of training
    kill("write", 3, "train", "--resume", run, "--data.workers", 2)  # half-way through state.json
    kill("rename", 2, "train", "--resume", run)  # new tensors stand beside a state that names the old ones
    kill("step", 7, "train", "--resume", run)
    done = run_resnext("train", "--resume", run, "--data.workers", 1)
    assert done.returncode == 0, done.stderr
    assert_same_end(run, whole)
    assert not list(run.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_any_random_kill_ends_bit_identical(whole_run: tuple[Path, Path], tmp_path: Path, seed: int) -> None:
    recipe, whole = whole_run
    draw = random.Random(seed)
    run = tmp_path / "run"
    kill("step", draw.randint(1, 8), "train", recipe, "--run", run)
    point = draw.choice(["step", "write", "rename"])
    kill(point, draw.randint(1, 9), "train", "--resume", run, "--data.workers", draw.choice([0, 1, 4]))
    done = run_resnext("train", "--resume", run, "--data.workers", draw.choice([0, 1, 4]))
    assert done.returncode == 0, done.stderr
    assert_same_end(run, whole)


def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(whole_run: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = whole_run
    run = tmp_path / "run"
    command = [sys.executable, "-m", "resnext", "train", str(recipe), "--run", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (run / "checkpoints" / "last" / "state.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"continue with: resnext train --resume {run}" in errors
    state = json.loads((run / "checkpoints" / "last" / "state.json").read_text())
    assert state["position"]["step"] >= 1
    done = run_resnext("train", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert_same_end(run, whole)


@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_a_terminal_that_hangs_up_costs_no_step(whole_run: tuple[Path, Path], tmp_path: Path) -> None:
    """Standard output fails from then on, and the loading process has the signal too."""
    import fcntl
    import termios

    recipe, whole = whole_run
    run = tmp_path / "run"
    command = [sys.executable, "-m", "resnext", "train", str(recipe), "--run", str(run), "--data.workers", "1"]
    ours, theirs = os.openpty()

    def log_in() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the controlling terminal
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which the tests' own shell may ignore

    process = subprocess.Popen(
        command,
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),  # type: ignore[call-overload]
        start_new_session=True,
        preexec_fn=log_in,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    while process.poll() is None and not (run / "checkpoints" / "last" / "state.json").exists():
        if select.select([ours], [], [], 0.01)[0]:
            os.read(ours, 1 << 16)
    os.close(ours)
    assert process.wait(timeout=120) == 1, "stopped by its own decision, not killed"
    state = json.loads((run / "checkpoints" / "last" / "state.json").read_text())
    assert state["position"]["step"] >= 1
    done = run_resnext("train", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert_same_end(run, whole)


def test_a_finished_run_resumed_stays_as_it_is(whole_run: tuple[Path, Path]) -> None:
    _, whole = whole_run
    before = {path: path.read_bytes() for path in (whole / "checkpoints").rglob("*") if path.is_file()}
    done = run_resnext("train", "--resume", whole)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in (whole / "checkpoints").rglob("*") if path.is_file()} == before


def test_a_changed_recipe_is_refused_and_the_difference_shown(whole_run: tuple[Path, Path]) -> None:
    recipe, whole = whole_run
    done = run_resnext("train", recipe, "--resume", whole, "--optimizer.lr", "0.2", "--data.workers", 1)
    assert done.returncode == 2
    assert "optimizer.lr: 0.05 -> 0.2" in done.stderr
    assert "data.workers" not in done.stderr
