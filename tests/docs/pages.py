"""Read the pages of the documentation: code blocks with their commands and marks, headings, links.

A block whose code cannot be run where the tests run says why in a comment right before it, which readers do not see:
``<!-- not run: needs ImageNet -->`` for the whole block, ``<!-- not run, TEXT: reason -->`` for its commands with TEXT
(``TEXT$``: that end with it).
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.tools.load import load_tool

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"^<!-- not run(?:, (?P<text>[^:\n]+))?: (?P<reason>\S.*) -->$", re.MULTILINE)
BLOCK = re.compile(
    r"^```(?P<language>\w*)\n(?P<fenced>.*?)^```$"
    r"|(?:(?<=\n\n)|(?<=-->\n))(?P<indented>(?:    [^\n]*\n(?:\n(?=    ))*)+)",
    re.MULTILINE | re.DOTALL,
)
PROGRAM = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:resnext|torchrun|python|pip|make|curl|docker|uv|srun) ")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
reference = load_tool("reference_pages")


@dataclass(frozen=True)
class Block:
    """A block of code, and why some or all of its lines are not run: text that lines contain ("": all) -> reason."""

    page: Path
    line: int
    language: str  # "" for an indented block
    text: str
    marks: tuple[tuple[str, str], ...]

    @property
    def place(self) -> str:
        """Where the block stands, as ``docs/guide.md:12``."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_marked(self) -> bool:
        """Whether nothing of the block is run."""
        return any(not text for text, _ in self.marks)

    def list_commands(self) -> list[str]:
        """List the shell commands that the block shows, without prompts, comments and printed output."""
        if self.language not in ("", "console", "bash"):
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        prompts = [line[2:] for line in lines if line.startswith("$ ")]
        shown = prompts or [line for line in lines if PROGRAM.match(line)]
        return [re.sub(r"\s+#(?: .*)?$", "", line) for line in shown]

    def find_reason(self, command: str) -> str | None:
        """Return why a command of the block is not run, or None if it is."""
        return next((reason for text, reason in self.marks if text in f"{command}$"), None)


def list_pages() -> list[Path]:
    """List the pages a reader sees: README, the site's, and those it links to."""
    others = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "results/README.md")]
    return [page for page in others if page.is_file()] + sorted((ROOT / "docs").glob("*.md"))


def list_blocks(page: Path) -> list[Block]:
    """List the code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for match in BLOCK.finditer(text):
        before = text[: match.start()].rstrip("\n").splitlines()
        marks = []
        while before and (mark := MARK.fullmatch(before[-1].strip())):
            marks.append((mark["text"] or "", mark["reason"]))
            before.pop()
        body = match["fenced"] if match["indented"] is None else re.sub(r"(?m)^    ", "", match["indented"])
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(page, line, match["language"] or "", body, tuple(marks)))
    return blocks


def list_shell_words(command: str) -> list[str]:
    """Split a command into words, without variables before it and without what follows ``>``, ``|`` or ``;``."""
    command = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command)
    return shlex.split(re.split(r" [>|] |; ", command)[0])


def list_anchors(page: Path) -> set[str]:
    """List the anchors of a page: its headings, as GitHub and the site name them, and those of its generated parts."""
    text = reference.insert_generated(page.read_text(encoding="utf-8"))
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    anchors: set[str] = set(re.findall(r"\{#([\w-]+)\}", text))
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in anchors:
            number += 1
        anchors.add(anchor)
    return anchors


def list_links(text: str) -> list[str]:
    """List what a page links to, outside of its code blocks."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return [link or picture for link, picture in LINK.findall(text)]
