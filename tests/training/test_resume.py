"""A run killed at any point and resumed ends with the same bytes as one that was never interrupted."""

import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnext.cli import main
from resnext.run_directory import RunDirectory, read_last_step
from tests.conftest import TINY, run_resnext
from tests.data.sample_images import make_image

KILLED = Path(__file__).with_name("kill_at_point.py")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, the directory of its uninterrupted run)."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY)
    assert main(["train", str(recipe), "--run", str(folder / "run")]) == 0
    return recipe, folder / "run"


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_end(run: Path, whole: Path) -> None:
    """Weights, average, optimizer state, position, metrics and log are the same bytes."""
    for name in ("log.jsonl", "metrics.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = read_files(run / "checkpoints"), read_files(whole / "checkpoints")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def assert_stopped_run_resumes(run: Path, whole: Path) -> None:
    assert read_last_step(RunDirectory(run)) >= 1
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_end(run, whole)


def kill(point: str, count: int, *arguments: object) -> None:
    run_resnext(point, count, *arguments, script=KILLED, exits=-signal.SIGKILL)


def test_a_run_killed_again_and_again_ends_bit_identical(whole_run: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = whole_run
    run = tmp_path / "run"
    kill("step", 3, "train", recipe, "--run", run)  # mid-epoch, one step after a checkpoint
    kill("write", 2, "train", "--resume", run)  # half-way through the tensors of training
    kill("write", 3, "train", "--resume", run, "--data.workers", 2)  # half-way through state.json
    kill("rename", 2, "train", "--resume", run)  # new tensors stand beside a state that names the old ones
    kill("step", 7, "train", "--resume", run)
    run_resnext("train", "--resume", run, "--data.workers", 1)
    assert_same_end(run, whole)
    assert not list(run.rglob("*.part"))


def test_images_kept_in_memory_change_no_byte(tmp_path: Path) -> None:
    for split, count in (("train", 40), ("val", 10)):
        for number in range(count):
            path = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_image(12, 12, seed=number).save(path)
    recipe = tmp_path / "files.yaml"
    data = f"{{source: folder, path: {tmp_path / 'images'}, image_size: 12, workers: 0}}"
    recipe.write_text(re.sub("data: .*", f"data: {data}", TINY))
    assert main(["train", str(recipe), "--run", str(tmp_path / "whole")]) == 0
    run = tmp_path / "run"
    kill("step", 3, "train", recipe, "--run", run, "--data.cache", "memory", "--data.start_method", "fork")
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_end(run, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_any_random_kill_ends_bit_identical(whole_run: tuple[Path, Path], tmp_path: Path, seed: int) -> None:
    recipe, whole = whole_run
    draw = random.Random(seed)
    run = tmp_path / "run"
    kill("step", draw.randint(1, 8), "train", recipe, "--run", run)
    point = draw.choice(["step", "write", "rename"])
    kill(point, draw.randint(1, 9), "train", "--resume", run, "--data.workers", draw.choice([0, 1, 4]))
    run_resnext("train", "--resume", run, "--data.workers", draw.choice([0, 1, 4]))
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
    assert_stopped_run_resumes(run, whole)


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
    assert_stopped_run_resumes(run, whole)


def test_a_finished_run_resumed_stays_as_it_is(whole_run: tuple[Path, Path]) -> None:
    _, whole = whole_run
    before = read_files(whole / "checkpoints")
    assert main(["train", "--resume", str(whole)]) == 0
    assert read_files(whole / "checkpoints") == before


def test_a_changed_recipe_is_refused_and_the_difference_shown(
    whole_run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, whole = whole_run
    words = ["train", str(recipe), "--resume", str(whole), "--optimizer.lr", "0.2", "--data.workers", "1"]
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert "optimizer.lr: 0.05 -> 0.2" in errors
    assert "data.workers" not in errors
