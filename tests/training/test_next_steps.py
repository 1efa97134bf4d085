"""The commands that the last lines of a run name exist and take what they are given."""

import shlex
from importlib import import_module
from pathlib import Path

import pytest

from resnext.cli import Parser
from resnext.detection.training.task import Detection
from resnext.run_directory import RunDirectory
from resnext.training.classification import Classification
from resnext.training.task import Task


@pytest.mark.parametrize("task", [Classification, Detection])
def test_every_command_named_at_the_end_of_a_run_can_be_given(task: type[Task]) -> None:
    lines = list(task.list_next_steps(task, RunDirectory(Path("my runs/a"))))
    assert lines[0].startswith("next           resnext ")
    for line in lines:
        words = shlex.split(line.removeprefix("next"), comments=True)
        assert words[0] == "resnext"
        assert "my runs/a" in words
        command = import_module(f"resnext.commands.{words[1]}")
        parser = Parser(prog=words[1])
        command.add_arguments(parser)
        parser.parse_args(words[2:])
