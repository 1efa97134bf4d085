"""The pages are whole: links and anchors are alive, every command parses, every block is run or says why not."""

import argparse
import json
import re
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

import resnext
from resnext.cli import VERBS, Parser
from resnext.detection.settings import DetectRecipe
from resnext.recipe import parse_recipe, read_stated_settings
from resnext.settings import Recipe
from tests.docs.pages import (
    ROOT,
    Block,
    list_anchors,
    list_blocks,
    list_links,
    list_pages,
    list_shell_words,
    reference,
)

BLOCKS = [block for page in list_pages() for block in list_blocks(page)]
COMMANDS = [(block, command) for block in BLOCKS for command in block.list_commands()]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def list_texts() -> list[tuple[Path, str]]:
    """List the pages and the Markdown of the notebooks."""
    cells = [(path, json.loads(path.read_text(encoding="utf-8"))["cells"]) for path in NOTEBOOKS]
    notebooks = [
        (path, "\n\n".join("".join(cell["source"]) for cell in all_cells if cell["cell_type"] == "markdown"))
        for path, all_cells in cells
    ]
    return [(page, page.read_text(encoding="utf-8")) for page in list_pages()] + notebooks


@pytest.mark.parametrize(
    ("page", "text"), list_texts(), ids=lambda value: value.name if isinstance(value, Path) else ""
)
def test_every_link_and_anchor_is_alive(page: Path, text: str) -> None:
    for link in list_links(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.relative_to(ROOT)} links to {link}, which is not there"
        assert target.is_relative_to(ROOT), f"{page.relative_to(ROOT)} links out of the repository: {link}"
        if anchor:
            assert anchor in list_anchors(target), f"{page.relative_to(ROOT)} links to {link}: no such heading"


def test_a_dead_anchor_would_be_found() -> None:
    anchors = list_anchors(ROOT / "docs" / "guide.md")
    assert "fine-tuning" in anchors
    assert "fine-tunings" not in anchors
    assert "train-epochs" in list_anchors(ROOT / "docs" / "settings.md")


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: page.name)
def test_every_file_the_page_names_is_there(page: Path) -> None:
    for path in re.findall(r"\b(?:results|docs|examples|tools)/[\w./-]+\.\w+", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists() or (page.parent / path).exists(), f"{page.name} names {path}"


def test_every_page_can_be_reached_from_the_first() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    entries = set(
        re.findall(r"^(?:.*<)?([\w./*-]+?)>?$", "\n".join(re.findall(r"```\{toctree\}.*?```", index, re.S)), re.M)
    )
    for page in sorted((ROOT / "docs").glob("*.md")):
        known = page.stem == "index" or any(fnmatch(page.stem, entry) for entry in entries)
        assert known, f"{page.name} is not in the contents of index.md"
    for notebook in NOTEBOOKS:
        assert f"tutorials/{notebook.stem}" in entries


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_one_the_program_takes_and_is_run_or_says_why_not(block: Block, command: str) -> None:
    words = list_shell_words(command)
    if words[0] != "resnext":
        assert block.find_reason(command), f"{block.place}: only resnext is run; say why not: {command}"
        return
    if len(words) > 1 and words[1].startswith("-"):
        return
    assert words[1] in VERBS, f"{block.place}: {command}"
    module = import_module(f"resnext.commands.{words[1]}")
    parser = Parser(prog=f"resnext {words[1]}", allow_abbrev=False)
    module.add_arguments(parser)
    args, unknown = parser.parse_known_args(words[2:])
    assert isinstance(args, argparse.Namespace)
    assert not unknown, f"{block.place}: {command}"


def test_the_pages_show_commands_at_all() -> None:
    assert len(COMMANDS) > 100
    run = [command for block, command in COMMANDS if block.find_reason(command) is None]
    assert len(run) > 60


def test_every_mark_stands_before_the_block_it_speaks_of() -> None:
    for page in list_pages():
        marks = len(re.findall(r"^<!-- not run", page.read_text(encoding="utf-8"), re.MULTILINE))
        used = sum(len(block.marks) for block in list_blocks(page))
        assert marks == used, f"{page.name}: {marks} marks, of which {used} stand right before a block"
    for block in BLOCKS:
        for text, _ in block.marks:
            assert text.rstrip("$") in block.text, f"{block.place}: no line has {text!r}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda block: block.place)
def test_every_recipe_that_a_page_shows_is_one(block: Block, tmp_path: Path) -> None:
    if block.is_marked:
        return
    kind = DetectRecipe if block.page.name.startswith("detection") else Recipe
    path = tmp_path / "recipe.yaml"
    path.write_text(block.text)
    assert read_stated_settings(path)
    parse_recipe(block.text.replace("extends:", "# extends:"), kind=kind)


def test_the_tour_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    inside = [path.name for path in (ROOT / "src" / "resnext").rglob("*.py")]
    for name in set(re.findall(r"[`* ](\w+\.py)\b", text)):
        assert name in inside, f"the tour names {name}"


def test_the_reference_has_every_public_name_setting_and_command() -> None:
    names = [name for group in reference.API.values() for name in group]
    assert sorted(names) == sorted(set(resnext.__all__) - {"__version__"})
    settings = reference.write_settings()
    for field in ("`model.cardinality`", "`train.epochs`", "`detector.layout`"):
        assert field in settings
    commands = reference.write_commands()
    for verb in VERBS:
        assert f"\n## resnext {verb}\n" in f"\n{commands}"
    assert "### resnext bench infer" in commands
    assert "`--precision" in commands
