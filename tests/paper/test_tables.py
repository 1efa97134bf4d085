"""Tables as text, CSV and plots contain what was published, counted and measured."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.paper import throughput
from resnext.paper.numbers import load_tables
from resnext.paper.status import print_status
from resnext.paper.tables import show_table
from resnext.paper.throughput import TimingRequest, measure_throughputs, read_throughputs
from tests.paper.conftest import MakeRun

TINY = Architecture(depth=11, stem="cifar", cardinality=2, width=4, base_channels=4, num_classes=3)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "cache"))


def shown(name: str, tmp_path: Path, width: int = 250) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_table(console, load_tables()[name], tmp_path / "runs", tmp_path / "results", tmp_path / "out", measure="none")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("name", list(load_tables()))
def test_every_table_is_printed_and_written(name: str, tmp_path: Path) -> None:
    entry = load_tables()[name]
    text = shown(name, tmp_path)
    for row in entry.rows:
        assert row.key in text
        assert row.name in text
        for column in entry.columns:
            if column.key in row.published:
                assert f"{row.published[column.key]:.{column.decimals}f}" in text
    lines = list(csv.DictReader((tmp_path / "out" / f"{name}.csv").read_text().splitlines()))
    assert [line["row"] for line in lines] == [row.key for row in entry.rows]
    for line, row in zip(lines, entry.rows, strict=True):
        for column in entry.columns:
            said = line[f"{column.key}_paper"]
            assert (float(said) if said else None) == row.published.get(column.key)
    picture = Image.open(tmp_path / "out" / f"{name}.png")
    assert picture.width > 500
    assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20
    assert (tmp_path / "out" / f"{name}.svg").read_text().startswith("<?xml")


def test_a_measured_run_stands_beside_the_papers_value(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("imagenet-resnext50-32x4d", error=22.43)
    make_run("imagenet-resnet101", epoch=43)
    text = shown("table3", tmp_path)
    line = next(line for line in text.splitlines() if "32x4d/50" in line)
    assert line.split()[3:5] == ["22.2", "22.4"]
    assert line.rstrip().endswith("finished")
    assert "running, epoch 43 of 100" in text
    row = next(
        r for r in csv.DictReader((tmp_path / "out/table3.csv").read_text().splitlines()) if r["row"] == "32x4d/50"
    )
    assert (row["top1_here"], row["top1_here_runs"], row["macs"][:3]) == ("22.43", "1", "423")


def test_measured_curves_are_drawn_over_the_papers(tmp_path: Path, make_run: MakeRun) -> None:
    before = shown("figure5", tmp_path) and (tmp_path / "out/figure5.png").read_bytes()
    make_run("imagenet-resnet50", epoch=60)
    shown("figure5", tmp_path)
    assert (tmp_path / "out/figure5.png").read_bytes() != before
    rows = list(csv.DictReader((tmp_path / "out/figure5-curves.csv").read_text().splitlines()))
    ours = [row for row in rows if row["who"] == "here" and row["split"] == "val"]
    assert len(ours) == 60
    assert sum(row["who"] == "paper" for row in rows) == 705


def test_a_narrow_terminal_gets_the_table_in_two_pieces(tmp_path: Path) -> None:
    text = shown("table4", tmp_path, width=90)
    assert text.count("64x4d/101") == 2
    assert "15.46" in text


def test_the_same_table_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    shown("table3", tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shown("table3", tmp_path)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("name", ["table3.csv", "table3.png", "figure5-curves.csv"])
def test_files_of_others_are_never_replaced(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "out" / name
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(RequestError, match=f"{name} exists and was not written by resnext"):
        shown(name.partition(".")[0].removesuffix("-curves"), tmp_path)
    assert [(path.name, path.read_text()) for path in mine.parent.iterdir()] == [(name, "mine")]


def test_status_names_every_recipe_and_what_is_wrong(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("imagenet-resnext50-32x4d", error=22.43)
    make_run("imagenet-resnet50", error=25.0, **{"train.precision": "bf16"})
    broken = make_run("imagenet-resnet101")
    (broken / "recipe.yaml").unlink()
    console = Console(file=io.StringIO(), width=200)
    print_status(console, tmp_path / "runs", None)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for entry in load_tables().values():
        assert all(str(row.recipe) in text for row in entry.rows if row.recipe)
    line = next(line for line in text.splitlines() if "imagenet-resnext50-32x4d " in line and "22.2" in line)
    assert "+0.2" in line
    assert f"{broken} has the name of a run, but no recipe.yaml" in text
    assert "≠ its recipe (recipe -> run): train.precision: 'fp32' -> 'bf16'" in text
    assert "2 finished" in text


def test_a_network_is_timed_once_and_kept(tmp_path: Path) -> None:
    wanted, path = [TimingRequest(TINY, 32), TimingRequest(TINY, 32, "training")], tmp_path / "times" / "t.json"
    ticks: list[tuple[int, int]] = []
    first = measure_throughputs(wanted, path, lambda done, total: ticks.append((done, total)))
    assert len(first) == 2
    assert all(value > 0 for value in first.values())
    assert ticks[-1][0] == ticks[-1][1]
    assert {k: round(v, 3) for k, v in first.items()} == read_throughputs(path)
    assert measure_throughputs(wanted, path, lambda *_: pytest.fail("timed again")) == read_throughputs(path)
    entry = next(iter(json.loads(path.read_text())["entries"].values()))
    assert {"network", "kind", "batch", "precision", "image_size", "machine"} <= set(entry)
    measure_throughputs(wanted, path, force=True)
    assert set(read_throughputs(path)) == set(first)


def test_timings_of_another_machine_or_a_damaged_file_are_not_taken(tmp_path: Path) -> None:
    here, other = throughput.describe_machine(), throughput.describe_machine() | {"threads": 99}
    assert TimingRequest(TINY, 32).make_key(here) != TimingRequest(TINY, 32).make_key(other)
    assert TimingRequest(TINY, 32).make_key(here) != TimingRequest(TINY, 64).make_key(here)
    path = tmp_path / "t.json"
    for text in ("[", "[]", '{"entries": []}', '{"entries": {"a": {"images_per_second": -1}, "b": 3}}'):
        path.write_text(text)
        assert read_throughputs(path) == {}
    assert len(measure_throughputs([TimingRequest(TINY, 32)], path)) == 1
    assert len(read_throughputs(path)) == 1
