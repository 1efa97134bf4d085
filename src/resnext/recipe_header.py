"""The comment at the head of a recipe file: what it trains, its source, the expected result, and the cost."""

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

FIELD = re.compile(r"# ([A-Z][a-z]+): +(\S.*)")


@dataclass(frozen=True)
class RecipeHeader:
    """The header of a recipe file."""

    text: str  # the whole comment, as it stands
    title: str  # its first line
    fields: dict[str, str]  # Source, Expected, Cost ... -> text


def read_header(path: Path) -> RecipeHeader:
    """Read the header of a recipe file: comment lines, of which ``# Word:  text`` begins a field."""
    lines = list(takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()))
    fields: dict[str, str] = {}
    field = None
    for line in lines:
        begins = FIELD.fullmatch(line)
        if begins:
            field = begins[1]
            fields[field] = begins[2]
        elif field is not None:
            fields[field] += f" {line.strip('# ')}"
    return RecipeHeader("\n".join(lines), lines[0].strip("# .:") if lines else "", fields)
