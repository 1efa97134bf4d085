"""``--continue``: one command starts a run or resumes it, the same in all processes."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from resnext.cli import main
from resnext.errors import RequestError, WorkError
from resnext.recipe import dump_recipe, read_recipe
from resnext.run_directory import OWNER_FILE, RunDirectory, read_last_step
from resnext.training.distributed import World
from resnext.training.resume import resolve_resume, resolve_resumed_recipe
from tests.training.helpers import write_photos
from tests.training.test_resume import assert_same_end, kill, read_files

SHORT = ["--train.epochs", "2"]


class Two(World):
    """Rank 0 of two processes; rank 1 has the run at step ``other``."""

    other = -1

    def all_reduce_sum(self, values: Sequence[float | Tensor]) -> list[float]:
        return [float(values[0]), float(self.other)]

    def broadcast_bytes(self, data: bytes) -> bytes:
        return data


def test_the_same_command_begins_goes_on_and_leaves_a_finished_run_as_it_is(tiny_recipe: Path, tmp_path: Path) -> None:
    command = ["train", str(tiny_recipe), *SHORT, "--continue", str(tmp_path / "run")]
    kill("step", 3, *command)
    kill("step", 4, *command, "--data.workers", "1")
    assert main(command) == 0
    assert main(["train", str(tiny_recipe), *SHORT, "--run", str(tmp_path / "whole")]) == 0
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    before = read_files(tmp_path / "run" / "checkpoints")
    assert main(command) == 0
    assert read_files(tmp_path / "run" / "checkpoints") == before


def test_a_run_killed_before_its_recipe_stood_begins_again(tiny_recipe: Path, tmp_path: Path) -> None:
    command = ["train", str(tiny_recipe), *SHORT, "--continue", str(tmp_path / "run")]
    kill("rename", 3, *command)  # the checkpoint of step 0 is there, the recipe is not
    assert read_last_step(RunDirectory(tmp_path / "run")) == -1
    assert main(command) == 0


def test_the_same_command_given_while_the_run_goes_on_is_refused_and_takes_over_from_a_killed_one(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    command = ["train", str(tiny_recipe), "--train.epochs", "500", "--train.seed", "3", "--continue", str(run.path)]
    with subprocess.Popen([sys.executable, "-m", "resnext", *command], stdout=subprocess.DEVNULL) as first:
        try:
            while first.poll() is None and not run.metrics.exists():
                time.sleep(0.01)
            before = run.log.read_bytes()
            for words in (command, ["train", "--resume", str(run.path)]):
                assert main(words) == 2
                assert f"process {first.pid} on " in capsys.readouterr().err
            assert first.poll() is None
            assert run.log.read_bytes().startswith(before), "the second one cut nothing off"
        finally:
            first.kill()
    epochs = run.state("last")["position"]["epoch"] + 1
    run.recipe.write_text(dump_recipe(read_recipe(run.recipe, {"train.epochs": epochs})))
    assert main(["train", "--resume", str(run.path)]) == 0
    assert run.state("last")["position"]["epoch"] == epochs
    assert not (run.path / OWNER_FILE).exists()


def test_paths_of_a_run_hold_from_any_working_directory(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos", "day", "night", count=10)
    (tmp_path / "elsewhere").mkdir()
    options = "--data.source folder --data.val_fraction 0.2 --data.image_size 16 --data.path photos --train.epochs 1"
    command = ["train", str(tiny_recipe), *options.split(), "--train.checkpoint_url", "copies", "--continue"]
    monkeypatch.chdir(tmp_path)
    assert main([*command, "run"]) == 0
    assert main([*command, "run"]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert list(Path().iterdir()) == []


def test_a_relative_path_is_that_of_the_run_on_another_host_too(tiny_recipe: Path, tmp_path: Path) -> None:
    run, begun = RunDirectory(tmp_path), read_recipe(tiny_recipe)

    def goes_on(weights: str) -> bool:
        try:
            resolve_resumed_recipe(run, replace(begun, init=replace(begun.init, weights=weights)))
        except RequestError as error:
            assert "init.weights: " in str(error)
            return False
        return True

    run.recipe.write_text(dump_recipe(replace(begun, init=replace(begun.init, weights="/home/a/weights/x.pt"))))
    asked = ("/home/a/weights/x.pt", "weights/x.pt", "x.pt", "/home/b/weights/x.pt", "y.pt", "s/x.pt", "hf://x.pt")
    assert [goes_on(weights) for weights in asked] == [True, True, True, False, False, False, False]
    run.recipe.write_text(dump_recipe(replace(begun, init=replace(begun.init, weights="x.pt"))))  # by an older version
    assert goes_on("x.pt")
    assert goes_on(str(Path.cwd() / "x.pt"))


def test_another_recipe_is_shown_with_its_differences(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(tiny_recipe), "--continue", str(tmp_path / "run")]
    assert main([*command, "--train.epochs", "1"]) == 0
    assert main([*command, "--train.epochs", "2"]) == 2
    assert "train.epochs: 1 -> 2" in capsys.readouterr().err
    assert main(["train", str(tiny_recipe), "--continue", "a", "--run", "b"]) == 2
    assert "give only one of them" in capsys.readouterr().err


def test_a_run_that_lies_on_another_hosts_disk_is_not_begun_anew(tiny_recipe: Path, tmp_path: Path) -> None:
    world = Two(torch.device("cpu"), rank=0, size=2)
    Two.other = 40
    with pytest.raises(WorkError, match=r"process 1 has .* at step 40, .* need a shared folder, or a train"):
        resolve_resume(read_recipe(tiny_recipe), RunDirectory(tmp_path / "run"), world)
    assert not (tmp_path / "run").exists()
    Two.other = -1
    assert resolve_resume(read_recipe(tiny_recipe), RunDirectory(tmp_path / "run"), world)[1] is False


def test_a_damaged_state_is_named_rather_than_begun_over(tiny_recipe: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.checkpoint("last").mkdir(parents=True)
    run.recipe.write_text("{}")
    (run.checkpoint("last") / "state.json").write_text('{"format": "resnext-checkpoint"}')
    with pytest.raises(RequestError, match="has no valid training position"):
        resolve_resume(read_recipe(tiny_recipe), run, World(torch.device("cpu")))
