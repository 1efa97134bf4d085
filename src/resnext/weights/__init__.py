"""Weights on disk: one reader a format."""

from pathlib import Path
from typing import TYPE_CHECKING

from resnext.errors import RequestError
from resnext.run_directory import RunDirectory, is_run

if TYPE_CHECKING:
    from resnext.model.network import Network


def load(path: Path | str, checkpoint: str = "best") -> "Network":
    """The network in a weights file or in a run directory, in eval mode, with ``.preprocessing`` and ``.classes``.

    Of a run directory, ``checkpoint`` says which: "best" or "last". Raises RequestError for what cannot be read.
    """
    from resnext.weights.native import load_native

    path = Path(path)
    if not path.exists():
        raise RequestError(f"there is no weights file or run directory {path}")
    return load_native(RunDirectory(path).weights(checkpoint) if is_run(path) else path)
