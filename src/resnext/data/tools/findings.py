"""Findings of a data check: rows of a CSV file, and a summary for the terminal."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

from PIL import Image

from resnext.data.tools.overview import Overview, format_class_table
from resnext.errors import escape_unprintable
from resnext.files import atomic_write

SEVERITIES = ("error", "warning", "note")  # an error: training would fail


@dataclass(frozen=True)
class Finding:
    """One problem of one file or folder; ``path`` is relative to the checked folder."""

    path: str
    class_name: str
    split: str
    severity: str
    problem: str
    detail: str


@dataclass(frozen=True)
class Picture:
    """A picture that can be read: where it is, and a function that decodes it again."""

    path: str
    split: str
    class_name: str
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class CheckReport:
    """All findings of a check, the number of images of each class in each split, and what the images are."""

    root: str
    counts: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    overview: Overview | None = field(default=None, kw_only=True)
    advice: tuple[str, ...] = field(default=(), kw_only=True)  # sentences: what is wrong, and what to do
    pictures: tuple["Picture", ...] = field(default=(), kw_only=True, repr=False)  # those that can be read

    @property
    def has_errors(self) -> bool:
        """Whether there is an error, so that training would fail."""
        return any(finding.severity == "error" for finding in self.findings)

    def write_csv(self, path: Path) -> None:
        """Write one row for each finding, atomically. File names that are not UTF-8 keep their bytes."""
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow("class" if field.name == "class_name" else field.name for field in fields(Finding))
        rows.writerows(astuple(finding) for finding in self.findings)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))

    def describe_split(self, split: str) -> str:
        """Return the number of images and classes of a split as text."""
        classes = self.counts[split]
        return f"{sum(classes.values())} images in {len(classes)} classes"

    def summary_lines(self, bar: int = 0, mark: str = "█") -> Iterator[str]:
        """Iterate over the lines of the summary: splits, classes, sizes, each kind of problem, advice, the result.

        ``bar`` is the length of the longest bar beside a class, made of ``mark``.
        """
        for split in self.counts:
            yield escape_unprintable(f"{f'{split}/' if split else self.root}: {self.describe_split(split)}")
        if self.overview is not None:
            yield from ("", *format_class_table(self.counts, bar, mark), "")
            yield from (f"{heading:10}{text}" for heading, text in self.overview.list_facts())
            yield ""
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.severity, finding.problem), []).append(finding)
        rows = [
            (severity, problem, str(len(found)), f"{found[0].path or '.'}: {found[0].detail}")
            for (severity, problem), found in groups.items()
        ]
        yield from format_table(("severity", "problem", "count", "for example"), rows)
        yield from (escape_unprintable(f"advice: {sentence}") for sentence in self.advice)
        errors = sum(finding.severity == "error" for finding in self.findings)
        yield f"{pluralize(errors, 'error')}: training would fail" if errors else "training can read all of it"


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings: errors first, then by problem and path."""
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.problem, f.path, f.detail)))


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Format rows as lines with aligned columns; no lines if there are no rows."""
    if rows:
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
        for row in (head, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            yield escape_unprintable("  ".join((*cells, row[-1])))


def pluralize(number: int, word: str) -> str:
    """Return the number and the word, with an s unless the number is 1."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
