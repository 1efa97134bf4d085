"""Run directories are recognised and never written over."""

from pathlib import Path

import pytest

from resnext.errors import RequestError
from resnext.run_directory import create_run, is_run, open_run


def test_an_empty_folder_may_become_a_run_and_a_full_one_may_not(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run")
    assert create_run(run.path) == run
    run.recipe.write_text("")
    assert is_run(run.path)
    with pytest.raises(RequestError, match="--resume"):
        create_run(run.path)
    assert open_run(run.path) == run


@pytest.mark.parametrize("name", ["nothing", "file", "folder"])
def test_what_is_no_run_is_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError):
        open_run(tmp_path / name)
