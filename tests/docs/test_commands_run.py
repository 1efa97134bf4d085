"""Every command and Python example of the pages that has no mark runs, page by page, from top to bottom."""

import re
import shutil
from pathlib import Path

import pytest

import resnext
from resnext.cli import main
from resnext.environment import has_bf16
from tests.docs.pages import Block, list_blocks, list_pages, list_shell_words
from tests.docs.stage import write_stage
from tests.tools.load import load_tool

pytestmark = pytest.mark.slow

PREPARATIONS = {  # what the text around a page's Python examples speaks of
    "README.md": "import torch\ntorchvision_or_timm_model = resnext.create_model('resnext50_32x4d', num_classes=10)\n"
    "images = torch.randn(1, 3, 64, 64)",
}

EMPTY = ("api.md",)  # pages that need nothing at their start


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stage(tmp_path_factory.mktemp("stage"))


def list_run_blocks(page: Path) -> list[Block]:
    blocks = [block for block in list_blocks(page) if not block.is_marked]
    return [block for block in blocks if block.language == "python" or block.list_commands()]


@pytest.mark.parametrize("page", [page for page in list_pages() if list_run_blocks(page)], ids=lambda page: page.name)
def test_everything_a_page_shows_runs(
    page: Path, stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "stage"
    place.mkdir() if page.name in EMPTY else shutil.copytree(stage, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    names: dict[str, object] = {"resnext": resnext, "__name__": "page"}
    exec(PREPARATIONS.get(page.name, ""), names)
    for block in list_run_blocks(page):
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
        for command in block.list_commands():
            if block.find_reason(command) is None:
                run_command(block, command, capsys)
    shutil.rmtree(place)


def run_command(block: Block, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command of a page; where it makes a new run, an older one of that name goes first."""
    words = list_shell_words(command)[1:]
    if words[0] == "predict" and "bf16" in words and not has_bf16():
        return  # it is refused on this machine
    new = re.search(r"--run (\S+)", command)
    if new is not None:
        shutil.rmtree(new[1], ignore_errors=True)
    if words[0] in ("convert", "export", "prune", "grow", "evaluate", "predict"):
        clear_outputs(words)
    if "a-few-images" in command:
        load_tool("update_readme").write_images(Path("runs/digits/a-few-images"))  # as make demo does
    if words[0] in ("train", "crossval") and "--resume" not in words:
        words += ["--train.epochs", "1", "--schedule.warmup_epochs", "0"]  # some run for 60; a plan fills minutes
    capsys.readouterr()
    status = main([word for pattern in words for word in expand(pattern)])
    written = capsys.readouterr()
    assert status == 0, f"{block.place}: {command}\n{written.out[-2000:]}\n{written.err[-2000:]}"


def clear_outputs(words: list[str]) -> None:
    """Remove what an earlier command of the page, or the stage, has under the name that a command writes."""
    outputs = [words[2]] if words[0] == "convert" else []
    outputs += [words[at + 1] for at, word in enumerate(words) if word == "--out"]
    for output in map(Path, outputs):
        shutil.rmtree(output, ignore_errors=True)
        output.unlink(missing_ok=True)


def expand(word: str) -> list[str]:
    """Expand a pattern of the shell, which quoted ones of the pages are not."""
    return [word] if not word.startswith("runs/") else sorted(map(str, Path().glob(word))) or [word]
