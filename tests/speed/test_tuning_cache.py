"""Tests of the tuning cache: times are stored per machine; damaged files are ignored."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resnext.speed.cache_folder import get_cache_folder, warn_once
from resnext.speed.tuning_cache import TuningCache, get_machine_fingerprint, select_fastest, time_candidates

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    warn_once.cache_clear()
    return tmp_path


def never() -> dict[str, object]:
    raise AssertionError("measured although it was known")


def test_a_way_must_be_clearly_faster_than_the_plain_one() -> None:
    assert select_fastest({"plain": 1.0, "pack2": 0.97}, "plain") == "plain"
    assert select_fastest({"plain": 1.0, "pack2": 0.9, "pack4": 0.8}, "plain") == "pack4"
    assert select_fastest({"plain": 1.0}, "plain") == "plain"
    assert select_fastest({"an engine": 1.0, "another": 0.99}, "plain") == "another"


def test_every_way_is_run_and_hopeless_ones_are_dropped() -> None:
    runs = dict.fromkeys(("quick", "slow"), 0)

    def work(name: str, size: int) -> None:
        runs[name] += 1
        torch.randn(size, size).mm(torch.randn(size, size))

    seconds = time_candidates({"quick": lambda: work("quick", 2), "slow": lambda: work("slow", 500)}, CPU)
    assert seconds["quick"] < seconds["slow"]
    assert runs["slow"] == 2
    assert runs["quick"] >= 5


def test_what_was_measured_is_found_again_and_others_are_left(cache: Path) -> None:
    (cache / "choices.json").write_text(json.dumps({"another machine": {"work": {"plain": 1.0}}}))
    choices = TuningCache.load(CPU)
    assert choices.timings == {}
    choices.measure_or_load("work", lambda: {"plain": lambda: None}, CPU)
    choices.save()
    assert TuningCache.load(CPU).measure_or_load("work", never, CPU) == choices.timings["work"]  # type: ignore[arg-type]
    kept = json.loads((cache / "choices.json").read_text())
    assert kept["another machine"] == {"work": {"plain": 1.0}}
    assert get_machine_fingerprint(CPU) in kept


def test_what_is_known_of_other_ways_is_measured_again() -> None:
    choices = TuningCache("a machine", timings={"work": {"plain": 1.0, "of another release": 1e-9}})
    seconds = choices.measure_or_load(
        "work", lambda: {"plain": lambda: None, "pack2": lambda: None}, CPU, ("plain", "pack2")
    )
    assert set(seconds) == {"plain", "pack2"}
    assert choices.measure_or_load("work", never, CPU, ("pack2", "plain")) == seconds  # type: ignore[arg-type]


def test_writers_at_the_same_time_keep_what_each_measured(cache: Path) -> None:
    def save(number: int) -> None:
        TuningCache("a machine", timings={f"work {number}": {"plain": 1.0}}).save()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(40)))
    assert len(json.loads((cache / "choices.json").read_text())["a machine"]) == 40


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"m": []}', '{"m": {"w": {}}}', '{"m": {"w": {"a": "fast"}}}', '{"m": {"w": {"a": -1.0}}}'],
)
def test_a_damaged_file_counts_as_empty_and_is_said_once(
    cache: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "choices.json").write_text(content)
    assert TuningCache.load(CPU).timings == {}
    assert TuningCache.load(CPU).timings == {}
    assert capsys.readouterr().err.count("measured again") == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_read_without_an_exception(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("choices") / "choices.json"
    path.write_text(json.dumps({"m": value}))
    from resnext.speed.tuning_cache import _read_file

    assert isinstance(_read_file(path), dict)


def test_a_cache_that_cannot_be_written_costs_a_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("RESNEXT_CACHE", str(cache / "file" / "below"))
    choices = TuningCache.load(CPU)
    choices.measure_or_load("work", lambda: {"plain": lambda: None}, CPU)
    choices.save()
    assert "could not be saved for next time" in capsys.readouterr().err


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "here"))
    assert get_cache_folder() == tmp_path / "here"
    monkeypatch.delenv("RESNEXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert get_cache_folder() == tmp_path / "xdg" / "resnext"


def test_the_fingerprint_knows_threads_torch_and_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    before = get_machine_fingerprint(CPU)
    monkeypatch.setenv("RESNEXT_ISA", "portable")
    assert get_machine_fingerprint(CPU) != before
    monkeypatch.delenv("RESNEXT_ISA")
    try:
        torch.set_num_threads(threads + 1)
        assert get_machine_fingerprint(CPU) != before
    finally:
        torch.set_num_threads(threads)
    assert torch.__version__ in before
    assert os.uname().nodename not in before
