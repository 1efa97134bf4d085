"""Files that appear whole or not at all, through kills, full disks and power cuts."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from resnext.errors import WorkError


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

    Raises WorkError when the disk refuses; the old file is then still there.
    """
    temporary = ""
    with disk_named(path, "; what stood there before is intact"):
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
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
