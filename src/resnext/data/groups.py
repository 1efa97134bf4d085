"""Groups of images that belong together, such as those of one patient, slide or video (``data.group``).

A group is named by a pattern that is searched in each image's path, or by a row of a CSV file.
"""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resnext.data.dataset import Dataset
from resnext.errors import RequestError, did_you_mean
from resnext.settings import compile_group_pattern, is_group_file

COLUMNS = ("file", "group")
SIDES = ("train", "val")  # values of the column split
MAX_FILE_BYTES = 256 << 20
MATCH_SECONDS = 10.0  # in which a pattern must have matched all paths, and more for many
PATHS_PER_SECOND = 50_000
# A pattern can take forever on one path (nested repeats), and only a process can be stopped then.
MATCH_SCRIPT = """
import json, re, sys
pattern, paths = json.load(sys.stdin)
search = re.compile(pattern).search
json.dump([found[1] if (found := search(path)) else None for path in paths], sys.stdout)
"""


@dataclass(frozen=True)
class GroupFile:
    """A CSV file of groups: the group of each file, and the side (train or val) of each group if it says that too."""

    path: str
    groups: dict[str, str]
    sides: dict[str, str] = field(default_factory=dict)


def list_groups(dataset: Dataset, group: str) -> list[str]:
    """List the name of each image's group, in the order of the images.

    Args:
        dataset: One split of a source whose images have paths.
        group: ``data.group``: a regular expression with one group in parentheses, or a CSV file.

    Raises:
        RequestError: An image has no group, or the pattern or the CSV file cannot be used.
    """
    return find_groups([dataset.image_path(index) for index in range(len(dataset))], group)


def find_groups(paths: Sequence[str], group: str) -> list[str]:
    """Find the name of each path's group; paths are relative to ``data.path``. Raises RequestError."""
    if is_group_file(group):
        return look_up_groups(paths, read_group_file(group))
    found = search_groups(paths, group)
    missed = [path for path, name in zip(paths, found, strict=True) if not name]
    if missed and len(missed) == len(paths):
        raise RequestError(
            f"data.group {group!r} is found in no path, such as {as_posix(paths[0])}; it is searched for in each "
            "image's path below data.path"
        )
    if missed:
        raise RequestError(
            f"data.group {group!r} is not found in {len(missed):,} of {len(paths):,} paths, such as "
            f"{_list_examples(map(as_posix, missed))}; every image needs a group"
        )
    return [name or "" for name in found]


def search_groups(paths: Sequence[str], pattern: str) -> list[str | None]:
    """Search each path for the pattern; return what its parentheses match, None where it is not found.

    Raises RequestError for a pattern that cannot be used, or that takes too long.
    """
    compile_group_pattern(pattern)
    request = json.dumps([pattern, [as_posix(path) for path in paths]])
    limit = MATCH_SECONDS + len(paths) / PATHS_PER_SECOND
    command = [sys.executable, "-I", "-S", "-c", MATCH_SCRIPT]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        raise RequestError(
            f"data.group {pattern!r} takes longer than {limit:.0f} s to search {len(paths):,} paths: use a simpler "
            "pattern, without a repeat inside of a repeat"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise RequestError(f"data.group {pattern!r} cannot be searched for: {reason}") from None
    found: list[str | None] = json.loads(done.stdout)
    return found


def look_up_groups(paths: Sequence[str], file: GroupFile) -> list[str]:
    """Look up each path's group in a CSV file. Raises RequestError for a path that it lacks."""
    missing = [path for path in map(as_posix, paths) if path not in file.groups]
    if missing:
        listed = next(iter(file.groups), "")
        hint = f"its first row has {listed}" if len(missing) == len(paths) else "every image needs a row"
        raise RequestError(
            f"data.group {file.path} has no row for {len(missing):,} of {len(paths):,} images, such as "
            f"{_list_examples(missing)}; {hint}, and files are given by their path below data.path"
        )
    return [file.groups[as_posix(path)] for path in paths]


def check_files_exist(file: GroupFile, root: str) -> None:
    """Raise RequestError if rows of a CSV file name files that are not below ``root``."""
    missing = [name for name in file.groups if not os.path.lexists(os.path.join(root, name))]
    if missing:
        raise RequestError(
            f"data.group {file.path} names {len(missing):,} files that {root} does not have, such as "
            f"{_list_examples(missing)}; correct or remove these rows"
        )


def read_group_file(path: str) -> GroupFile:
    """Read a CSV file with the columns file and group, and possibly split. Raises RequestError, with the line."""
    groups: dict[str, str] = {}
    sides: dict[str, str] = {}
    for line, row in _iterate_rows(path):
        name, group = as_posix(row["file"]).removeprefix("./"), row["group"]
        if not name or not group:
            raise RequestError(f"data.group {path}, line {line}: no {COLUMNS[bool(name)]} is given")
        if groups.setdefault(name, group) != group:
            raise RequestError(f"data.group {path}, line {line}: {name} is in group {groups[name]!r} and in {group!r}")
        if "split" not in row:
            continue
        if (side := row["split"]) not in SIDES:
            raise RequestError(f"data.group {path}, line {line}: split must be train or val, not {side!r}")
        if sides.setdefault(group, side) != side:
            raise RequestError(f"data.group {path}, line {line}: group {group!r} is in train and in val")
    if not groups:
        raise RequestError(f"data.group {path} has no rows")
    return GroupFile(path, groups, sides)


def _iterate_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Iterate over the rows of a CSV file with their line numbers; names of columns in small letters."""
    place = Path(path).expanduser()
    try:
        if not place.is_file():
            raise RequestError(f"data.group {path} {'is not a file' if place.exists() else 'does not exist'}")
        if place.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"data.group {path} is larger than {MAX_FILE_BYTES >> 20} MiB")
        text = place.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise RequestError(f"data.group {path} cannot be read: {error.strerror}") from None
    separator = max(",;\t", key=text.partition("\n")[0].count)  # as spreadsheets of other languages write
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        head = [name.strip().lower() for name in next(rows, [])]
        for wanted in COLUMNS:
            if wanted not in head:
                raise RequestError(
                    f"data.group {path} has no column {wanted!r}{did_you_mean(wanted, filter(None, head))}"
                )
        for row in rows:
            if row:
                cells = [*row, *[""] * (len(head) - len(row))]
                yield rows.line_num, {name: cell.strip() for name, cell in zip(head, cells, strict=False)}
    except csv.Error as error:
        raise RequestError(f"data.group {path}, line {rows.line_num}: {error}") from None


def as_posix(path: str) -> str:
    """Return a path with forward slashes, as patterns and CSV files have it on every system."""
    return path.replace(os.sep, "/")


def _list_examples(paths: Iterable[str]) -> str:
    return ", ".join(path for path, _ in zip(paths, range(3), strict=False))
