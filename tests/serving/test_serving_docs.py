"""The first section of docs/serving.md, done as a newcomer would: a run, one command, the page in the browser."""

import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest
from PIL import Image

from resnext.cli import main
from tests.figures import leave_figures_blank

pytest.importorskip("fastapi")
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def server_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Train for seconds, then run the command of the docs for this run, without a browser and on a free port."""
    folder = tmp_path_factory.mktemp("docs")
    run = folder / "runs" / "demo-20261130-081500"
    with leave_figures_blank():
        assert main(["train", "small/digits", "--train.epochs", "2", "--run", str(run)]) == 0
    line = re.search(r"^    (resnext serve runs/demo-\* .*)$", PAGE.read_text(), re.MULTILINE)
    assert line is not None
    words = [word for word in shlex.split(line[1])[1:] if word != "--open"]
    words = [name for word in words for name in sorted(glob(word, root_dir=folder)) or [word]]  # as a shell does
    command = [sys.executable, "-m", "resnext", *words, "--port", "0"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        while not (said := server.stdout.readline()).startswith("http"):
            assert said, server.stderr and server.stderr.read()
        yield said.split()[0]
    finally:
        server.terminate()
        assert server.wait(30) == 0
        server.stdout.close()
        if server.stderr is not None:
            server.stderr.close()


def test_the_page_opens_and_answers(server_address: str, tmp_path: Path) -> None:
    with urllib.request.urlopen(f"{server_address}/", timeout=10) as answer:
        assert "<title>" in answer.read().decode()
    image = tmp_path / "a.png"
    Image.new("L", (20, 20), 90).save(image)
    asked = urllib.request.Request(f"{server_address}/v1/predict?top=5", image.read_bytes())
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.status == 200
        assert b'"probability"' in answer.read()


def test_the_table_of_statuses_is_the_servers(server_address: str) -> None:
    asked = urllib.request.Request(f"{server_address}/v1/predict", b"GIF89a")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked, timeout=10)
    assert caught.value.code in (415, 422)
    assert caught.value.headers["Content-Type"] == "application/problem+json"
    caught.value.close()
