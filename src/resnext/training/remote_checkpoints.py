"""Copy a run's checkpoints to and from another file system by URL, for machines that may disappear.

A checkpoint is uploaded once it is complete on the local disk: its tensors first, then the ``state.json`` that names
them, so that the remote checkpoint is complete at any moment.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnext.choices import CHECKPOINT_NAMES
from resnext.data.files.storage import resolve_filesystem
from resnext.errors import RequestError, WorkError
from resnext.files import atomic_write
from resnext.run_directory import (
    MAX_JSON_BYTES,
    RunDirectory,
    get_file_name,
    read_last_step,
    read_step,
)

RUN_FILES = (  # copied with the checkpoints
    *("recipe.yaml", "environment.json", "log.jsonl", "metrics.csv", "speed.csv", "loggers.json"),
)
MAX_LOG_BYTES = 4 << 30  # bytes
CHUNK_BYTES = 8 << 20


def upload_run(run: RunDirectory, url: str) -> None:
    """Upload what is new in ``run`` to the folder ``url``: the log first, because a checkpoint relies on it."""
    with _convert_errors(url, "written; the checkpoint on the local disk is complete"):
        fs, root = open_remote(url)
        fs.makedirs(root, exist_ok=True)
        for name in RUN_FILES:
            if (run.path / name).exists():
                _upload_atomically(fs, run.path / name, f"{root}/{name}")
        for which in reversed(CHECKPOINT_NAMES):  # "best" before "last", whose position refers to it
            if (run.checkpoint(which) / "state.json").exists():
                _upload_checkpoint(fs, run, which, f"{root}/checkpoints/{which}")


def download_run(url: str, run: RunDirectory) -> bool:
    """Download the run at ``url`` if its last checkpoint is later than the local one; return whether it was.

    Raises RequestError if the remote files are damaged, WorkError if ``url`` cannot be read.
    """
    with _convert_errors(url, "read"):
        fs, root = open_remote(url)
        state = _read_remote_state(fs, f"{root}/checkpoints/last")
        if state is None or (step := read_step(state)) is None or step <= read_last_step(run):
            return False
        run.path.mkdir(parents=True, exist_ok=True)
        for which in reversed(CHECKPOINT_NAMES):
            found = state if which == "last" else _read_remote_state(fs, f"{root}/checkpoints/{which}")
            if found is not None:
                _download_checkpoint(fs, f"{root}/checkpoints/{which}", run.checkpoint(which), found)
        for name in reversed(RUN_FILES):  # recipe.yaml last: it marks the folder as a run
            if fs.exists(f"{root}/{name}"):
                _download_file(fs, f"{root}/{name}", run.path / name, MAX_LOG_BYTES)
    return True


def open_remote(url: str) -> tuple[Any, str]:
    """Return file system and path of a URL. Raises RequestError for an unusable one."""
    fs, path = resolve_filesystem(url)
    fs.invalidate_cache()  # other machines may have written
    return fs, path.rstrip("/")


def _upload_checkpoint(fs: Any, run: RunDirectory, which: str, root: str) -> None:
    folder = run.checkpoint(which)
    state = run.state(which)
    fs.makedirs(root, exist_ok=True)
    if _read_remote_state(fs, root) == state:
        return
    names = [get_file_name(state, key, folder) for key in state["files"]]
    try:
        there = {path.rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)}
    except FileNotFoundError:  # object stores have no empty folders
        there = set()
    for name in names:
        _upload_file(fs, folder / name, f"{root}/{name}")
    _upload_atomically(fs, folder / "state.json", f"{root}/state.json")
    for name in there - {*names, "state.json"}:
        fs.rm_file(f"{root}/{name}")


def _download_checkpoint(fs: Any, root: str, folder: Path, state: dict[str, Any]) -> None:
    """Download the tensors first, then ``state.json``, in the order of ``write_checkpoint``."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, entry in state["files"].items():
        name = get_file_name(state, key, folder)
        _download_file(fs, f"{root}/{name}", folder / name, int(entry["bytes"]))
    with atomic_write(folder / "state.json", "w") as file:
        json.dump(state, file, indent=1)


def _read_remote_state(fs: Any, root: str) -> dict[str, Any] | None:
    """Read the ``state.json`` of a remote checkpoint folder; None if there is none. Raises RequestError."""
    path = f"{root}/state.json"
    if not fs.exists(path):
        return None
    try:
        state = json.loads(fs.cat_file(path)) if fs.size(path) <= MAX_JSON_BYTES else None
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


def _upload_atomically(fs: Any, path: Path, target: str) -> None:
    """Upload to a temporary name, then rename, for file systems on which writing is not atomic."""
    _upload_file(fs, path, f"{target}.part")
    fs.mv(f"{target}.part", target)


def _upload_file(fs: Any, path: Path, target: str) -> None:
    with path.open("rb") as source, fs.open(target, "wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK_BYTES)


def _download_file(fs: Any, path: str, target: Path, max_bytes: int) -> None:
    """Download a file. Raises RequestError if it has more than ``max_bytes`` bytes."""
    with fs.open(path, "rb") as source, atomic_write(target) as sink:
        done = 0
        while chunk := source.read(CHUNK_BYTES):
            done += len(chunk)
            if done > max_bytes:
                raise RequestError(f"{path} is larger than the expected {max_bytes:,} bytes")
            sink.write(chunk)


@contextmanager
def _convert_errors(url: str, done: str) -> Iterator[None]:
    """Convert OSError into a WorkError that names the URL."""
    try:
        yield
    except OSError as error:
        raise WorkError(f"the remote checkpoints at {url} could not be {done}: {error}") from error
