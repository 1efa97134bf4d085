"""Check the bytes of a picture before they are decoded: its format, its size, and the work that decoding takes.

Only a few formats are accepted, each by its first bytes, and sizes come from the header. A picture that would take too
much memory or time is refused before a decoder sees it.
"""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from resnext.serving.limits import Limits
from resnext.serving.problems import ProblemError

MAX_SEGMENTS = 2000  # of a JPEG before its pixels; 20 MB of the longest ones are 305
MAX_CHUNKS = 20_000  # of a PNG; 20 MB of pixels in chunks of 4 kB are 5,000
MAX_PROFILES = 3  # of a PNG, which may have one; the letters may also be there by chance
MAX_EXIF_SEGMENTS = 20  # of a JPEG, which has one, and one in each preview; Pillow joins them, the longer the slower
NOT_FILL = re.compile(rb"[^\xff]")
FORMATS = "JPEG, PNG, WEBP and GIF"
OTHER_FORMATS = (  # offset and value of the first bytes, and what they are
    *((4, brand, "a HEIC picture") for brand in (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    *((4, brand, "an AVIF picture") for brand in (b"ftypavif", b"ftypavis")),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"II+\0", "a TIFF picture"),
    (0, b"MM\0+", "a TIFF picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"JXL \r\n", "a JPEG XL picture"),
    (4, b"jP  \r\n", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (4, b"ftyp", "a video"),
)


class PictureHeader(NamedTuple):
    """What the header of a picture says."""

    format: str  # JPEG, PNG, WEBP or GIF
    size: tuple[int, int]  # width and height as stored

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.size[0] * self.size[1]


def read_picture_header(data: bytes, limits: Limits) -> PictureHeader:
    """Read format and size, in well under a millisecond.

    Raises:
        ProblemError: 415 for another format; 422 for a picture that is broken, has no pixels or too many.

    A file may hold a second, larger size; ``check_pixels`` must be called with what the decoder found.
    """
    name, read_size = _find_format(data)
    try:
        width, height = read_size(data)
    except (struct.error, IndexError, ValueError):
        raise ProblemError(422, f"the {name} picture is cut off or damaged: it has no size", "unreadable") from None
    if width < 1 or height < 1:
        raise ProblemError(422, f"the {name} picture has no pixels: {width} x {height}", "unreadable")
    check_pixels((width, height), limits)
    return PictureHeader(name, (width, height))


def check_pixels(size: tuple[int, int], limits: Limits) -> None:
    """Raise ProblemError (422) if a picture of this width and height has too many pixels."""
    width, height = size
    if width * height > limits.picture_pixels:
        most = limits.picture_pixels // 1_000_000
        raise ProblemError(
            422, f"the picture has {width} x {height} pixels; at most {most} million are accepted", "pixels"
        )


def check_work(data: bytes, header: PictureHeader, limits: Limits) -> None:
    """Refuse a picture whose decoding takes seconds to hours though it has few pixels.

    Each scan of a JPEG goes through all pixels, and can be a few bytes long; Pillow reads each chunk of a PNG in
    Python, and unpacks each colour profile, 16 kB to 16 MB. Takes up to 10 ms, so it does not belong on the event
    loop. Raises ProblemError (422).
    """
    if header.format == "PNG":
        if data.count(b"iCCP") > MAX_PROFILES:  # wherever they are: Pillow can be made to find chunks within others
            raise ProblemError(422, "the PNG picture has several colour profiles", "chunks")
        at = 8
        for _ in range(MAX_CHUNKS):
            if at + 8 > len(data):
                return
            at += 12 + int.from_bytes(data[at : at + 4])
        raise ProblemError(422, f"the PNG picture has more than {MAX_CHUNKS} chunks", "chunks")
    if header.format != "JPEG":
        return
    if data.count(b"Exif\0\0") > MAX_EXIF_SEGMENTS:
        raise ProblemError(422, f"the JPEG picture has more than {MAX_EXIF_SEGMENTS} parts of EXIF", "chunks")
    scans = data.count(b"\xff\xda")  # in the compressed data, the byte FF is followed by 00
    if scans > limits.scans and scans * header.pixels > limits.scan_pixels:
        raise ProblemError(422, f"the JPEG picture has {scans} scans, too many to decode at its size", "scans")


def _find_format(data: bytes) -> tuple[str, Callable[[bytes], tuple[int, int]]]:
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG", _read_jpeg_size
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG", _read_png_size
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", _read_webp_size
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF", _read_gif_size
    if not data:
        raise ProblemError(422, "the picture is empty: no bytes were sent", "unreadable")
    raise ProblemError(415, f"{_describe_other(data)}; send one of {FORMATS}", "format")


def _describe_other(data: bytes) -> str:
    for at, magic, what in OTHER_FORMATS:
        if data[at : at + len(magic)] == magic:
            return f"this is {what}, which is not accepted"
    head = data[:512].lstrip().lower()
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "this is an SVG drawing, not a picture of pixels"
    if head.startswith((b"<!doctype html", b"<html")):
        return "this is a web page, not a picture"
    return "this is not a picture in a known format"


def _read_png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ValueError
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _read_gif_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _read_jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk through the segments to the compressed data; they are few, as Pillow reads each in Python."""
    at, size = 2, None
    for _ in range(MAX_SEGMENTS):
        if data[at] != 0xFF:
            at = data.index(b"\xff", at)  # as decoders do, skip what is between segments
        fill = NOT_FILL.search(data, at)  # any number of bytes FF may stand before a marker
        if fill is None:
            break
        marker, at = data[fill.start()], fill.end()
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # markers without a length
            continue
        if marker == 0xDA and size is not None:
            return size
        if marker in (0xD9, 0xDA):  # the end, or compressed data before any frame
            break
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            if size is None or width * height > size[0] * size[1]:
                size = width, height
        at += length
    raise ValueError


def _read_webp_size(data: bytes) -> tuple[int, int]:
    """Read the size of the canvas (VP8X) or of the only frame (VP8, VP8L)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        if data[20] != 0x2F:
            raise ValueError
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError
