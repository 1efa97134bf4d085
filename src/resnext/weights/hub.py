"""Download weights to a cache: ``hf://`` names with huggingface_hub, ``https://`` URLs with our own downloader."""

import ipaddress
import re
import sys
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from resnext.data.files.download import Archive, data_folder, download
from resnext.errors import RequestError, WorkError
from resnext.files import compute_sha256
from resnext.weights.readers.detect_format import WEIGHTS_FILE_NAMES

SCHEME_PATTERN = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")
COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")
DATE_PATTERN = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"  # eight digits that are a date, not a checksum
# resnet50-0676ba61.pth
NAME_WITH_CHECKSUM = re.compile(rf".*-(?!{DATE_PATTERN}\.)(?P<sum>[0-9a-f]{{8,64}})\.[A-Za-z0-9.]+")
HUB_SYNTAX = "hf://owner/name, optionally followed by /file.safetensors and @revision"


@dataclass(frozen=True)
class HubFile:
    """The parts of an ``hf://`` name: a repository, and optionally a file and a revision."""

    repository: str
    file: str | None = None
    revision: str | None = None

    @property
    def url(self) -> str:
        """The address of the repository."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repository}"

    def make_file_url(self, name: str) -> str:
        """Make the address of one file of the repository."""
        return f"{self.url}/resolve/{self.revision or 'main'}/{name}"

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"hf://{self.repository}{file}" + (f"@{self.revision}" if self.revision else "")


def is_remote(source: str) -> bool:
    """Return whether ``source`` is a name such as ``hf://...`` or ``https://...``, not a path."""
    return SCHEME_PATTERN.match(source) is not None


def fetch(source: str) -> Path:
    """Download the weights file ``source`` unless it is cached, and return its path.

    ``hf://owner/name[/file][@revision]`` uses huggingface_hub with its cache and environment variables. ``https://``
    files are cached in the data folder and checked against ``#sha256=HEX`` or the checksum in a name such as
    ``resnet50-0676ba61.pth``. Raises RequestError for an invalid name, WorkError if the network or the disk fails.
    """
    scheme = source.partition("://")[0].lower()
    if scheme == "hf":
        return _fetch_from_hub(parse_hub_name(source))
    if scheme in ("https", "http"):
        return _fetch_from_url(source)
    raise RequestError(f"{source}: {scheme}:// is not supported; give {HUB_SYNTAX}, an https:// URL or a path")


def check_reachable(source: str, seconds: float) -> bool:
    """Check within about ``seconds`` that ``fetch`` can get an ``hf://`` name, without huggingface_hub's many tries.

    Returns whether it would be downloaded: False if it is in the cache. Raises WorkError if the server does not answer.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    wanted = parse_hub_name(source)
    names = WEIGHTS_FILE_NAMES if wanted.file is None else (wanted.file,)
    revision = wanted.revision or "main"
    if any(isinstance(try_to_load_from_cache(wanted.repository, name, revision=revision), str) for name in names):
        return False
    if constants.HF_HUB_OFFLINE:
        raise WorkError(f"{wanted} is not in the cache, and HF_HUB_OFFLINE forbids to download it")
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=seconds):
            return True
    except HTTPError:
        return True  # an answer; fetch() says what is wrong with the name
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise WorkError(f"{wanted} is not in the cache, and {constants.ENDPOINT} does not answer ({reason})") from None


def parse_hub_name(source: str) -> HubFile:
    """Parse ``hf://owner/name[/file][@revision]``."""
    body, _, revision = source.partition("://")[2].partition("@")
    parts = body.rstrip("/").split("/")
    unusable = len(parts) < 2 or any(part in ("", ".", "..") for part in parts) or "\\" in body
    if unusable or (not revision and "@" in source):
        raise RequestError(f"{source} is not a valid hub name; expected {HUB_SYNTAX}")
    if revision.endswith((".safetensors", ".bin", ".pth", ".pt")):
        raise RequestError(f"{source}: the revision comes last; expected {HUB_SYNTAX}")
    return HubFile("/".join(parts[:2]), "/".join(parts[2:]) or None, revision or None)


