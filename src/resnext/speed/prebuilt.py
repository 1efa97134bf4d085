"""The compiled libraries that a wheel brings in ``prebuilt/``; what it lacks is compiled at first use.

``prebuilt.json`` has for each library the key of its sources and flags and the SHA-256 of its file. One of another key
is not used: the sources were changed, or this PyTorch is too old for the stable ABI.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from resnext.speed.cache_folder import warn_once
from resnext.speed.compiler import Library, build_library, compile_library

FOLDER = Path(__file__).parent / "prebuilt"
INDEX = "prebuilt.json"
T = TypeVar("T")


def is_prebuilt_enabled() -> bool:
    """Return whether prebuilt libraries may be used; ``RESNEXT_PREBUILT=0`` has this machine compile its own."""
    return os.environ.get("RESNEXT_PREBUILT", "1") not in ("0", "no", "false")


def find_prebuilt_library(library: Library) -> Path | None:
    """Find the library that this package brought; None if there is none that fits, with a warning if it is damaged."""
    path = FOLDER / f"{library.name}.so"
    if not is_prebuilt_enabled() or not path.exists():
        return None
    try:
        entry = json.loads((FOLDER / INDEX).read_text("utf-8"))[library.name]
        if entry["sources"] != library.compute_source_key():
            return None
        is_whole = entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        warn_once(f"{path} is damaged and is not used (pip install --force-reinstall --no-deps resnext mends it)")
        return None
    return path


def load_library(library: Library, load: Callable[[Path], T]) -> T | None:
    """Return what ``load`` makes of the prebuilt library, or else of the one that is compiled here.

    ``load`` raises OSError for a file that it cannot load. If no library can be loaded, the result is None, and a
    warning says why.
    """
    prebuilt = find_prebuilt_library(library)
    if prebuilt:
        try:
            return load(prebuilt)
        except OSError as error:
            warn_once(f"{prebuilt} cannot be loaded here, so {library.name} is compiled: {error.__cause__ or error}")
    path = build_library(library)
    if path is None:
        return None
    try:
        return load(path)
    except OSError as error:
        warn_once(f"{path} cannot be loaded, {library.fallback}: {error.__cause__ or error}")
        return None


def write_prebuilt_libraries(program: str, libraries: Iterable[Library], folder: Path) -> None:
    """Compile ``libraries`` into ``folder`` for a wheel, with their index.

    Raises subprocess.SubprocessError if the compiler fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = {}
    for library in libraries:
        path = folder / f"{library.name}.so"
        compile_library(program, library, path, link_flags=("-s",))  # without names for debuggers
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        index[library.name] = {"sources": library.compute_source_key(), "sha256": digest}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
