"""Hostile .onnx and .xml files are refused in a sentence, in bounded time and memory, and nothing in them is executed.

Hostile .pt2 files: test_torch_export_hostile.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnext import RequestError
from resnext.deploy.exported import open_exported
from tests.deploy.hostile_exports import HARMLESS, ONNX, WEIGHTS, XML, write_hostile
from tests.deploy.test_export import export_to, make_network

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
NAMES = {"onnx": [*ONNX], "openvino": [*XML, *WEIGHTS]}
AT_ONCE = {  # refused by reading, before an engine sees them
    "data outside: weights": "keeps data in other files",
    "data outside: sparse weights": "has sparse weights",
    "data outside: constant": "keeps data in other files",
    "data outside: sparse constant": "operator Constant has sparse weights",
    "graphs in graphs": "operator Loop has a graph inside",
    "an operator that calls itself": "defines functions of its own",
    "30,000 operators": "operators; at most 20,000 are run",
    "1,000,000 operators": "more than 100,000 parts",
    "17 MB of names": "bytes beside its weights; at most",
    "half of the file": "fields do not fit into each other|OpenVINO cannot read it",
    "zeros": "not an ONNX model",
    "a pickle": "not an ONNX model",
    "a billion laughs": "not a model of OpenVINO",
    "an entity of a file": "not a model of OpenVINO",
    "100 MB of blanks": "larger than 8 MB",
    "30,000 layers": "operators; at most 20,000 are run|larger than 8 MB",
    "a shape of a million": "a shape of more than 1,024 characters",
    "an operator of others": "has operators of",
    "UTF-16": "not a model of OpenVINO",
    "truncated weights": "Incorrect weights in bin file",
    "no weights": "Incorrect weights in bin file",
}


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What opening each file did, by its name; all in one process, which must live to the end."""
    folder = tmp_path_factory.mktemp("hostile")
    good = export_to(folder, request.param, make_network()).path
    files = {"the good file": good} | write_hostile(good, folder / "files")
    assert list(files)[1:] == NAMES[request.param]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "RESNEXT_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "tests.deploy.hostile_exports", *map(str, files.values())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=600)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(files), f"it ended at {list(files)[len(lines)]}: {done.stderr[-1000:]}"
    assert not (folder / "executed").exists()
    return {name: line | {"path": str(files[name])} for name, line in zip(files, lines, strict=True)}


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_what_only_a_hostile_file_has_is_refused_before_an_engine_sees_it(target: str, tmp_path: Path) -> None:
    good = export_to(tmp_path, target, make_network()).path
    files = write_hostile(good, tmp_path / "files")
    for name in files.keys() & AT_ONCE.keys():
        with pytest.raises(RequestError, match=AT_ONCE[name]):
            open_exported(files[name])


@pytest.mark.slow
def test_hostile_exports_are_refused_in_one_sentence(opened: dict[str, dict]) -> None:
    assert opened.pop("the good file")["outcome"] == "opened"
    for name, line in opened.items():
        assert line["outcome"] == "refused" or name in HARMLESS, name
        if line["outcome"] == "refused":
            assert Path(line["path"]).name in line["words"], name
            assert "\n" not in line["words"], name
            assert "Traceback" not in line["words"], name


@pytest.mark.slow
def test_hostile_exports_take_little_time_and_memory(opened: dict[str, dict]) -> None:
    for name, line in opened.items():
        assert line["megabytes"] < 500, name
        assert line["seconds"] < 60, name  # 10 s where nobody else computes: results/hostile.csv


@pytest.mark.slow
def test_the_command_line_says_it_in_a_sentence(tmp_path: Path) -> None:
    good = export_to(tmp_path, "onnx", make_network()).path
    file = write_hostile(good, tmp_path / "files")["data outside: weights"]
    (tmp_path / "one.png").write_bytes(b"")
    for command in (["predict", str(file), str(tmp_path / "one.png")], ["serve", str(file), "--port", "0"]):
        code = "import sys; from resnext.cli import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        assert "it keeps data in other files, which are not read" in done.stderr
        assert "Traceback" not in done.stderr