def _fetch_from_hub(wanted: HubFile) -> Path:
    """Download the weights, and the config.json of the same commit, to huggingface_hub's cache; check the SHA-256."""
    names = WEIGHTS_FILE_NAMES if wanted.file is None else (wanted.file,)
    weights = next((path for name in names if (path := _fetch_hub_file(wanted, name)) is not None), None)
    if weights is None:
        endings = f"; name one as hf://{wanted.repository}/FILE" if wanted.file is None else ""
        raise RequestError(f"{wanted} has no {' and no '.join(names)} ({wanted.make_file_url(names[0])}){endings}")
    folder = PurePosixPath(wanted.file or names[0]).parent
    commit = weights.parents[len(folder.parts)].name  # snapshots/COMMIT/folder/file
    _fetch_hub_file(HubFile(wanted.repository, None, commit), (folder / "config.json").as_posix())
    blob = weights.resolve()  # a large file is named by its SHA-256
    if SHA256_PATTERN.fullmatch(blob.name) and (found := compute_sha256(blob)) != blob.name:
        weights.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise WorkError(f"{wanted} has SHA-256 {found}, expected {blob.name}; it was deleted from the cache: try again")
    return weights


def _fetch_hub_file(wanted: HubFile, name: str) -> Path | None:
    """Download one file of a repository; None if the repository has no such file."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    network_error: type[Exception] = vars(hub)["HTTPError"]  # that of requests or httpx, as the hub's version uses
    by_hand = f"download {wanted.make_file_url(name)} yourself and give its path"
    known_missing = False
    try:
        cached = try_to_load_from_cache(wanted.repository, name, revision=wanted.revision or "main")
        known_missing = cached is not None and not isinstance(cached, str)
        if known_missing and COMMIT_PATTERN.fullmatch(wanted.revision or ""):
            return None
        return Path(hf_hub_download(wanted.repository, name, revision=wanted.revision))
    except hub.HFValidationError as error:
        raise RequestError(f"hf://{wanted.repository} is not a valid repository: {_shorten_message(error)}") from None
    except hub.GatedRepoError:
        raise RequestError(
            f"hf://{wanted.repository} is gated: accept its terms at {wanted.url} and set HF_TOKEN, or {by_hand}"
        ) from None
    except hub.RepositoryNotFoundError:
        raise RequestError(
            f"there is no repository {wanted.url}, or it is private and HF_TOKEN gives no access"
        ) from None
    except hub.RevisionNotFoundError:
        raise RequestError(f"{wanted.url} has no revision {wanted.revision!r}; its branches are listed there") from None
    except hub.LocalEntryNotFoundError as error:
        if known_missing:
            return None
        reason = _shorten_message(error.__cause__ or error)
        raise WorkError(f"{wanted} is not in the cache and could not be downloaded: {reason}; {by_hand}") from None
    except hub.EntryNotFoundError:
        return None
    except (hub.HfHubHTTPError, network_error, hub.OfflineModeIsEnabled, hub.FileMetadataError, OSError) as error:
        raise WorkError(f"{wanted} could not be downloaded: {_shorten_message(error)}; {by_hand}") from None


def _shorten_message(error: BaseException) -> str:
    """Return the first line of an error message, at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")[:300]


def _fetch_from_url(source: str) -> Path:
    archive, folder = parse_url(source), data_folder() / "weights"
    fresh = not (folder / archive.name).exists()
    path = download(archive, folder)
    if fresh and not archive.has_checksum:
        about = f"its SHA-256 is {compute_sha256(path)}; add #sha256=... to the URL to verify it"
        print(f"resnext: warning: {archive.url} was downloaded without a checksum to verify; {about}", file=sys.stderr)
    return path


def parse_url(source: str) -> Archive:
    """Parse an ``https://`` URL and its optional ``#sha256=HEX``. Plain http is allowed only to this machine."""
    address, _, fragment = source.partition("#")
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise RequestError(f"{source} is not a URL: {error}") from None
    if not host or re.search(r"[\s\x00-\x1f\x7f]", address):
        raise RequestError(f"{source} is not a URL: it should look like https://host/path/weights.pth")
    if parts.scheme.lower() == "http" and not _is_loopback(host):
        raise RequestError(f"{source}: http is not secure; give an https URL, or download the file yourself")
    label, _, digest = fragment.lower().partition("=")
    if fragment and not (label == "sha256" and SHA256_PATTERN.fullmatch(digest)):
        raise RequestError(f"{source}: after #, expected sha256= and 64 hexadecimal digits")
    name = PurePosixPath(unquote(parts.path)).name
    named = NAME_WITH_CHECKSUM.fullmatch(name)
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:] or "weights"
    key = sha256(address.encode("utf-8", "surrogateescape")).hexdigest()
    return Archive(address, f"{key}-{plain}", sha256=digest or (named["sum"] if named else None))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
