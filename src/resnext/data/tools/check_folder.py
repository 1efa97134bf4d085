"""``resnext data check`` of an image folder: find problems that would stop training or harm its result.

Nothing is written. Files are decoded by the same function as in training, and the layout is checked by opening the
``folder`` source itself. So a folder without errors here can be trained on.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from resnext.data.classes import quote_names
from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import (
    UNSUPPORTED_EXTENSIONS,
    ImageInfo,
    detect_image_format,
    read_image,
    read_image_with_info,
)
from resnext.data.near_duplicates import shrink_picture
from resnext.data.sources import image_folder
from resnext.data.sources.image_folder import TRAIN, find_held_out_split, find_split_folders, is_hidden, is_image_name
from resnext.data.suggest_groups import find_group_hint
from resnext.data.tools.duplicates import find_duplicates, report_near_duplicates
from resnext.data.tools.findings import CheckReport, Finding
from resnext.data.tools.inspection import MAX_COMPARED, CheckedFile, Inspection, Problem
from resnext.data.tools.make_report import make_report
from resnext.environment import count_available_cores
from resnext.errors import RequestError
from resnext.settings import DataSettings

DARK_LEVEL = 31  # of 255; 12-bit values in a 16-bit file reach 16
SMALL_SIDE = 32  # pixels; the network halves the size five times
TRIAL_FRACTION = 0.1  # val_fraction used to check a folder if the settings have none
FILES_PER_CHUNK = 1024  # files submitted to the threads at a time
FORMAT_BY_EXTENSION = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".ppm": "PPM", ".pgm": "PPM", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP", ".gif": "GIF", ".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG",
    ".pnm": "PPM", ".pbm": "PPM",
}  # fmt: skip

T = TypeVar("T")


def check_image_folder(settings: DataSettings, workers: int | None = None, progress: bool = False) -> CheckReport:
    """Check every image of ``settings.path``. Raises RequestError if it has no images."""
    root = image_folder.resolve_data_root(settings)
    images, others = _list_files(root)
    if not images:
        raise RequestError(f"{root} has no images; {image_folder.LAYOUT_HINT}")
    unstated = settings.val_fraction is None and list(find_split_folders(root)) in ([], [TRAIN])
    findings = list(_find_class_problems(root, images))
    findings += list(_try_opening(settings, findings, unstated))
    images = _assign_splits(settings, images)
    used = _find_splits(root) if settings.val_fraction is None else ("", TRAIN, "val")
    inspections = []
    for done in inspect_all(images + others, partial(inspect_file, root, settings=settings), workers, progress):
        findings += [done.file.to_finding(_downgrade_if_unused(problem, done.file, used)) for problem in done.problems]
        inspections.append(done)
    findings += find_duplicates(inspections, unstated)
    findings += report_near_duplicates(inspections)

    def open_picture(file: CheckedFile) -> Image.Image:
        return read_image(os.path.join(root, file.path), settings.channels or 3, settings.exif)

    return make_report(
        str(root), count_images(images), findings, inspections, open_picture, _find_hint(settings, unstated)
    )


def _find_hint(settings: DataSettings, unstated: bool) -> str:
    """Return advice where file names suggest groups; empty if they do not, or the folder cannot be opened."""
    try:
        source = image_folder.open_folder(replace(settings, val_fraction=TRIAL_FRACTION) if unstated else settings)
    except RequestError:
        return ""
    hint = find_group_hint(settings, source)
    return hint.describe() if hint else ""


def count_images(images: list[CheckedFile]) -> dict[str, dict[str, int]]:
    """Count the images of each split and class, train first."""
    counts: dict[str, dict[str, int]] = {TRAIN: {}} if any(file.split == TRAIN for file in images) else {}
    for file in images:
        of_split = counts.setdefault(file.split, {})
        of_split[file.class_name] = of_split.get(file.class_name, 0) + 1
    return counts


def _list_files(root: Path) -> tuple[list[CheckedFile], list[CheckedFile]]:
    """List the images of all splits, and the other files among them."""
    images: list[CheckedFile] = []
    others: list[CheckedFile] = []
    for split in find_split_folders(root) or ("",):
        loose = [name for name in sorted(os.listdir(root / split)) if (root / split / name).is_file()]
        others += [CheckedFile(os.path.join(split, name), split, "") for name in loose if not is_hidden(name)]
        for name in image_folder.list_subfolders(root / split):
            for path in sorted(image_folder.walk_files(str(root / split / name)), key=os.path.split):
                file = CheckedFile(os.path.relpath(path, root), split, name)
                (images if is_image_name(path) else others).append(file)
    return images, others


def _find_splits(root: Path) -> tuple[str, ...]:
    """Return the splits that training reads."""
    splits = find_split_folders(root)
    return (TRAIN, find_held_out_split(splits)) if TRAIN in splits else tuple(splits) or ("",)


def _find_class_problems(root: Path, images: list[CheckedFile]) -> Iterator[Finding]:
    """Find empty classes, classes missing in a split, and splits with one class."""
    used = _find_splits(root)
    splits = find_split_folders(root) or {"": root}
    held_out = find_held_out_split(splits)
    classes = {split: image_folder.list_subfolders(folder) for split, folder in splits.items()}
    filled = {(file.split, file.class_name) for file in images}
    for split, names in classes.items():
        severity = "error" if split in used else "warning"
        for name in names:
            path = os.path.join(split, name)
            if (split, name) not in filled:
                yield Finding(path, name, split, severity, "empty class", "the folder has no images")
            for other in classes:
                if name not in classes[other]:
                    grade = severity if other in used and other != held_out else "warning"  # val may lack classes
                    detail = f"{other}/ has no such class"
                    yield Finding(path, name, split, grade, "class missing in a split", detail)
        if len(names) == 1 and split != held_out:
            detail = f"only {quote_names(names)}; a classifier needs at least two"
            yield Finding(split, names[0], split, severity, "one class", detail)


def _try_opening(settings: DataSettings, findings: list[Finding], unstated: bool) -> Iterator[Finding]:
    """Open the data as training would; report its error on the layout if no other error was found."""
    if unstated:
        settings = replace(settings, val_fraction=TRIAL_FRACTION)
        detail = "training needs a share to hold out, such as data.val_fraction 0.1"
        yield Finding("", "", "", "note", "no split", detail)
    try:
        image_folder.open_folder(settings)
    except RequestError as error:
        if not any(finding.severity == "error" for finding in findings):
            yield Finding("", "", "", "error", "layout", str(error))


def _assign_splits(settings: DataSettings, images: list[CheckedFile]) -> list[CheckedFile]:
    """Set the split of each image as ``val_fraction`` and ``split_seed`` choose it, if ``val_fraction`` is given."""
    if settings.val_fraction is None:
        return images
    try:
        val = image_folder.open_folder(settings).val
    except RequestError:
        return images
    held_out = {val.image_path(index) for index in range(len(val))}
    return [replace(file, split="val" if file.path in held_out else TRAIN) for file in images]


def inspect_all(
    items: Sequence[T], inspect_one: Callable[[T], Inspection], workers: int | None, progress: bool
) -> Iterator[Inspection]:
    """Check all items in threads (decoding and hashing release the GIL) and iterate over the results in order."""
    from rich.progress import Progress

    from resnext.screen import make_screen

    bar = Progress(console=make_screen(stderr=True), disable=not progress, transient=True)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or count_available_cores()) as pool, bar:
        warnings.simplefilter("ignore")  # Pillow's warnings on files are covered by our findings
        task = bar.add_task("checking", total=len(items))
        for start in range(0, len(items), FILES_PER_CHUNK):
            for done in pool.map(inspect_one, items[start : start + FILES_PER_CHUNK]):
                bar.advance(task)
                yield done if len(items) <= MAX_COMPARED else replace(done, small_picture=None)


def inspect_file(root: Path, file: CheckedFile, settings: DataSettings) -> Inspection:
    """Check one file by reading it as training would."""
    path = os.path.join(root, file.path)
    if not (file.class_name and is_image_name(path)):
        return Inspection(file, (_classify_skipped_file(path, file),))
    try:
        pixels, facts = read_image_with_info(path, settings.channels or 3, settings.exif)
        with open(path, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
    except (BadImageError, OSError) as error:
        return Inspection(file, (classify_read_error(path, error),))
    return inspect_pixels(file, pixels, facts, content)


def inspect_pixels(file: CheckedFile, pixels: Image.Image, facts: ImageInfo, content: bytes) -> Inspection:
    """Check a decoded image; ``content`` is the digest of its file."""
    seen = hashlib.sha256(b"%d %d " % pixels.size)
    seen.update(pixels.tobytes())
    problems = (*_find_oddities(file.path, facts), *_find_blankness(pixels, facts))
    return Inspection(file, problems, content, seen.digest(), pixels.size, facts, shrink_picture(pixels))


def _classify_skipped_file(path: str, file: CheckedFile) -> Problem:
    """Classify a file that training does not read."""
    found = detect_image_format(path)
    extension = os.path.splitext(path)[1]
    if found and not file.class_name:
        return "warning", "left out", f"a {found} image outside of the class folders"
    if found:
        return "warning", "left out", f"a {found} image, but training does not read the extension {extension!r}"
    if extension.lower() in UNSUPPORTED_EXTENSIONS:
        return "warning", "left out", f"training does not read {extension}; convert it to PNG or JPEG"
    return "note", "not an image file", "training does not read it"


def classify_read_error(path: str, error: Exception) -> Problem:
    """Classify why an image cannot be read, from the exception."""
    cause = error.__cause__ or error
    detail = error.reason if isinstance(error, BadImageError) else str(error)
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "error", "zero size", "the file is empty"
    if isinstance(cause, Image.DecompressionBombError):
        return "error", "decompression bomb", detail
    if isinstance(cause, UnidentifiedImageError):
        return "error", "not an image", detail
    if isinstance(cause, OSError) and cause.errno:
        return "error", "unreadable", detail
    return "error", "truncated" if "truncated" in detail.lower() else "undecodable", detail


def _find_oddities(path: str, facts: ImageInfo) -> Iterator[Problem]:
    """Find unusual properties of a readable file."""
    extension = os.path.splitext(path)[1].lower()
    if FORMAT_BY_EXTENSION.get(extension, facts.format) != facts.format:
        yield "warning", "wrong extension", f"the content is {facts.format}"
    if facts.frames > 1:
        yield "warning", "animated", f"{facts.frames} frames or pages, of which only the first is used"
    if facts.mode == "CMYK":
        yield "note", "CMYK", "converted to RGB without a colour profile"
    if facts.high_bit_depth:
        yield "note", "16-bit", f"mode {facts.mode}, scaled to 8 bits"
    if facts.has_transparency:
        yield "note", "alpha", "transparency is dropped"
    if facts.orientation != 1:
        yield "note", "EXIF rotated", f"orientation {facts.orientation}"
    if min(facts.size) < SMALL_SIDE:
        yield "note", "small", f"{facts.size[0]} x {facts.size[1]} pixels"


def _find_blankness(pixels: Image.Image, facts: ImageInfo) -> Iterator[Problem]:
    """Find images of one colour, and nearly black ones."""
    extrema: Any = pixels.getextrema()  # (least, most) of a grey image, else such a pair for each channel
    pairs = (extrema,) if pixels.mode == "L" else extrema
    brightest = max(most for _, most in pairs)
    if all(least == most for least, most in pairs):
        hidden = "; its content is in the transparency, which is dropped" if facts.has_transparency else ""
        yield "warning", "one colour", f"every pixel is {', '.join(str(most) for _, most in pairs)}{hidden}"
    elif facts.high_bit_depth and brightest <= DARK_LEVEL:
        yield "warning", "nearly black", f"its brightest value is {brightest} of 255: it uses only part of its 16 bits"


def _downgrade_if_unused(problem: Problem, file: CheckedFile, used: tuple[str, ...]) -> Problem:
    """Turn an error into a warning if training does not read the split."""
    severity, name, detail = problem
    return problem if severity != "error" or file.split in used else ("warning", name, detail)
