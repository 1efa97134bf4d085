import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from resnext.cli import main
from resnext.commands import serve
from tests.serving.fakes import make_picture


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_missing_packages_are_named_with_the_command_that_installs_them(weights, capsys, monkeypatch):
    monkeypatch.setattr(serve, "PACKAGES", ("fastapi", "no_such_package"))
    assert refuse(capsys, str(weights)) == "resnext: resnext serve needs no-such-package: pip install 'resnext[serve]'"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_listening_beyond_this_machine_needs_a_token(weights, capsys, monkeypatch, host):
    monkeypatch.delenv("RESNEXT_TOKEN", raising=False)
    assert "set a token" in refuse(capsys, str(weights), "--host", host)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-run",), "no-such-run does not exist"),
        (("WEIGHTS", "--port", "65536"), "not a port"),
        (("WEIGHTS", "--max-wait", "nan"), "number of seconds"),
        (("WEIGHTS", "--max-wait", "0"), "number of seconds"),
        (("WEIGHTS", "--max-pixels", "179"), "from 1 to 178"),
        (("WEIGHTS", "--token", "with space"), "without spaces"),
        (("WEIGHTS", "--token", ""), "without spaces"),
        (("WEIGHTS", "--token", "a", "--token-file", "b"), "not both"),
        (("WEIGHTS", "--token-file", "no-such-file"), "no-such-file"),
        (("WEIGHTS", "--name", "a/b"), "letters, digits"),
        (("WEIGHTS", "--host", "192.0.2.1", "--insecure"), "cannot listen on 192.0.2.1"),
        (("WEIGHTS", "--checkpoint", "last"), "not a run"),
    ],
)
def test_wrong_options_are_one_sentence(weights, capsys, monkeypatch, arguments, words):
    monkeypatch.delenv("RESNEXT_TOKEN", raising=False)
    assert words in refuse(capsys, *(str(weights) if a == "WEIGHTS" else a for a in arguments))


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    parser = main.__globals__["Parser"]()
    serve.add_arguments(parser)
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setenv("RESNEXT_TOKEN", "from-environment")
    assert serve.read_token(parser.parse_args(["x"])) == "from-environment"
    assert serve.read_token(parser.parse_args(["x", "--token-file", str(tmp_path / "token")])) == "from-file"
    assert serve.read_token(parser.parse_args(["x", "--token", "given"])) == "given"
    monkeypatch.delenv("RESNEXT_TOKEN")
    assert serve.read_token(parser.parse_args(["x"])) is None


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "resnext", "serve", *arguments, "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(serve.__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_it_says_where_it_is_answers_and_stops(weights):
    process = start(f"net={weights}", "--engine", "pytorch", "--max-batch", "1", "--log")
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        assert first.startswith("model net: classification, ")
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)  \(stop with Ctrl\+C\)\n", second)
        assert found is not None
        with urllib.request.urlopen(f"{found[1]}/v1/predict", make_picture(), timeout=60) as answer:
            assert b'"model":"net"' in answer.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert '"path": "/v1/predict"' in errors
    finally:
        process.kill()
        process.communicate()


def test_a_model_that_cannot_be_loaded_ends_the_server_with_a_sentence(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    process = start(str(tmp_path / "broken.safetensors"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "broken.safetensors" in errors.splitlines()[-1]
    assert "Traceback" not in errors
