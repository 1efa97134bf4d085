"""Files are written completely or not at all."""

import os
from pathlib import Path

import pytest

from resnext.errors import RequestError, WorkError
from resnext.files import atomic_write, check_file, check_folder


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path, "w") as file:
        file.write("half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_written_whole_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "whole", "w") as file:
        file.write("x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="No such file"), atomic_write(tmp_path / "no" / "a", "w") as file:
        file.write("x")


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe, "w") as file:
        file.write("é")
    assert os.read(reader, 10) == "é".encode()
    os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/it", "x" * 300, "/proc/nope"])
def test_a_folder_that_cannot_be_written_to_is_refused_and_nothing_is_left(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match=r"^--out .* cannot be written to: "):
        check_folder(tmp_path / place, "--out")
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "and" / "deep")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    check_folder(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("folder", "--csv .*folder is a folder; give the name of a file"),
        ("no/x.csv", "there is no folder .*no$"),
        ("file/x.csv", "there is no folder .*file$"),
        ("x" * 300, "File name too long"),
        ("x" * 252, "File name too long"),  # with what a temporary file adds to it
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, place: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match=says):
        check_file(tmp_path / place, "--csv")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    for name in ("photo.jpg", "old.csv", "OLD.CSV"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(RequestError, match=r"--csv .*photo\.jpg exists and is not named as a \.csv file; give another"):
        check_file(tmp_path / "photo.jpg", "--csv", (".csv", ".txt"))
    for name in ("old.csv", "OLD.CSV", "new.jpg"):
        check_file(tmp_path / name, "--csv", (".csv", ".txt"))
    check_file(Path(os.devnull), "--csv", (".csv",))


def test_devices_new_files_and_old_ones_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("mine")
    for path in (tmp_path / "old", tmp_path / "new", Path(os.devnull)):
        check_file(path)
    assert os.listdir(tmp_path) == ["old"]
