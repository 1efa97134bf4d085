"""``resnext data check``: exit status, the CSV file's location, and that the data is not changed."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from resnext.commands import data
from resnext.errors import RequestError
from tests.data.layouts import make_sample_images, write_archives
from tests.data.tools.test_check_folder import clean, cut


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return clean(tmp_path / "images")


def state(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*")}


def test_a_clean_folder_is_0_and_nothing_in_it_changes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(root)
    assert run("check", root) == 0
    assert state(root) == before
    assert Path("data-check.csv").read_text().splitlines() == ["path,class,split,severity,problem,detail"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train/: 6 images in 2 classes"
    assert "0 findings in data-check.csv" in lines[-1]


def test_a_broken_image_is_1_and_in_table_and_csv(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(root / "val/cat/1.jpg")
    assert run("check", root, "--csv", "found.csv") == 1
    assert Path("found.csv").read_text().splitlines()[1].startswith("val/cat/1.jpg,cat,val,error,truncated,")
    out = capsys.readouterr().out
    assert "truncated" in out
    assert "1 error: training would fail" in out


def test_the_csv_never_lies_in_the_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="outside"):
        run("check", root, "--csv", root / "train" / "found.csv")
    monkeypatch.chdir(root)
    with pytest.raises(RequestError, match="--csv"):
        run("check", ".")
    assert not list(root.rglob("*.csv"))


def test_the_table_of_classes_is_plain_in_a_pipe_and_has_bars_on_a_terminal(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a class whose name is as long as names of classes are sometimes, and longer than a terminal is wide"
    for split in ("train", "val"):
        (root / split / "cat").rename(root / split / name)
    assert run("check", root) == 0
    plain = capsys.readouterr().out
    assert f"{name}      3    3\n" in plain
    assert plain.isascii()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "90")
    assert run("check", root) == 0
    assert f"{name}      3    3  {30 * '█'}\n" in capsys.readouterr().out


def test_the_page_is_written_where_asked_and_never_into_the_data(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", root, "--html", "page.html") == 0
    assert "page.html" in capsys.readouterr().out
    assert Path("page.html").read_text().count("<img") == 12
    assert {path.name for path in Path().iterdir()} == {"page.html", "data-check.csv"}
    with pytest.raises(RequestError, match="give --html a file outside of"):
        run("check", root, "--html", root / "page.html")


def test_groups_are_checked_as_training_would_use_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", root / "train", "--val-fraction", "0.4", "--group", "/([0-9])") == 0
    assert [line.split()[1:] for line in capsys.readouterr().out.splitlines()[4:6]] == [["2", "1"], ["2", "1"]]
    assert run("check", root / "train", "--val-fraction", "0.4", "--group", "(slide[0-9])") == 1
    assert "is found in no path" in capsys.readouterr().out


def test_arguments_that_cannot_be_are_refused(root: Path, tmp_path: Path) -> None:
    for words, message in (
        ((tmp_path / "none",), "does not exist"),
        ((root, "--csv", tmp_path / "no" / "a.csv"), "there is no folder"),
        ((root, "--workers", "0"), "at least 1"),
        ((root, "--val-fraction", "1.5"), "from 0.001 to 0.9"),
    ):
        with pytest.raises(RequestError, match=message):
            run("check", *words)


def test_its_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, argparse, resnext.commands.data as d; p = argparse.ArgumentParser(); d.add_arguments(p); "
        "p.format_help(); print(sorted({'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_archives_are_checked_and_made_into_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_archives(tmp_path / "imagenet", make_sample_images())
    before = state(tmp_path / "imagenet")
    assert run("check", tmp_path / "imagenet") == 0
    assert run("check", tmp_path / "imagenet", "--md5") == 1
    assert "not the official archive" in capsys.readouterr().out
    assert run("shard", tmp_path / "imagenet", tmp_path / "shards", "--images-per-shard", "4") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/shards/train-*.tar: 3 shards",
        f"{tmp_path}/shards/val-*.tar: 2 shards",
    ]
    assert state(tmp_path / "imagenet") == before
    shards = (f"{tmp_path}/shards/train-{{000000..000002}}.tar", "--val-path", f"{tmp_path}/shards/val-*.tar")
    assert run("check", *shards, "--classes", tmp_path / "shards/classes.txt") == 0
    for words, message in (
        (("check", *shards, "--val-fraction", "0.1"), "splits a folder of classes"),
        (("check", tmp_path / "imagenet", "--source", "webdataset"), "no files|has no image|has no label|one tar|n0"),
        (("shard", tmp_path / "imagenet", tmp_path / "shards"), "nothing is overwritten"),
        (("shard", tmp_path / "imagenet", tmp_path / "new", "--images-per-shard", "0"), "at least 1"),
    ):
        with pytest.raises(RequestError, match=message):
            run(*words)
