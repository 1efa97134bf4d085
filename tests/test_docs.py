"""The commands in README and docs parse, and the files they link to exist."""

import argparse
import re
import shlex
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

from resnext.cli import VERBS, Parser
from resnext.detect.settings import DetectRecipe
from resnext.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").glob("*.md"))]
COMMAND = re.compile(r"^(?:    |\$ )+(resnext [a-z].*?)\s*(?:#.*)?$", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in COMMAND.findall(page.read_text())]


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_in_the_docs_is_one_the_program_takes(page: str, line: str) -> None:
    words = shlex.split(line.split(" > ")[0].split(" | ")[0])[1:]
    assert words[0] in VERBS, f"{page}: {line}"
    command = import_module(f"resnext.commands.{words[0]}")
    parser = Parser(prog=f"resnext {words[0]}", allow_abbrev=False)
    command.add_arguments(parser)
    args, unknown = parser.parse_known_args(words[1:])
    assert isinstance(args, argparse.Namespace)
    assert not unknown, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_the_docs_point_to_is_there(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    paths = re.findall(r"\b(?:recipes|results|docs|examples)/[\w./-]+\.\w+", text)
    for link in links:
        assert (page.parent / link).exists(), f"{page.name} links to {link}"
    for path in paths:
        assert (ROOT / path).exists() or (page.parent / path).exists(), f"{page.name} names {path}"


def test_the_docs_show_commands_at_all() -> None:
    assert len(commands()) > 15


def test_the_tour_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    inside = [p.name for p in (ROOT / "src" / "resnext").rglob("*.py")]
    for name in set(re.findall(r"[`* ](\w+\.py)\b", text)):
        assert name in inside, f"the tour names {name}"


def test_the_recipe_that_the_detection_page_shows_is_one() -> None:
    block = re.search(r"^    model: .*\n(?:    .*\n)+", (ROOT / "docs" / "detection.md").read_text(), re.MULTILINE)
    assert block is not None
    recipe = parse_recipe(textwrap.dedent(block[0]), kind=DetectRecipe)
    assert recipe.init.freeze == "conv2"
