"""The public weights files: what each holds, under which licence, and the errors published for it.

The list lies in ``paper/released.json``, with the other published numbers. Every figure carries its protocol and its
source: an error measured otherwise is another number. The first figure of a file is for pictures prepared as its
library does by default, so it also says what the file's network expects.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MIB = 1 << 20
EXACT = 0.001  # MiB; sizes given to three digits


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A published error in percent: on which images, seen how (pixels), and who says so."""

    top1_error: float
    top5_error: float | None
    data: str
    image_size: int
    resize: int
    interpolation: str
    source: str

    @property
    def protocol(self) -> str:
        """What was measured how, and who says so, in one line."""
        return (
            f"{self.data} · shorter side {self.resize}, centre crop {self.image_size}×{self.image_size}, "
            f"{self.interpolation} · {self.source}"
        )

    @property
    def line(self) -> str:
        """The figure with its protocol, in one line."""
        top5 = "" if self.top5_error is None else f", top-5 {self.top5_error:.2f} %"
        return f"top-1 error {self.top1_error:.2f} %{top5} · {self.protocol}"


@dataclass(frozen=True, kw_only=True)
class Released:
    """One public file. ``sha256`` holds the digits that are known; ``certain`` is what recognising it said."""

    name: str
    architecture: str
    format: str
    licence: str
    figures: tuple[Figure, ...]
    url: str | None = None
    hub: str | None = None
    mib: float | None = None
    sha256: str | None = None
    note: str | None = None
    certain: bool = True

    def has_size(self, size: int) -> bool:
        """Whether so many bytes are the published size, which is known to three digits of a MiB."""
        return self.mib is not None and abs(size / MIB - self.mib) <= EXACT


@cache
def released() -> tuple[Released, ...]:
    """Every entry of released.json."""
    entries = json.loads(files("resnext").joinpath("paper", "released.json").read_text(encoding="utf-8"))
    return tuple(Released(**entry | {"figures": tuple(Figure(**f) for f in entry["figures"])}) for entry in entries)
