"""Parts of every HTML report: readers for files that may be large or damaged, and the page template."""

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from resnext.files import atomic_write
from resnext.run_directory import RunDirectory

MAX_TEXT_BYTES = 64 << 20  # larger files are left out
MAX_IMAGE_BYTES = 16 << 20


def write_page(run: RunDirectory, package: str, content: dict[str, Any]) -> Path:
    """Write a run's ``report.html`` atomically from the ``report.html.j2`` of ``package``, and return its path.

    Raises WorkError if it cannot be written.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("resnext.evaluate.output", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = lambda value: "–" if value in ("", None) else f"{100 * float(value):.1f} %"
    environment.filters["number"] = lambda value: "–" if value in ("", None) else f"{float(value):.3f}"
    html = environment.get_template("report.html.j2").render(**content)
    with atomic_write(run.report, "w") as file:
        file.write(html.encode("utf-8", "replace").decode())
    return run.report


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_recipe_sections(path: Path) -> dict[str, dict[str, Any]]:
    """Read the sections of the recipe, without settings that were not given."""
    text = _read_text(path, 1 << 20)
    try:
        values = yaml.safe_load(text) if text else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    sections = {str(name): inside for name, inside in values.items() if isinstance(inside, dict)}
    return {
        name: {str(key): _format_value(value) for key, value in inside.items() if value is not None and value != []}
        for name, inside in sections.items()
    }


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_facts(values: Any) -> list[tuple[str, str]]:
    """Format a JSON object as pairs for a table."""
    if not isinstance(values, dict):
        return []
    return [(str(key).replace("_", " "), _format_value(value)) for key, value in values.items() if value is not None]


def embed_png(path: Path) -> str | None:
    """Return a PNG file as a data URI; None if it is missing or no PNG."""
    data = _read_bytes(path, MAX_IMAGE_BYTES)
    if not data or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def read_csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, up to the first damaged one."""
    text = _read_text(path, MAX_TEXT_BYTES)
    try:
        yield from csv.DictReader(text.splitlines(keepends=True)) if text else ()
    except csv.Error:
        return


def read_json(path: Path) -> Any:
    """Read a JSON value; None if the file is missing or damaged."""
    try:
        return json.loads(_read_text(path, MAX_TEXT_BYTES) or "null")
    except (ValueError, RecursionError):
        return None


def _read_text(path: Path, largest: int) -> str | None:
    data = _read_bytes(path, largest)
    return None if data is None else data.decode("utf-8", "replace")


def _read_bytes(path: Path, largest: int) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= largest else None
    except OSError:
        return None
