"""Public weights files: content, licence and published errors, and which of them a network comes from.

The list is in ``released.json``. The first error of a file was measured with the default preprocessing of its library,
so it also gives the preprocessing of the network. A network is identified by its file, which its provenance notes.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from resnext.files import compute_sha256
from resnext.settings import Interpolation
from resnext.weights.hub import NAME_WITH_CHECKSUM, is_remote
from resnext.weights.readers.detect_format import WEIGHTS_FILE_NAMES

FREE_LICENCES = ("bsd-3-clause", "apache-2.0", "mit")  # also for commercial use
MIB = 1 << 20
MIB_TOLERANCE = 0.001  # MiB; published sizes have three decimals
SIZE_TOLERANCE = 1.0  # MiB; of files without a checksum, whose published sizes are whole MiB
# provenance keys of modified, fine-tuned, trained, pruned and grown networks
CHANGE_KEYS = ("changed", "init", "step", "prune", "grow")


@dataclass(frozen=True, kw_only=True)
class PublishedError:
    """A published error in percent, with the data, the preprocessing (pixels) and the source."""

    top1_error: float
    top5_error: float | None
    data: str
    image_size: int
    resize: int
    interpolation: Interpolation
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
    """One public file; ``is_certain`` is False if it was matched without its checksum."""

    name: str
    architecture: str
    format: str
    licence: str
    figures: tuple[PublishedError, ...]
    url: str | None = None
    hub: str | None = None
    mib: float | None = None
    sha256: str | None = None  # the digits that are published
    note: str | None = None
    is_certain: bool = True

    @property
    def address(self) -> str | None:
        """Where the file can be downloaded: its URL if a checksum is published with it, else its hub id."""
        has_checksum = self.url is not None and NAME_WITH_CHECKSUM.fullmatch(self.url.rpartition("/")[2]) is not None
        return self.url if has_checksum or self.hub is None else f"hf://{self.hub}"

    @property
    def short_name(self) -> str | None:
        """The name that ``find_pretrained`` takes, such as resnext50_32x4d.tv2_in1k."""
        return None if self.hub is None else self.hub.rpartition("/")[2]

    def matches_size(self, size: int) -> bool:
        """Return whether a size in bytes matches the published size."""
        return self.mib is not None and abs(size / MIB - self.mib) <= MIB_TOLERANCE


@cache
def load_released() -> tuple[ReleasedFile, ...]:
    """Load all entries of released.json."""
    entries = json.loads(files("resnext").joinpath("weights", "released.json").read_text(encoding="utf-8"))
    for entry in entries:
        entry["figures"] = tuple(PublishedError(**figure) for figure in entry["figures"])
    return tuple(ReleasedFile(**entry) for entry in entries)


def find_pretrained(name: str) -> ReleasedFile | None:
    """Find public weights by the name of a network, such as resnext50_32x4d or resnext50_32x4d.a1_in1k.

    Of a network alone, those are taken whose licence is free, with a published checksum and the lowest published error.
    None if there are none of this name.
    """
    exact = next((entry for entry in load_released() if entry.short_name == name), None)
    usable = [
        entry
        for entry in load_released()
        if entry.architecture == name and entry.licence in FREE_LICENCES and entry.sha256 and entry.figures
    ]
    return exact or min(usable, key=lambda entry: entry.figures[0].top1_error, default=None)


def find_address(source: str) -> str:
    """Return where the public weights of this name are; ``source`` itself if it exists, or is no such name."""
    if is_remote(source) or os.path.exists(source):
        return source
    found = find_pretrained(source)
    return source if found is None or found.address is None else found.address


@dataclass(frozen=True)
class Origin:
    """What is known about the file that weights came from."""

    format: str | None = None
    file: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    hub: str | None = None
    url: str | None = None

    def to_dict(self) -> dict[str, str | int]:
        """Return the plain values that provenance stores under ``source``."""
        return {name: value for name, value in vars(self).items() if value is not None}


def identify_released(
    provenance: Mapping[str, object], path: Path | str, architecture: str = ""
) -> ReleasedFile | None:
    """Find the public file that holds exactly this network; None if there is none, or if the network was changed."""
    return identify_source(provenance, path, architecture) if is_unchanged(provenance) else None


def is_unchanged(provenance: Mapping[str, object]) -> bool:
    """Whether a network is still as its file stores it, so that what was published for the file holds for it too."""
    return not any(provenance.get(key) for key in CHANGE_KEYS)


def identify_source(provenance: Mapping[str, object], path: Path | str, architecture: str = "") -> ReleasedFile | None:
    """Find the public file, also for a network that was changed or trained: the file's licence still applies.

    ``path`` is what the network was loaded from, used if ``provenance`` has no source. Files match by hub id, by URL,
    or by SHA-256; without a published checksum by format, ``architecture``, and size or name, which is not certain.
    """
    start = provenance.get("init")
    if isinstance(start, Mapping):  # a run that started from these weights
        provenance, path = start, str(start.get("weights"))
    origin = find_origin(provenance, path)
    for entry in load_released():
        if (origin.hub is not None and origin.hub == entry.hub) or (origin.url is not None and origin.url == entry.url):
            return entry
    for entry in load_released():
        if entry.sha256 is not None and (origin.sha256 or "").startswith(entry.sha256):
            fits = entry.mib is None or origin.bytes is None or entry.matches_size(origin.bytes)
            return entry if fits else None
    if origin.hub is None:
        for entry in load_released():
            if _is_likely_match(entry, origin, architecture):
                return replace(entry, is_certain=False)
    return None


def find_origin(provenance: Mapping[str, object], path: Path | str) -> Origin:
    """Find where weights came from: what ``convert`` noted, else the file or address itself. Never fails."""
    noted = provenance.get("source")
    if isinstance(noted, Mapping):
        return _parse_origin(noted)
    kind, text = provenance.get("format"), str(path)
    kind = kind if isinstance(kind, str) else None
    if text.startswith("hf://"):
        return Origin(kind, hub="/".join(text.removeprefix("hf://").partition("@")[0].split("/")[:2]))
    address = text.partition("#")[0] if "://" in text else None
    return Origin(kind, url=address) if address else _describe_file(kind, Path(path))


def describe_source(provenance: Mapping[str, object], source: str, file: Path) -> Origin:
    """Describe what a network is converted from: ``file`` (or the one in this folder), and ``source`` if an address."""
    about = {"format": "resnext" if isinstance(provenance.get("source"), dict) else provenance.get("format")}
    if file.is_dir():
        file = next((file / name for name in WEIGHTS_FILE_NAMES if (file / name).exists()), file)
    found = find_origin(about, file)
    if not is_remote(source):
        return found
    address = find_origin(about, source)
    return replace(found, hub=address.hub, url=address.url)


def remove_local_paths(provenance: dict[str, Any]) -> None:
    """Remove local paths from the record of a run's initial weights; keep their origin."""
    start = provenance.get("init")
    if isinstance(start, dict) and not is_remote(weights := str(start.get("weights"))):
        source = start.get("source") or find_origin(start, weights).to_dict()
        provenance["init"] = start | {"weights": Path(weights).name, "source": source}


