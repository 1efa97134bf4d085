"""Loggers keep what a run logs, go on after a resume, and never make a training fail."""

import json
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnext.errors import RequestError
from resnext.recipe import parse_command_line_value, read_recipe
from resnext.run_directory import RunDirectory
from resnext.settings_shared import RecipeBase
from resnext.training import loggers
from resnext.training.callbacks import EpochResult
from resnext.training.classification import Classification
from resnext.training.logbook import read_log
from resnext.training.loop import run_training
from resnext.training.run_logger import RunLogger
from tests.training.helpers import cut_off_before, read_changed, train

NO_PLOTS = ("write_samples", "write_final_evaluation")


class Notes(RunLogger):
    """A logger that notes what it is told, and fails at one call if asked to."""

    package = "json"
    calls: list[tuple[str, Any]] = []  # noqa: RUF012
    fails_at = ""

    def note(self, name: str, value: object = None) -> None:
        self.calls.append((name, value))
        if name == self.fails_at:
            raise ConnectionError("the server is\nout of reach")

    def start(self, run: RunDirectory, recipe: RecipeBase, run_id: str | None) -> tuple[str, str]:  # noqa: ARG002
        self.note("start", run_id)
        return run_id or "id7", "noted"

    def log_epoch(self, result: EpochResult) -> None:
        self.note("epoch", (result.epoch, result.step, result.metrics["top1_error"]))

    def log_outcome(self, run: RunDirectory, best: Mapping[str, float]) -> None:
        self.note("outcome", (run.recipe.exists(), dict(best)))

    def close(self, *, failed: bool) -> None:
        self.note("close", failed)


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> type[Notes]:  # noqa: ARG001
    """The logger wandb is one that notes; nothing is drawn."""
    monkeypatch.setattr(Notes, "calls", [])
    monkeypatch.setattr(Notes, "fails_at", "")
    monkeypatch.setitem(loggers.LOGGERS, "wandb", Notes)
    monkeypatch.setattr(loggers, "find_spec", lambda name: name)
    for name in NO_PLOTS:
        monkeypatch.setattr(Classification, name, lambda *_: "")
    return Notes


def test_a_logger_gets_every_epoch_once_also_when_a_run_is_resumed(
    tiny_recipe: Path, tmp_path: Path, notes: type[Notes]
) -> None:
    recipe = read_changed(
        tiny_recipe, {"train__log_to": ["wandb"], "train__epochs": 2, "train__checkpoint_steps": None}
    )
    with cut_off_before(8):
        train(recipe, tmp_path / "run")
    assert [name for name, _ in notes.calls] == ["start", "epoch", "close"]
    assert notes.calls[-1] == ("close", True), "the run failed"
    state = tmp_path / "run" / "loggers.json"
    assert json.loads(state.read_text()) == {"wandb": {"id": "id7", "step": 6}}
    run = train(recipe, tmp_path / "run", resume=True)
    rows = [row for row in read_log(run.log) if row["kind"] == "epoch"]
    wanted = [("epoch", (row["epoch"], row["step"], row["top1_error"])) for row in rows]
    assert [call for call in notes.calls if call[0] == "epoch"] == wanted
    assert notes.calls[3] == ("start", "id7")
    assert notes.calls[-2:] == [("outcome", (True, run.state("best")["position"]["best"])), ("close", False)]
    state.write_text("[damaged")
    assert loggers.read_logged_runs(run) == {}


@pytest.mark.parametrize("call", ["start", "epoch", "outcome", "close"])
def test_a_logger_that_fails_is_reported_once_and_training_goes_on(
    tiny_recipe: Path, tmp_path: Path, notes: type[Notes], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], call: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(notes, "fails_at", call)
    recipe = read_changed(tiny_recipe, {"train__log_to": ["wandb"], "train__epochs": 2, "data__max_train_images": 32})
    run_training(Classification, recipe, RunDirectory(tmp_path / "run"), console=Console(width=400))
    assert RunDirectory(tmp_path / "run").state("last")["position"]["epoch"] == 2
    said = "train.log_to wandb failed and logs no more of this run: ConnectionError: the server is out of reach"
    assert capsys.readouterr().out.count(said) == 1
    assert [name for name, _ in notes.calls].count(call) == 1


