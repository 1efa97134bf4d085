"""A progress bar on standard error, so that standard output can be piped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnext.screen import make_screen


@contextmanager
def show_image_progress(total: int) -> Iterator[Callable[..., None]]:
    """Show a progress bar, updated by the yielded ``progress(done, ...)``; nothing if standard error is no terminal."""
    console = make_screen(stderr=True)
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=total)

        def progress(done: int, *_: int) -> None:
            bar.update(task, completed=done)

        yield progress
