"""The list of public weights files: content, licence and published errors of each.

The list is in ``released.json``. Every published error has its protocol and its source. The first error of a
file was measured with the default preprocessing of its library, so it also gives the preprocessing of the network.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MIB = 1 << 20
MIB_TOLERANCE = 0.001  # MiB; published sizes have three decimals


@dataclass(frozen=True, kw_only=True)
class PublishedError:
    """A published error in percent, with the data, the preprocessing (pixels) and the source."""

    top1_error: float
    top5_error: float | None
    data: str
    image_size: int
    resize: int
    interpolation: str
    source: str

    @property
    def protocol(self) -> str:
        """Data, preprocessing and source in one line."""
        return (
            f"{self.data} · shorter side {self.resize}, centre crop {self.image_size}×{self.image_size}, "
            f"{self.interpolation} · {self.source}"
        )

    @property
    def summary_line(self) -> str:
        """The error with its protocol in one line."""
        top5 = "" if self.top5_error is None else f", top-5 {self.top5_error:.2f} %"
        return f"top-1 error {self.top1_error:.2f} %{top5} · {self.protocol}"


@dataclass(frozen=True, kw_only=True)
class ReleasedFile:
    """One public file.

    ``sha256`` has only the digits that are published. ``is_certain`` is False for a file that was matched without its
    checksum.
    """

    name: str
    architecture: str
    format: str
    licence: str
    figures: tuple[PublishedError, ...]
    url: str | None = None
    hub: str | None = None
    mib: float | None = None
    sha256: str | None = None
    note: str | None = None
    is_certain: bool = True

    def matches_size(self, size: int) -> bool:
        """Return whether a size in bytes matches the published size, which has three decimals of a MiB."""
        return self.mib is not None and abs(size / MIB - self.mib) <= MIB_TOLERANCE


@cache
def load_released() -> tuple[ReleasedFile, ...]:
    """Load all entries of released.json."""
    entries = json.loads(files("resnext").joinpath("weights", "released.json").read_text(encoding="utf-8"))
    return tuple(
        ReleasedFile(**entry | {"figures": tuple(PublishedError(**f) for f in entry["figures"])}) for entry in entries
    )
