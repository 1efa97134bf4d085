"""Write predictions for people: a table (CSV), a page of thumbnails (HTML), copies of images in folders by class."""

import csv
import filecmp
import re
import shutil
from collections.abc import Iterable, Sequence, Set
from itertools import chain, count
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from resnext.data.dataset import BadImageError
from resnext.errors import RequestError, escape_unprintable
from resnext.evaluation.images import open_image
from resnext.evaluation.output.thumbnails import Thumbnail, make_thumbnail
from resnext.evaluation.predict import Prediction
from resnext.files import atomic_write, report_write_errors
from resnext.text import format_share

MAX_THUMBNAILS = 2000  # on a page
UNFIT = re.compile(r'[\x00-\x1f/\\:*?"<>|]+')  # for the name of a folder on any system


def write_prediction_csv(path: Path, predictions: Iterable[Prediction], top: int) -> None:
    """Write a row for each image: ``path``, ``class_1``, ``probability_1``, ... up to ``top``, ``error``.

    Raises WorkError if the file cannot be written.
    """
    names = [f"{name}_{place}" for place in range(1, top + 1) for name in ("class", "probability")]
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *names, "error"])
        for one in predictions:
            cells = [cell for name, p in one.top(top) for cell in (name, f"{p:.6g}")]
            row = [one.path, *cells, *[""] * (len(names) - len(cells)), one.error or ""]
            writer.writerow([_encode(str(cell)) for cell in row])


def copy_by_class(folder: Path, predictions: Iterable[Prediction]) -> int:
    """Copy each image to ``folder``/CLASS/NAME, with a number where a name repeats; return how many.

    The images themselves stay as they are, and no file is replaced. A copy that an earlier call made is taken as the
    copy of its image. Raises WorkError if a copy cannot be written.
    """
    copies: set[Path] = set()
    for one in predictions:
        if one.error is not None or one.path is None:
            continue
        source = Path(one.path)
        place = folder / _name_folder(one.top(1)[0][0])
        with report_write_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            copy = _find_place(source, place / source.name, copies)
            if not copy.exists():
                shutil.copy2(source, copy)
        copies.add(copy)
    return len(copies)


def check_sort_folder(folder: Path, paths: Sequence[str]) -> None:
    """Raise RequestError if copies in ``folder`` would be among the images that are classified."""
    inside = next((path for path in paths if Path(path).resolve().is_relative_to(folder.resolve())), None)
    if inside is not None:
        raise RequestError(f"--sort-into {folder} contains {inside}, one of the images; give another folder")


def write_gallery(path: Path, predictions: Sequence[Prediction], top: int, title: str) -> None:
    """Write one HTML file with a thumbnail of each image by predicted class, the least certain first.

    At most 2,000 images are shown. Raises WorkError if the file cannot be written.
    """
    groups: dict[str, list[Prediction]] = {}
    failed = [one for one in predictions if one.error is not None]
    shown = [one for one in predictions if one.error is None]
    for one in sorted(shown, key=lambda one: one.top(1)[0][1])[:MAX_THUMBNAILS]:
        groups.setdefault(one.top(1)[0][0], []).append(one)
    environment = Environment(
        loader=PackageLoader("resnext.evaluation.output", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("gallery.html.j2").render(
        title=title, total=len(shown), left_out=max(0, len(shown) - MAX_THUMBNAILS), failed=failed,
        groups=[(name, [_describe(one, top) for one in groups[name]]) for name in sorted(groups)],
    )  # fmt: skip
    with atomic_write(path, "w") as file:
        file.write(_encode(html))


def _describe(one: Prediction, top: int) -> dict[str, object]:
    assert one.path is not None
    (_, p), *others = one.top(top)
    rest = ", ".join(f"{name} {format_share(q)}" for name, q in others)
    return {"name": Path(one.path).name, "path": one.path, "share": format_share(p), "p": p, "rest": rest,
            "thumbnail": _make_thumbnail(one.path)}  # fmt: skip


def _make_thumbnail(path: str) -> Thumbnail | None:
    """Make a thumbnail; None if the image cannot be read any more."""
    try:
        return make_thumbnail(open_image(path, 3, exif=True))
    except BadImageError:
        return None


def _name_folder(name: str) -> str:
    """Make a class name the name of a folder on any system."""
    fit = UNFIT.sub("_", escape_unprintable(name)).strip(" .")
    return fit[:120] or "_"


def _find_place(source: Path, wanted: Path, taken: Set[Path]) -> Path:
    """Return the first of NAME, NAME-2, ... that is free, or not ``taken`` and equal to ``source``."""
    names = chain([wanted], (wanted.with_stem(f"{wanted.stem}-{number}") for number in count(2)))
    return next(path for path in names if not path.exists() or (path not in taken and _is_copy(path, source)))


def _is_copy(path: Path, source: Path) -> bool:
    return path.is_file() and filecmp.cmp(path, source, shallow=False)


def _encode(text: str) -> str:
    """Escape the parts of a file name that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
