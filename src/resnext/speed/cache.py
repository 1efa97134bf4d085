"""The folder where what was measured or compiled once is kept, and sentences that are said once."""

import os
import sys
from functools import cache
from pathlib import Path

from resnext.errors import printable


def cache_folder() -> Path:
    """$RESNEXT_CACHE, else $XDG_CACHE_HOME/resnext, else ~/.cache/resnext."""
    said = os.environ.get("RESNEXT_CACHE")
    if said:
        return Path(said)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "resnext"


@cache
def say_once(sentence: str) -> None:
    """Tell the user on stderr, the first time only."""
    print(printable(f"resnext: {sentence}"), file=sys.stderr, flush=True)
