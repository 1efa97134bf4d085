"""The table and the CSV of a benchmark."""

import csv
from pathlib import Path

import pytest
from rich.console import Console

from resnext.bench.measure import Timing
from resnext.bench.results import (
    collect_protocol,
    make_out_folder,
    make_timing_rows,
    print_timings,
    read_rows,
    write_rows,
)
from resnext.errors import RequestError

TIMINGS = [Timing("ours", 8, (1.0, 2.0, 1.0)), Timing("theirs", 8, (2.0, 4.0, 3.0))]


def test_the_table_has_each_arm_with_its_ratio_and_further_columns() -> None:
    console = Console(width=200, record=True)
    print_timings(console, "A step", TIMINGS, "ours", {"theirs": {"MiB": 512.0}})
    text = console.export_text()
    ours, theirs = (line for line in text.splitlines() if line.strip().startswith(("ours", "theirs")))
    assert ours.split() == ["ours", "8", "8", "50%"]
    assert theirs.split() == ["theirs", "2.67", "4", "33%", "2.00x", "(2.00-2.50)", "512"]


def test_lines_of_the_same_command_are_replaced_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "bench-train.csv"
    first, second = ({"date": "today", "variables": "", "command": c} for c in ("one", "two"))
    write_rows(path, make_timing_rows(TIMINGS, "ours"), first)
    write_rows(path, make_timing_rows(TIMINGS, "ours", {"ours": {"peak_mib": 3}}), second)
    write_rows(path, make_timing_rows(TIMINGS[:1], "ours"), first)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["command"], r["arm"]) for r in rows] == [("two", "ours"), ("two", "theirs"), ("one", "ours")]
    assert [r["peak_mib"] for r in rows] == ["3", "", ""]
    assert rows[1]["ours_over_arm"] == "2"


def test_the_protocol_names_machine_and_switches_but_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("RESNEXT_CACHE", "/somewhere/of/mine")
    facts = collect_protocol("resnext bench train")
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in facts["variables"]
    assert not any("/somewhere" in value for value in facts.values())
    assert facts["cpu"]
    assert int(facts["threads"]) > 0


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "command\n1,2\n", "command,b\n1\n", "\x00\xff"])
def test_a_file_that_no_bench_wrote_is_not_touched(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bench-train.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(RequestError, match="bench"):
        read_rows(path)
    assert path.read_text(encoding="latin-1") == content


def test_out_is_made_or_refused_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_out_folder(str(tmp_path / "new" / "place")).is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="--out"):
        make_out_folder(str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)
    assert make_out_folder(None) == Path()
    (tmp_path / "results").mkdir()
    assert make_out_folder(None) == Path("results")
