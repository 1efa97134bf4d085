"""Tests of exports that are killed, or whose disk is full or read-only: no half file, and what was there stays."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resnext
from resnext import RequestError, WorkError
from resnext.cli import main
from resnext.deploy import model_files
from resnext.deploy.export_info import FORMATS
from resnext.deploy.exported import open_exported
from resnext.deploy.model_files import move_into_place
from tests.deploy.test_engines import usable
from tests.deploy.test_export import ENGINES, export_to, make_images, make_network

pytestmark = pytest.mark.usefixtures("one_thread")
# moves a finished file into its place, and ends the process as SIGKILL does before the N-th rename
KILL_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from resnext.deploy.model_files import move_into_place

number, replace = int(sys.argv[1]), Path.replace

def replace_or_die(source, target):
    global number
    number -= 1
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(source, target)

Path.replace = replace_or_die
move_into_place(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def read_files(folder: Path) -> dict[str, bytes]:
    """Read the files of a folder that a user sees."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow beyond 20,000 bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def arguments(tmp_path: Path) -> list[object]:
    """The arguments of an export, up to its format; the files are in a folder of their own."""
    resnext.save(make_network(), tmp_path / "w.safetensors")
    (tmp_path / "images").mkdir()
    for index, image in enumerate(make_images(3)):
        image.save(tmp_path / "images" / f"{index}.png")
    return ["export", tmp_path / "w.safetensors", "--images", tmp_path / "images", "--overwrite"]


@pytest.mark.parametrize("moment", [pytest.param("writing", marks=pytest.mark.slow), "verifying"])
def test_a_killed_export_leaves_the_file_that_was_there(moment: str, arguments: list[object], tmp_path: Path) -> None:
    usable("openvino", "fp32")
    out = tmp_path / "out"
    out.mkdir()
    (out / "m.xml").write_text("mine")
    (out / "m.bin").write_text("mine too")
    command = [sys.executable, "-m", "resnext", *map(str, arguments), "--to", "openvino", "--out", str(out / "m.xml")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    while moment not in (line := child.stderr.readline()):
        assert line, "the export ended by itself"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stderr.close()
    assert read_files(out) == {"m.xml": b"mine", "m.bin": b"mine too"}


def test_a_kill_between_the_renames_of_an_openvino_model_is_found_out(tmp_path: Path) -> None:
    changed = make_network()
    changed.fc.weight.data *= 0.5
    old = export_to(tmp_path / "out", "openvino", make_network()).path
    new = export_to(tmp_path / "part", "openvino", changed).path
    before, made = read_files(old.parent), read_files(new.parent)
    assert len(before["model.bin"]) == len(made["model.bin"])  # OpenVINO itself would take either

    def move(kill_at: int) -> dict[str, bytes]:
        command = [sys.executable, "-c", KILL_AT_RENAME, str(kill_at), str(new), str(old)]
        assert subprocess.run(command, timeout=300).returncode == (-signal.SIGKILL if kill_at else 0)
        return read_files(old.parent)

    assert move(1) == before
    open_exported(old)
    assert move(2) == {"model.xml": before["model.xml"], "model.bin": made["model.bin"]}
    with pytest.raises(RequestError, match=r"model.xml: its weights, model.bin, are not those it was written with"):
        open_exported(old)
    assert move(0) == made
    open_exported(old)


@pytest.mark.parametrize("target", FORMATS)
def test_a_full_disk_is_one_sentence_and_the_file_that_was_there_stays(
    target: str,
    arguments: list[object],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usable(ENGINES[target], "fp32")
    out = tmp_path / "out" / f"m{FORMATS[target]}"
    out.parent.mkdir()
    out.write_text("mine")
    request.getfixturevalue("full_disk")  # after the files of the other fixtures
    assert main([*map(str, arguments), "--to", target, "--out", str(out)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"resnext: \S*{re.escape(out.name)} could not be written", last), last
    assert read_files(out.parent) == {out.name: b"mine"}
    assert len(list(out.parent.iterdir())) == 1


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no folder that even root cannot write to")
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_folder_that_cannot_be_written_is_one_sentence_before_the_work(
    target: str, arguments: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    usable(ENGINES[target], "fp32")
    out = f"/sys/kernel/m{FORMATS[target]}"
    assert main([*map(str, arguments), "--to", target, "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"resnext: {out}: the folder /sys/kernel cannot be written to: ")


def test_a_rename_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "m.onnx").write_text("new")
    (tmp_path / "m.onnx").write_text("mine")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_files.os, "fsync", refuse)
    with pytest.raises(WorkError, match=r"m\.onnx could not be written: No space left on device"):
        move_into_place(tmp_path / "part" / "m.onnx", tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_text() == "mine"
