"""The user's cache folder for measured times and compiled libraries, and warnings that are printed once."""

import os
import sys
from functools import cache
from pathlib import Path

from resnext.errors import escape_unprintable


def get_cache_folder() -> Path:
    """Return $RESNEXT_CACHE, else $XDG_CACHE_HOME/resnext, else ~/.cache/resnext."""
    said = os.environ.get("RESNEXT_CACHE")
    if said:
        return Path(said)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "resnext"


@cache
def warn_once(sentence: str) -> None:
    """Print a warning on stderr, unless this process has printed the same one before."""
    print(escape_unprintable(f"resnext: {sentence}"), file=sys.stderr, flush=True)
