"""Copy a run's checkpoints to and from another file system by URL, for machines that may disappear.

A checkpoint is uploaded once it is complete on the local disk: its tensors first, then the ``state.json`` that names
them, so that the remote checkpoint is complete at any moment.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnext.data.storage import system_of
from resnext.errors import RequestError, WorkError
from resnext.files import written_whole
from resnext.run_directory import CHECKPOINTS, LARGEST_JSON, RunDirectory, file_name, step_in
from resnext.train.resume import step_of

FILES = ("recipe.yaml", "environment.json", "log.jsonl", "metrics.csv", "speed.csv")  # copied with the checkpoints
LARGEST_LOG = 4 << 30  # bytes
CHUNK = 8 << 20


def push(run: RunDirectory, url: str) -> None:
    """Upload what is new in ``run`` to the folder ``url``: the log first, because a checkpoint relies on it.

    Raises WorkError if ``url`` cannot be written.
    """
    with _named(url, "written; the checkpoint on the local disk is complete"):
        fs, root = opened(url)
        fs.makedirs(root, exist_ok=True)
        for name in FILES:
            if (run.path / name).exists():
                _replace(fs, run.path / name, f"{root}/{name}")
        for which in reversed(CHECKPOINTS):  # "best" before "last", whose position refers to it
            if (run.checkpoint(which) / "state.json").exists():
                _push_checkpoint(fs, run, which, f"{root}/checkpoints/{which}")


def pull(url: str, run: RunDirectory) -> bool:
    """Download the run at ``url`` if its last checkpoint is later than the local one; return whether it was.

    Raises RequestError if the remote files are damaged, WorkError if ``url`` cannot be read.
    """
    with _named(url, "read"):
        fs, root = opened(url)
        state = _state(fs, f"{root}/checkpoints/last")
        if state is None or (step := step_in(state)) is None or step <= step_of(run):
            return False
        run.path.mkdir(parents=True, exist_ok=True)
        for which in reversed(CHECKPOINTS):
            found = state if which == "last" else _state(fs, f"{root}/checkpoints/{which}")
            if found is not None:
                _pull_checkpoint(fs, f"{root}/checkpoints/{which}", run.checkpoint(which), found)
        for name in reversed(FILES):  # recipe.yaml last: it marks the folder as a run
            if fs.exists(f"{root}/{name}"):
                _fetch(fs, f"{root}/{name}", run.path / name, LARGEST_LOG)
    return True


def opened(url: str) -> tuple[Any, str]:
    """Return file system and path of a URL. Raises RequestError for an unusable one."""
    fs, path = system_of(url)
    fs.invalidate_cache()  # other machines may have written
    return fs, path.rstrip("/")


def _push_checkpoint(fs: Any, run: RunDirectory, which: str, root: str) -> None:
    folder = run.checkpoint(which)
    state = run.state(which)
    fs.makedirs(root, exist_ok=True)
    if _state(fs, root) == state:
        return
    names = [file_name(state, key, folder) for key in state["files"]]
    there = _names(fs, root)
    for name in names:
        _send(fs, folder / name, f"{root}/{name}")
    _replace(fs, folder / "state.json", f"{root}/state.json")
    for name in there - {*names, "state.json"}:
        fs.rm_file(f"{root}/{name}")


def _pull_checkpoint(fs: Any, root: str, folder: Path, state: dict[str, Any]) -> None:
    """Download the tensors first, then ``state.json``, in the order of ``write_checkpoint``."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, entry in state["files"].items():
        name = file_name(state, key, folder)
        _fetch(fs, f"{root}/{name}", folder / name, int(entry["bytes"]))
    with written_whole(folder / "state.json", "w") as file:
        json.dump(state, file, indent=1)


def _state(fs: Any, root: str) -> dict[str, Any] | None:
    """Read the ``state.json`` of a remote checkpoint folder; None if there is none.

    Raises RequestError if it is invalid.
    """
    path = f"{root}/state.json"
    if not fs.exists(path):
        return None
    try:
        state = json.loads(fs.cat_file(path)) if fs.size(path) <= LARGEST_JSON else None
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict) or state.get("format") != "resnext-checkpoint":
        raise RequestError(f"{path} is not the state of a resnext checkpoint")
    files = state.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(e, dict) and isinstance(e.get("bytes"), int) for e in files.values()
    ):
        raise RequestError(f"{path} does not say which files belong to the checkpoint")
    return state


def _names(fs: Any, root: str) -> set[str]:
    """List the files of a remote folder. A missing one counts as empty: object stores have no empty folders."""
    try:
        return {path.rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)}
    except FileNotFoundError:
        return set()


def _replace(fs: Any, path: Path, target: str) -> None:
    """Upload to a temporary name, then rename, for file systems on which writing is not atomic."""
    _send(fs, path, f"{target}.part")
    fs.mv(f"{target}.part", target)


def _send(fs: Any, path: Path, target: str) -> None:
    with path.open("rb") as source, fs.open(target, "wb") as sink:
        while chunk := source.read(CHUNK):
            sink.write(chunk)


def _fetch(fs: Any, path: str, target: Path, most: int) -> None:
    """Download a file. Raises RequestError if it has more than ``max_bytes`` bytes."""
    with fs.open(path, "rb") as source, written_whole(target) as sink:
        done = 0
        while chunk := source.read(CHUNK):
            done += len(chunk)
            if done > most:
                raise RequestError(f"{path} is larger than the expected {most:,} bytes")
            sink.write(chunk)


@contextmanager
def _named(url: str, done: str) -> Iterator[None]:
    """Convert OSError into a WorkError that names the URL."""
    try:
        yield
    except OSError as error:
        raise WorkError(f"the remote checkpoints at {url} could not be {done}: {error}") from error
