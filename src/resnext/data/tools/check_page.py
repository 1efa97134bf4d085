"""Write a data check as one HTML page: what to do, classes, sizes, some pictures of each class, findings."""

import base64
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from resnext.data.dataset import BadImageError
from resnext.data.tools.findings import SEVERITIES, CheckReport, Finding, Picture
from resnext.data.tools.overview import Overview, list_class_rows
from resnext.environment import count_available_cores
from resnext.errors import WorkError
from resnext.files import atomic_write

THUMBNAIL = 176  # pixels of the longer side
MAX_THUMBNAILS = 480  # on the page
MOST_PER_CLASS = 8
SETTING = re.compile(r"--data\.\w+ (?:[a-z]+|&#39;.*?&#39;)")  # in escaped text
MAX_LISTED = 100  # files of one problem


def write_check_page(path: Path, report: CheckReport) -> None:
    """Write the page atomically. Pictures are drawn at random, and the same ones each time.

    Raises WorkError if the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("resnext.data.tools", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    rows = list_class_rows(report.counts)
    most = max((sum(numbers) for _, numbers in rows), default=0)
    html = environment.get_template("check_page.html.j2").render(
        title=Path(report.root).resolve().name or report.root,
        root=str(Path(report.root).resolve()) if Path(report.root).exists() else report.root,
        total=sum(sum(numbers) for _, numbers in rows),
        splits=[split or "pictures" for split in report.counts],
        classes=[(name, numbers, [100 * number / max(most, 1) for number in numbers]) for name, numbers in rows],
        numbers=[sum(numbers) for _, numbers in rows],
        has_errors=report.has_errors,
        severities={name: sum(f.severity == name for f in report.findings) for name in SEVERITIES},
        advice=[_mark_settings(sentence) for sentence in report.advice],
        facts=report.overview.list_facts() if report.overview else [],
        bins=list(_describe_bins(report.overview)) if report.overview else [],
        sheets=_make_sheets(report.pictures, [name for name, _ in rows]),
        problems=list(_group_findings(report.findings)),
    )
    with atomic_write(path, "w") as file:
        file.write(html.encode("utf-8", "backslashreplace").decode())


def choose_pictures(pictures: Sequence[Picture], number: int) -> list[Picture]:
    """Choose ``number`` pictures at random, by a hash of their paths."""

    def draw(picture: Picture) -> bytes:
        return hashlib.blake2b(picture.path.encode("utf-8", "surrogateescape"), digest_size=8).digest()

    return sorted(pictures, key=draw)[:number]


def _mark_settings(sentence: str) -> Markup:
    """Make a sentence with a capital and a full stop, and settings in it as code."""
    text = str(escape(f"{sentence[0].upper()}{sentence[1:]}."))
    return Markup(SETTING.sub(r"<code>\g<0></code>", text))


def _make_sheets(pictures: Sequence[Picture], classes: Sequence[str]) -> list[tuple[str, int, list[dict[str, str]]]]:
    """Make the contact sheet of each class: its name, its number of pictures, and some of them."""
    of_class: dict[str, list[Picture]] = {name: [] for name in classes}
    for picture in pictures:
        of_class.setdefault(picture.class_name, []).append(picture)
    filled = {name: found for name, found in of_class.items() if found}
    shown = dict(list(filled.items())[:MAX_THUMBNAILS])
    number = max(1, min(MOST_PER_CLASS, MAX_THUMBNAILS // max(len(shown), 1)))
    chosen = {name: choose_pictures(found, number) for name, found in shown.items()}
    with ThreadPoolExecutor(count_available_cores()) as threads:
        made = {name: list(threads.map(_make_thumbnail, found)) for name, found in chosen.items()}
    return [(name, len(filled[name]), [one for one in thumbnails if one]) for name, thumbnails in made.items()]


def _make_thumbnail(picture: Picture) -> dict[str, str] | None:
    """Make a small JPEG as a data URI; None if the picture cannot be read any more."""
    try:
        image = picture.open()
    except (BadImageError, WorkError):
        return None
    width, height = image.size
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    data = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return {"data": data, "path": picture.path, "size": f"{width:,} x {height:,}"}


def _describe_bins(overview: Overview) -> Iterator[tuple[str, int, float]]:
    """Describe the bins of the histogram: the sides in a bin, its pictures, its height in percent."""
    bins = overview.count_sides()
    most = max(count for *_, count in bins)
    for low, high, count in bins:
        yield f"{low:,}" if low == high else f"{low:,} to {high:,}", count, 100 * count / most


def _group_findings(findings: Sequence[Finding]) -> Iterator[tuple[str, str, int, Sequence[Finding]]]:
    """Group findings by severity and problem: these, how many, and the first of them."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.problem), []).append(finding)
    for (severity, problem), found in groups.items():
        yield severity, problem, len(found), found[:MAX_LISTED]
