"""What the HTML reports of classification and detection share: the page, and readers of a run's other files."""

import base64
import csv
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from resnext.files import atomic_write
from resnext.run_directory import RunDirectory, read_stop_reason
from resnext.text import format_share

MAX_TEXT_BYTES = 64 << 20  # larger files are left out
MAX_IMAGE_BYTES = 16 << 20
READABLE_SCALE = 0.64  # CSS pixels per pixel of a plot at which its text of 8 points is 9 pixels high
MAX_OPEN_ROWS = 20  # a longer table of classes starts collapsed


def write_page(
    run: RunDirectory,
    package: str,
    metrics: dict[str, Any],
    epochs: dict[str, Any] | None,
    pictures: tuple[str, ...],
    content: dict[str, Any],
) -> Path:
    """Write a run's ``report.html`` atomically from the ``report.html.j2`` of ``package``, and return its path.

    The page shows ``content``, ``metrics`` (what was written to metrics.json), ``epochs`` (of ``read_epochs``), the
    plots ``pictures`` of the evaluation, and the run's plots, settings and environment. Files of the run that are
    missing or damaged are left out. Raises WorkError if the page cannot be written.
    """
    recipe, name = read_recipe_sections(run.recipe), run.path.resolve().name
    model = recipe.get("model", {}).get("name")
    plots = (run.path / "curves.png", run.path / "samples.png", *(run.evaluation / plot for plot in pictures))
    shared = {
        "title": f"{model} on {metrics['protocol']['data']}" if model else name,
        "name": name,
        "metrics": metrics,
        "epochs": epochs,
        "stopped": read_stop_reason(read_json(run.checkpoint("last") / "state.json") or {}),
        "recipe": recipe,
        "pictures": {path.name: embed_png(path) for path in plots},
        "open_rows": MAX_OPEN_ROWS,
        "environment": format_facts(read_json(run.environment)),
    }
    write_html(run.report, package, "report.html.j2", shared | content)
    return run.report


def write_html(path: Path, package: str, template: str, content: dict[str, Any]) -> None:
    """Write a page atomically from a template of ``package``, which may extend those beside this module.

    Raises WorkError if the page cannot be written.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("resnext.evaluation.output", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = lambda value: format_share(None if value in ("", None) else float(value))
    environment.filters["number"] = lambda value: "–" if value in ("", None) else f"{float(value):.3f}"
    html = environment.get_template(template).render(**content)
    with atomic_write(path, "w") as file:
        file.write(html.encode("utf-8", "backslashreplace").decode())


def read_epochs(path: Path, metric: str, choose: Callable[[list[float]], float]) -> dict[str, Any] | None:
    """Read the last epoch and the best one from a run's metrics.csv; None if no epoch has a value of ``metric``.

    ``choose`` (min or max) picks the best value.
    """
    values, epochs = [], []
    for row in read_csv_rows(path):
        try:
            values.append(float(row[metric]))
            epochs.append(row["epoch"])
        except (KeyError, TypeError, ValueError):
            continue
    if not values:
        return None
    best = choose(values)
    return {"last": values[-1], "last_epoch": epochs[-1], "best": best, "best_epoch": epochs[values.index(best)]}


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


class Picture(NamedTuple):
    """A PNG file inside a page."""

    uri: str
    width: int  # pixels
    height: int

    @property
    def readable_width(self) -> int:
        """The least width, in CSS pixels, at which the text in a plot of ours can be read."""
        return round(self.width * READABLE_SCALE)


def embed_png(path: Path) -> Picture | None:
    """Return a PNG file as a data URI with its size; None if it is missing or no PNG."""
    data = _read_bytes(path, MAX_IMAGE_BYTES)
    if not data or not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])  # IHDR is the first chunk
    return Picture("data:image/png;base64," + base64.b64encode(data).decode("ascii"), width, height)


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
