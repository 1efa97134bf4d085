"""``resnext bench cardinality`` at toy size."""

from pathlib import Path

import pytest
from PIL import Image

from resnext.bench.cardinality import NETWORKS, compute_flatness
from resnext.bench.measure import Timing
from resnext.bench.results import read_rows
from resnext.cli import main
from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity

TOY = ("bench", "cardinality", "--networks", "resnet11", "resnext11_4x24d", "--size", "16", "--rounds", "2")


def test_a_toy_row_gives_lines_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOY, "--batch", "8", "--out", str(tmp_path)]) == 0
    assert "slowest / fastest" in capsys.readouterr().out
    rows = read_rows(tmp_path / "bench-cardinality.csv")
    assert [(row["cardinality"], row["library"]) for row in rows] == [
        *[("1", "resnext"), ("1", "plain"), ("4", "resnext"), ("4", "plain")]
    ]
    assert [row["ours_over_arm"] for row in rows][::2] == ["1", "1"]
    assert Image.open(tmp_path / "bench-cardinality.png").width > 700


def test_the_networks_are_of_equal_complexity() -> None:
    macs = [complexity(Architecture.parse(name)).macs for name in NETWORKS]
    assert max(macs) < 1.05 * min(macs)


def test_flatness_is_of_the_rounds_and_not_of_a_drift() -> None:
    drift = (1.0, 3.0, 2.0)
    slower = tuple(1.25 * second for second in drift)
    assert compute_flatness([Timing("a", 1, drift), Timing("b", 1, slower), Timing("c", 1, drift)]) == pytest.approx(
        0.8
    )
