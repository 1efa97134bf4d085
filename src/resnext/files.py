"""Files that appear whole or not at all, through kills, full disks and power cuts; and places they can go to."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from resnext.errors import RequestError, WorkError


@contextmanager
def disk_named(path: Path, remark: str = "") -> Iterator[None]:
    """Within, a disk that refuses is a WorkError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise WorkError(f"{path} could not be written: {error.strerror or error}{remark}") from None


@contextmanager
def written_whole(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write ``path`` by a temporary file, fsync and rename: readers see the old file or the new one, never a part.

    A device or a pipe (``/dev/null``, ``>(command)``) is written to as it is. Raises WorkError when the disk refuses;
    the old file is then still there.
    """
    temporary = ""
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with disk_named(path):
        if _is_device(path):
            with open(path, mode, **text) as file:
                yield file
            return
    with disk_named(path, "; what stood there before is intact"):
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            with os.fdopen(handle, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise


def check_folder(folder: Path, option: str = "") -> None:
    """Raise RequestError unless files can be put into ``folder``, which need not be there yet and is left as it is.

    To be called before the work whose results go there; ``option`` is what the user gave the folder by.
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


def check_file(path: Path, option: str = "") -> None:
    """Raise RequestError unless ``path`` can be written, in a folder that is there. To be called before the work."""
    named = f"{option} {path}".lstrip()
    try:
        if path.is_dir():
            raise RequestError(f"{named} is a folder; give the name of a file")
        if not path.absolute().parent.is_dir():
            raise RequestError(f"{named}: there is no folder {path.parent}")
        if not _is_device(path):
            path.with_name(f".{path.name}.12345678.part").exists()  # raises where the name would be too long
            check_folder(path.absolute().parent, f"{named}: the folder")
    except OSError as error:
        raise RequestError(f"{named} cannot be written: {error.strerror or error}") from None


def _is_device(path: Path) -> bool:
    """Whether there is something that is neither a file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` last through a power cut, where folders can be synchronised."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
