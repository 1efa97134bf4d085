"""Choose the files in which images are drawn."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from resnext.errors import RequestError


def make_drawing_paths(folder: Path, paths: Sequence[str], option: str = "--out") -> list[Path]:
    """Choose where each image is drawn: ``folder``/NAME.png, with a number where a name repeats.

    Makes the folder. Raises RequestError where this fails or where one of the files exists already.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {option} {folder}: {error.strerror}") from None
    names: set[str] = set()
    places = []
    for path in paths:
        stem, tries = Path(path).stem, count(2)
        name = stem
        while name in names:
            name = f"{stem}-{next(tries)}"
        names.add(name)
        places.append(folder / f"{name}.png")
    there = next((path for path in places if path.exists()), None)
    if there is not None:
        raise RequestError(f"{there} exists already: give {option} an empty folder")
    return places
