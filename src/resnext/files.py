"""Atomic file writing, and checks before the work that files and folders can be written.

What may be replaced: weights only with --overwrite (``check_output``); the results of an evaluation only by results of
the same kind (``check_output_directory``).
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, overload

from resnext.errors import RequestError, WorkError


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def report_write_errors(path: Path, remark: str = "") -> Iterator[None]:
    """Turn each OSError inside the context into a WorkError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise WorkError(f"{path} could not be written: {error.strerror or error}{remark}") from None


@overload
def atomic_write(path: Path, mode: Literal["wb"] = "wb") -> AbstractContextManager[IO[bytes]]: ...
@overload
def atomic_write(path: Path, mode: Literal["w"]) -> AbstractContextManager[IO[str]]: ...


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write ``path`` through a temporary file, fsync and rename: readers see the old or the new file, never a part.

    Devices and pipes (``/dev/null``, ``>(command)``) are written directly. Raises WorkError if writing fails; the old
    file then still exists.
    """
    temporary = ""
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with report_write_errors(path):
        if is_device(path):
            with open(path, mode, **text) as file:
                yield file
            return
    with report_write_errors(path, "; the old content is unchanged"):
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            with os.fdopen(handle, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_read_umask())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise


def check_folder(folder: Path, option: str = "") -> None:
    """Check before the work that files can be written to ``folder``, which may not exist yet and is not created.

    ``option`` is the option that names the folder in errors. Raises RequestError if files cannot be written.
    """
    missing: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise RequestError(f"{option} {folder} cannot be written to: {why}".lstrip()) from None
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def check_file(path: Path, option: str = "", endings: Sequence[str] = ()) -> None:
    """Check before the work that ``path`` can be written, in an existing folder. Raises RequestError if not.

    With ``endings``, a file is replaced only if its name has one of them: ``--csv *.jpg`` names a photo.
    """
    named = f"{option} {path}".lstrip()
    try:
        if path.is_dir():
            raise RequestError(f"{named} is a folder; give the name of a file")
        if not path.absolute().parent.is_dir():
            raise RequestError(f"{named}: there is no folder {path.parent}")
        if endings and path.is_file() and path.suffix.lower() not in endings:
            raise RequestError(f"{named} exists and is not named as a {endings[0]} file; give another name")
        if not is_device(path):
            path.with_name(f".{path.name}.12345678.part").exists()  # raises OSError if the name is too long
            check_folder(path.absolute().parent, f"{named}: the folder")
    except OSError as error:
        raise RequestError(f"{named} cannot be written: {error.strerror or error}") from None


def check_output(out: Path, inputs: Iterable[Path], *, folder: bool, overwrite: bool) -> None:
    """Check before the work that weights can be written to ``out``, a file or (``folder``) a folder.

    Raises RequestError if it is one of the inputs, exists and may not be replaced, or cannot be written.
    """
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise RequestError(f"{out} is the input too; give another OUT")
    check_folder(out if folder and out.is_dir() else out.absolute().parent, f"{out}: the folder")
    if not out.exists() and not out.is_symlink():
        return
    if folder != out.is_dir():
        raise RequestError(f"{out} is {'not a folder' if folder else 'a folder'}; give another OUT")
    if not overwrite and not (folder and not any(out.iterdir())):
        raise RequestError(f"{out} exists; --overwrite replaces {'its files' if folder else 'it'}")


def check_output_directory(directory: Path, files: Sequence[str], kind: str) -> None:
    """Check that the results ``files``, the first of which is JSON of the format ``kind``, can be in ``directory``.

    It may not exist yet and is not created. Raises RequestError if it cannot be written, or holds files of these names
    that are not such results.
    """
    try:
        check_folder(directory)
        there = [name for name in files if (directory / name).exists()]
        if there and read_result(directory / files[0], kind) is None:
            raise RequestError(f"{directory} contains {there[0]}, which resnext did not write; choose another --out")
    except OSError as error:
        raise RequestError(f"{directory} cannot be written: {error.strerror or error}") from None


def read_result(path: Path, kind: str) -> dict[str, Any] | None:
    """Read a JSON result of the format ``kind``; None if ``path`` is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and values.get("format") == kind else None


def is_device(path: Path) -> bool:
    """Whether the path exists and is neither a file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


def sync_folder(folder: Path) -> None:
    """Flush ``folder`` to disk so that a rename inside survives a power failure (POSIX only)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