def test_a_package_that_is_missing_is_named_before_anything_is_done(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    recipe = read_changed(tiny_recipe, {"train__log_to": ["mlflow"]})
    with pytest.raises(RequestError, match=r"mlflow needs the package mlflow: pip install 'resnext\[mlflow\]'$"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_one_logger_or_several(tiny_recipe: Path) -> None:
    for text, names in (("wandb", ("wandb",)), ("wandb,mlflow", ("wandb", "mlflow"))):
        value = parse_command_line_value("train.log_to", text)
        assert read_recipe(tiny_recipe, {"train.log_to": value}).train.log_to == names
    with pytest.raises(RequestError, match="did you mean"):
        read_recipe(tiny_recipe, {"train.log_to": ["wandbs"]})


# ---- the real packages, offline


def run_twice(recipe: Path, folder: Path, name: str) -> RunDirectory:
    """A run with a logger that is cut off in its second epoch, and resumed."""
    changes = {"train__log_to": [name], "train__epochs": 2, "data__max_train_images": 64}
    with cut_off_before(6):
        train(read_changed(recipe, changes), folder)
    return train(read_changed(recipe, changes), folder, resume=True)


def read_leveldb_log(data: bytes) -> Iterator[bytes]:
    """Read the records of a LevelDB log whose first 7 bytes were a header of another kind."""
    at, record = 7, b""
    data = bytes(7) + data
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # padding: a block has no room for another header
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_has_settings_epochs_and_the_report_of_a_resumed_run(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from the files that ``wandb sync`` would upload."""
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = run_twice(tiny_recipe, tmp_path / "run", "wandb")
    wandb.teardown()  # as at the end of a process: its service writes what is left
    files = sorted(run.path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2, "one of each sitting, with the same id"
    run_id = json.loads(run.loggers.read_text())["wandb"]["id"]
    assert {file.name for file in files} == {f"run-{run_id}.wandb"}
    records = [Record.FromString(data) for file in files for data in read_leveldb_log(file.read_bytes()[7:])]
    kinds = {record.WhichOneof("record_type") for record in records}
    assert {"run", "history", "artifact"} <= kinds
    history = [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    rows = [row for row in read_log(run.log) if row["kind"] == "epoch"]
    assert [(one["epoch"], one["top1_error"]) for one in history] == [(row["epoch"], row["top1_error"]) for row in rows]
    config = next(record.run.config for record in records if record.WhichOneof("record_type") == "run")
    assert json.loads(next(item.value_json for item in config.update if item.key == "train"))["epochs"] == 2
    (artifact,) = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert {"report.html", "curves.png", "evaluation/metrics.json"} <= {e.path for e in artifact.manifest.contents}


@pytest.mark.slow
def test_mlflow_has_settings_epochs_and_the_report_of_a_resumed_run(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from the database with plain SQL."""
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    run = run_twice(tiny_recipe, tmp_path / "run", "mlflow")
    with sqlite3.connect(tmp_path / "runs.db") as base:
        ((run_id, name, status, place),) = base.execute("select run_uuid, name, status, artifact_uri from runs")
        metrics = base.execute("select step, value from metrics where key = 'top1_error' order by step").fetchall()
        parameters = dict(base.execute("select key, value from params").fetchall())
        (experiment,) = base.execute(
            "select e.name from experiments e join runs r on r.experiment_id = e.experiment_id"
        ).fetchone()
    assert (name, status, experiment) == ("run", "FINISHED", "resnext")
    assert json.loads(run.loggers.read_text())["mlflow"]["id"] == run_id
    rows = [row for row in read_log(run.log) if row["kind"] == "epoch"]
    assert metrics == [(row["step"], row["top1_error"]) for row in rows]
    assert parameters["train.epochs"] == "2"
    assert (Path(place) / "report.html").read_bytes() == run.report.read_bytes()
    assert (Path(place) / "evaluation" / "metrics.json").is_file()