def _describe_file(kind: str | None, path: Path) -> Origin:
    """Describe a file by name, size and SHA-256; this reads the whole file."""
    try:
        if not path.is_file():
            return Origin(kind)
        return Origin(kind, path.name, path.stat().st_size, compute_sha256(path))
    except (OSError, ValueError):  # not a valid file name
        return Origin(kind)


def _parse_origin(values: Mapping[str, object]) -> Origin:
    """Parse an Origin from untrusted values: values of a wrong type are left out."""
    texts = {name: values.get(name) for name in ("format", "file", "sha256", "hub", "url")}
    size = values.get("bytes")
    return Origin(
        **{name: text for name, text in texts.items() if isinstance(text, str)},
        bytes=size if isinstance(size, int) and not isinstance(size, bool) else None,
    )


def _is_likely_match(entry: ReleasedFile, origin: Origin, architecture: str) -> bool:
    """Whether a file without a published checksum matches by format, network, and size or name."""
    plain = architecture.partition(" (")[0]  # without the form, which is not published
    if entry.sha256 is not None or entry.format != origin.format or entry.architecture != plain:
        return False
    if entry.mib is not None:
        return origin.bytes is not None and abs(origin.bytes / MIB - entry.mib) <= SIZE_TOLERANCE
    return entry.url is not None and origin.file == entry.url.rsplit("/", 1)[-1]
