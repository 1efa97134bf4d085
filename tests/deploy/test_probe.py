"""Tests of trying an engine in a child process: what crashes there is one sentence here."""

import sys
from pathlib import Path

import pytest

from resnext import WorkError
from resnext.deploy import probe
from resnext.deploy.predictor import Predictor
from resnext.deploy.probe import probe_engine
from tests.deploy.networks import images, lived
from tests.deploy.test_engines import usable
from tests.deploy.test_export import export_to, make_network

SHAPE = (1, 32, 32, 3)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def replace_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(probe, "CHILD", (sys.executable, "-c", code))


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGFPE", "SIGILL"])
def test_an_engine_that_crashes_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = export_to(tmp_path, "openvino", make_network())
    replace_child(monkeypatch, f"import os, signal; os.kill(os.getpid(), signal.{name})")
    with pytest.raises(WorkError, match=rf"openvino .* crashes on this machine \({name}\) with model.xml in fp32"):
        Predictor.load(result.path, batch=2)


def test_a_child_that_fails_or_hangs_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usable("onnxruntime", "fp32")
    replace_child(monkeypatch, "raise SystemExit('no such instruction')")
    with pytest.raises(WorkError, match=r"onnxruntime cannot run a.onnx: no such instruction"):
        probe_engine(tmp_path / "a.onnx", "onnxruntime", "fp32", SHAPE, "uint8", "key")
    replace_child(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.2)
    with pytest.raises(WorkError, match=r"did not run a.onnx within"):
        probe_engine(tmp_path / "a.onnx", "onnxruntime", "fp32", SHAPE, "uint8", "key")


def test_what_has_run_is_not_tried_again_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = export_to(tmp_path, "onnx", make_network())
    Predictor.load(result.path).close()
    replace_child(monkeypatch, "raise SystemExit('tried again')")
    Predictor.load(result.path).close()
    result.path.write_bytes(result.path.read_bytes())
    with pytest.raises(WorkError, match="tried again"):
        Predictor.load(result.path)


def test_without_a_cache_folder_every_start_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = export_to(tmp_path, "onnx", make_network())
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "file"))
    Predictor.load(result.path).close()
    Predictor.load(result.path).close()


def test_a_network_in_memory_is_tried_too_and_other_engines_are_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usable("openvino", "fp32")
    replace_child(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    network = lived("resnext11_2x4d")
    with pytest.raises(WorkError, match="no engine of openvino gives the network's results"):
        Predictor(network, engine="openvino", image_size=32)
    assert "crashes on this machine (SIGSEGV)" in capsys.readouterr().err
    assert "openvino" not in Predictor(network, image_size=32).engine
    assert Predictor(network, engine="pytorch", image_size=32)(images()).shape == (3, 10)
