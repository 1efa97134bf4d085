"""``resnext bench growth`` at toy size: every point is measured once, kept, and plotted."""

from pathlib import Path

import pytest
from PIL import Image

from resnext.bench import candidates, growth
from resnext.bench.measure import Timing
from resnext.bench.results import read_rows
from resnext.cli import main

NETS = ("--networks", "resnext11_2x4d", "resnext20_2x4d")
TOY = ("bench", "growth", "resnext11_2x4d", "--batches", "2", "4", "--sizes", "8", "16", *NETS, "--size", "8")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace measuring by fixed numbers; returns the names of the networks that were measured."""
    seen: list[str] = []

    def measured(
        entries: list, task: candidates.TrainWorkload, rounds: int, *_: object, **__: object
    ) -> candidates.CandidateResults:
        seen.append(f"{entries[0].architecture.name} {task.batch} {task.size}")
        timings = [Timing(e.name, task.batch, tuple(1.0 + n for _ in range(rounds))) for n, e in enumerate(entries)]
        columns = {e.name: {"library": e.config.library, "peak_mib": 100 * task.batch} for e in entries}
        return candidates.CandidateResults(timings, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(candidates, "measure_candidates", measured)
    return seen


def test_each_sweep_gives_its_points_and_a_picture(tmp_path: Path, counted: list[str]) -> None:
    assert main([*TOY, "--out", str(tmp_path)]) == 0
    assert counted[:6] == [
        *("resnext11_2x4d 2 8", "resnext11_2x4d 4 8"),
        *("resnext11_2x4d 8 8", "resnext11_2x4d 8 16"),
        *("resnext11_2x4d 8 8", "resnext20_2x4d 8 8"),
    ]
    points = [(row["grows"], row["at"], row["library"]) for row in read_rows(tmp_path / "bench-growth.csv")]
    assert points[:4] == [("batch", str(n), library) for n in (2, 4) for library in ("resnext", "plain")]
    assert len(points) == 12
    for sweep in growth.SWEEPS:
        assert Image.open(tmp_path / f"bench-growth-{sweep}.png").width > 900
    assert len(read_rows(tmp_path / "bench-small.csv")) == 12


def test_an_interrupted_run_goes_on_and_again_measures_anew(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*TOY, "--of", "batch", "size", "--out", str(tmp_path)]
    whole, calls = growth.measure_point, []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(growth, "measure_point", interrupted)
        assert main(command) == 1
    assert len(read_rows(tmp_path / "bench-growth.csv")) == 6
    assert main(command) == 0
    assert len(counted) == 4
    assert len(read_rows(tmp_path / "bench-growth.csv")) == 8
    assert main([*command, "--again"]) == 0
    assert len(counted) == 8
    assert len(read_rows(tmp_path / "bench-growth.csv")) == 8


def test_points_of_another_machine_are_not_taken(tmp_path: Path, counted: list[str]) -> None:
    command = [*TOY, "--of", "batch", "--out", str(tmp_path)]
    assert main(command) == 0
    path = tmp_path / "bench-growth.csv"
    cpu = read_rows(path)[0]["cpu"]
    path.write_text(path.read_text().replace(cpu, "another"))
    assert main(command) == 0
    assert len(counted) == 4


def test_points_under_other_variables_stay_once_each(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*TOY, "--of", "batch", "size", "--out", str(tmp_path)]
    assert main(command) == 0
    first = read_rows(tmp_path / "bench-growth.csv")
    monkeypatch.setenv("RESNEXT_ISA", "avx2")
    assert main(command) == 0
    assert len(counted) == 8
    both = read_rows(tmp_path / "bench-growth.csv")
    assert len(both) == 2 * len(first)
    assert [row for row in both if "RESNEXT_ISA=avx2" not in row["variables"].split()] == first


@pytest.mark.slow
def test_a_real_point_and_small_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SMALL_NETWORKS", (("resnext11_2x4d", {"base_channels": 16}),))
    words = ["--of", "batch", "small", "--rounds", "1", "--out", str(tmp_path)]
    assert main([*TOY, *words]) == 0
    assert all(int(row["peak_mib"]) > 0 for row in read_rows(tmp_path / "bench-growth.csv"))
    assert {row["layout"] for row in read_rows(tmp_path / "bench-small.csv")} == {"NCHW", "NHWC"}
