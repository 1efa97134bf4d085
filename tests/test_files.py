"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from resnext.errors import WorkError
from resnext.files import written_whole


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(path, "w") as file:
        file.write("half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_written_whole_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with written_whole(tmp_path / "whole", "w") as file:
        file.write("x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="No such file"), written_whole(tmp_path / "no" / "a", "w") as file:
        file.write("x")
