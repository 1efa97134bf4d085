"""What the check of one image file gives."""

from dataclasses import dataclass, field

import numpy as np

from resnext.data.decode.pillow import ImageInfo
from resnext.data.tools.findings import Finding

Problem = tuple[str, str, str]  # severity, name, detail

MAX_COMPARED = 50_000  # files whose pictures are compared; comparing all pairs of more takes minutes, and gigabytes


@dataclass(frozen=True)
class CheckedFile:
    """A file of the data set; ``path`` is relative to the root. ``split`` and ``class_name`` may be empty."""

    path: str
    split: str
    class_name: str

    def to_finding(self, problem: Problem) -> Finding:
        """Return a problem of this file as a finding."""
        return Finding(self.path, self.class_name, self.split, *problem)


@dataclass(frozen=True)
class Inspection:
    """Result of checking one file. The digests are empty if the file cannot be decoded."""

    file: CheckedFile
    problems: tuple[Problem, ...]
    content_digest: bytes = b""  # digest of the file's bytes
    pixel_digest: bytes = b""  # digest of the decoded pixels
    size: tuple[int, int] = (0, 0)  # width and height of the decoded pixels
    info: ImageInfo | None = None
    small_picture: np.ndarray | None = field(default=None, compare=False)  # uint8 [S, S, 3], to find near-duplicates
