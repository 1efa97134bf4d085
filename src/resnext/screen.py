"""Where tables are printed."""

from rich.console import Console


def screen() -> Console:
    """The terminal. A file or a pipe has no width: there nothing is cut or wrapped."""
    console = Console()
    return console if console.is_terminal else Console(width=10_000)
