"""The console that commands print on."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from resnext.errors import escape_unprintable

MAX_COLUMNS = 10_000  # width assumed for a file or a pipe
MAX_PATH_COLUMNS = 32  # longer paths and addresses are folded if the terminal is too narrow for a table
MAX_WORD_COLUMNS = 120  # so are longer words of other kinds; names are shorter, and stay whole on every terminal


class Screen(Console):
    """A console that prints text as it is: no markup, no emoji codes, no highlighting, nothing cut.

    The terminal wraps long lines, so they can be copied whole. Tables wrap their cells between words and inside paths;
    if that is not enough, their lines are wider than the terminal. In a file or a pipe nothing is wrapped.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
        if not self.file.isatty():
            self.size = (MAX_COLUMNS, self.height)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as ``Console.print`` does, with tables narrowed to the terminal between words."""
        for one in objects:
            if isinstance(one, Table):
                _narrow_table(one, self)
        super().print(*objects, **options)

    def render_str(self, text: str, *places: Any, **options: Any) -> Text:
        """Render ``text`` with control characters escaped, since names can contain anything."""
        return super().render_str("\n".join(map(escape_unprintable, text.split("\n"))), *places, **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Show a line with a spinner during some work."""
        spinner = "dots" if self.encoding.startswith("utf") else "line"
        return _PlainStatus(_to_text(status), console=self, spinner=spinner, **options)


class _PlainStatus(Status):
    """A status whose text is not parsed as markup."""

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(None if status is None else _to_text(status), **options)


def make_screen(*, stderr: bool = False) -> Screen:
    """Create a console on standard output or standard error."""
    return Screen(stderr=stderr)


@contextmanager
def show_work(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show what is done meanwhile: on a terminal a line that the given function changes, else ``text`` on stderr."""
    if console.is_terminal:
        with console.status(text) as status:
            yield status.update
    else:
        if not console.quiet:
            print(f"resnext: {text} ...", file=sys.stderr, flush=True)
        yield lambda _: None


def print_line(console: Console, text: str) -> None:
    """Print a line without markup, colours or wrapping, on any console."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_facts(rows: Sequence[tuple[str, str]]) -> None:
    """Print pairs of a heading and a text on standard output; long texts are folded under their start."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for heading, text in rows:
        table.add_row(heading, Text(escape_unprintable(text)))
    make_screen().print(table)


def _to_text(said: RenderableType) -> RenderableType:
    return Text(said) if isinstance(said, str) else said


def _narrow_table(table: Table, console: Console) -> None:
    """Narrow the columns of a table that is wider than ``console``, without breaking words."""
    spans = [_measure_column(column, console) for column in table.columns]
    padding = (table.padding[1] + table.padding[3]) * len(spans)
    widths, least = [most for _, most in spans], [word for word, _ in spans]
    if sum(widths) + padding <= console.width:
        return
    while sum(widths) + padding > console.width and widths != least:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.no_wrap, column.overflow = width, False, "fold"
    table.width = sum(widths) + padding


def _measure_column(column: Column, console: Console) -> tuple[int, int]:
    """Measure the longest word of a column that is not to be folded, and its longest line."""
    options = console.options.update(max_width=MAX_COLUMNS)
    cells = [column.header, *column.cells]
    most = max(Measurement.get(console, options, cell).maximum for cell in cells)
    words = [word for cell in cells for word in _render_plain(cell, console).split()]
    return most if column.no_wrap else min(most, max(map(_measure_word, words), default=1)), most


def _render_plain(cell: RenderableType, console: Console) -> str:
    return cell.plain if isinstance(cell, Text) else console.render_str(str(cell)).plain


def _measure_word(word: str) -> int:
    return min(cell_len(word), MAX_PATH_COLUMNS if "/" in word or "\\" in word else MAX_WORD_COLUMNS)
