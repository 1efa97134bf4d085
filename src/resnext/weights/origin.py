"""Identify which public weights file of ``weights/released.py`` a network comes from, also after conversion."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnext.data.files.download import compute_sha256
from resnext.weights.released import MIB, ReleasedFile, load_released

SIZE_TOLERANCE = 1.0  # MiB; published sizes are whole MiB
CHANGE_KEYS = ("changed", "init", "step")  # provenance keys of modified, fine-tuned and trained networks


@dataclass(frozen=True)
class Origin:
    """What is known about the file that weights came from."""

    format: str | None = None
    file: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    hub: str | None = None
    url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values that provenance stores under ``source``."""
        return {name: value for name, value in vars(self).items() if value is not None}


def identify_released(provenance: Mapping[str, Any], path: Path | str, architecture: str = "") -> ReleasedFile | None:
    """Find the public file that holds exactly this network; None if there is none, or if the network was changed.

    ``path`` is what the network was loaded from, used if ``provenance`` has no source. ``architecture`` is its name.
    Files match by hub id, by URL, or by size and SHA-256. Files without a published checksum match by format,
    architecture, and size or name; such a match is not certain.
    """
    return identify_source(provenance, path, architecture) if is_unchanged(provenance) else None


def is_unchanged(provenance: Mapping[str, Any]) -> bool:
    """Whether a network is still as its file stores it, so that what was published for the file holds for it too."""
    return not any(provenance.get(key) for key in CHANGE_KEYS)


def identify_source(provenance: Mapping[str, Any], path: Path | str, architecture: str = "") -> ReleasedFile | None:
    """Find the public file, also for a network that was changed or trained: the file's licence still applies."""
    start = provenance.get("init")
    if isinstance(start, Mapping):  # a run that started from these weights
        provenance, path = start, str(start.get("weights"))
    origin = find_origin(provenance, path)
    for entry in load_released():
        if (origin.hub is not None and origin.hub == entry.hub) or (origin.url is not None and origin.url == entry.url):
            return entry
    for entry in load_released():
        if entry.sha256 is not None and origin.sha256 is not None and origin.sha256.startswith(entry.sha256):
            fits = entry.mib is None or origin.bytes is None or entry.matches_size(origin.bytes)
            return entry if fits else None
    if origin.hub is None:
        for entry in load_released():
            if _is_likely_match(entry, origin, architecture):
                return replace(entry, is_certain=False)
    return None


def find_origin(provenance: Mapping[str, Any], path: Path | str) -> Origin:
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


def _describe_file(kind: str | None, path: Path) -> Origin:
    """Describe a file by name, size and SHA-256; this reads the whole file."""
    try:
        if not path.is_file():
            return Origin(kind)
        return Origin(kind, path.name, path.stat().st_size, compute_sha256(path))
    except (OSError, ValueError):  # not a valid file name
        return Origin(kind)


def _parse_origin(values: Mapping[str, Any]) -> Origin:
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
