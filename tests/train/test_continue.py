"""``--continue``: one command that begins a run or goes on with it, and all processes agree."""

from pathlib import Path

import pytest
import torch

from resnext.cli import main
from resnext.errors import RequestError, WorkError
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.train.distributed import World
from resnext.train.resume import settled, step_of
from tests.train.test_resume import assert_same_end, kill

SHORT = ["--train.epochs", "2"]


class Two(World):
    """The leader of two processes; the other one holds the run at ``other``."""

    other = -1

    def sum(self, values: list[float]) -> list[float]:
        return [values[0], float(self.other)]

    def share_bytes(self, data: bytes) -> bytes:
        return data


def test_the_same_command_begins_goes_on_and_leaves_a_finished_run_as_it_is(tiny_recipe: Path, tmp_path: Path) -> None:
    command = ["train", str(tiny_recipe), *SHORT, "--continue", str(tmp_path / "run")]
    kill("step", 3, *command)
    kill("step", 4, *command, "--data.workers", "1")
    assert main(command) == 0
    assert main(["train", str(tiny_recipe), *SHORT, "--run", str(tmp_path / "whole")]) == 0
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    before = {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()}
    assert main(command) == 0
    assert {p: p.read_bytes() for p in before} == before


def test_a_run_killed_before_its_recipe_stood_begins_again(tiny_recipe: Path, tmp_path: Path) -> None:
    command = ["train", str(tiny_recipe), *SHORT, "--continue", str(tmp_path / "run")]
    kill("rename", 3, *command)  # the checkpoint of step 0 is there, the recipe is not
    assert step_of(RunDirectory(tmp_path / "run")) == -1
    assert main(command) == 0


def test_another_recipe_is_shown_with_its_differences(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(tiny_recipe), "--continue", str(tmp_path / "run")]
    assert main([*command, "--train.epochs", "1"]) == 0
    assert main([*command, "--train.epochs", "2"]) == 2
    assert "train.epochs: 1 -> 2" in capsys.readouterr().err
    assert main(["train", str(tiny_recipe), "--continue", "a", "--run", "b"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert main(["train", str(tiny_recipe), "--continue", str(tmp_path / "mine")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_a_run_that_lies_on_another_hosts_disk_is_not_begun_anew(tiny_recipe: Path, tmp_path: Path) -> None:
    world = Two(torch.device("cpu"), rank=0, size=2)
    Two.other = 40
    with pytest.raises(WorkError, match=r"process 1 holds .* at step 40, .* need one folder that all see, or a train"):
        settled(read_recipe(tiny_recipe), RunDirectory(tmp_path / "run"), world)
    assert not (tmp_path / "run").exists()
    Two.other = -1
    assert settled(read_recipe(tiny_recipe), RunDirectory(tmp_path / "run"), world)[1] is False


def test_a_damaged_state_is_named_rather_than_begun_over(tiny_recipe: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.checkpoint("last").mkdir(parents=True)
    run.recipe.write_text("{}")
    (run.checkpoint("last") / "state.json").write_text('{"format": "resnext-checkpoint"}')
    with pytest.raises(RequestError, match="does not say where the run stands"):
        settled(read_recipe(tiny_recipe), run, World(torch.device("cpu")))
