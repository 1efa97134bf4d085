"""``resnext bench startup``."""

from pathlib import Path

import pytest

from resnext.bench import startup
from resnext.bench.results import read_rows
from resnext.cli import main
from resnext.errors import WorkError


def test_each_start_is_timed_beside_a_bare_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "startup", "--rounds", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = read_rows(tmp_path / "bench-startup.csv")
    assert [row["start"] for row in rows] == list(startup.STARTS)
    assert all(row["start"] in printed and float(row["median_seconds"]) > 0 for row in rows)


def test_a_start_over_its_limit_is_said_with_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(startup, "STARTS", {"decimals": (["-c", "import _pydecimal"], 1e-6)})
    monkeypatch.setattr(startup, "MAX_IMPORTS", 1000)  # which are the slowest depends on the load
    assert main(["bench", "startup", "--rounds", "1", "--out", str(tmp_path)]) == 0
    assert "_pydecimal" in capsys.readouterr().out


def test_a_start_that_fails_is_an_error() -> None:
    with pytest.raises(WorkError, match="status 3"):
        startup._run_python(["-c", "raise SystemExit(3)"])
