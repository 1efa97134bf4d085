"""Small or legal-looking pictures that take much time or memory in a careless decoder, as bytes."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

BODY = 19_900_000  # bytes: nearly the largest body that the server takes


class Bomb(NamedTuple):
    """A picture, and the statuses that an answer to it may have."""

    make: Callable[[], bytes]
    statuses: tuple[int, ...] = (422,)


def encode(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: object) -> bytes:
    """Encode a black picture with Pillow."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


GIF_HEAD, GIF_FRAME = encode("GIF", (8, 8), "P").removesuffix(b";").split(b",", 1)
GIF_FRAME = b"," + GIF_FRAME


def make_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_png(width: int, height: int, depth: int = 8, color: int = 2, rows: int | None = None) -> bytes:
    """Return a PNG of zeros, whose compressed pixels are a thousandth of what they become."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[color]
    row = bytes(1 + (width * channels * depth + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    head = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    palette = make_chunk(b"PLTE", bytes(3)) if color == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + head + palette + make_chunk(b"IDAT", data) + make_chunk(b"IEND", b"")


def insert_chunks(chunks: bytes) -> bytes:
    """Put chunks between the header and the pixels of a small PNG."""
    png = encode("PNG")
    return png[:33] + chunks + png[33:]


def insert_segments(marker: int, head: bytes, data: bytes) -> bytes:
    """Put segments between the start and the tables of a small JPEG."""
    jpeg, parts = encode("JPEG"), []
    for start in range(0, max(len(data), 1), 65_000):
        part = head + data[start : start + 65_000]
        parts.append(struct.pack(">BBH", 0xFF, marker, len(part) + 2) + part)
    return jpeg[:2] + b"".join(parts) + jpeg[2:]


def make_tags(entries: int, size: int, total: int) -> bytes:
    """Return the TIFF of EXIF tags which all say that the same bytes are theirs."""
    rows = b"".join(struct.pack("<HHII", 1 + number, 7, size, 8) for number in range(entries))
    tags = b"II*\0" + struct.pack("<IH", 8, entries) + rows + bytes(4)
    return tags + bytes(max(0, total - len(tags)))


def repeat(part: bytes, count: int | None = None) -> bytes:
    """Repeat bytes, up to the size of a body."""
    return part * (BODY // len(part) - 10 if count is None else count)


def make_riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WebP of chunks."""
    parts = [kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks]
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def make_webp(width: int, height: int, *, flags: int, chunks: bytes, still: bool = False) -> bytes:
    """Return an extended WebP with a canvas of this size and any chunks."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    head = b"VP8X" + struct.pack("<II", 10, flags) + size
    frame = encode("WEBP", (width, height))[12:] if still else b""
    body = b"WEBP" + head + chunks + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def make_webp_frames(count: int) -> bytes:
    """Return an animated WebP of small frames on a small canvas."""
    pixels = encode("WEBP", (1, 1), lossless=True)[12:]
    frame = bytes(6) + bytes(6) + (1).to_bytes(3, "little") + b"\0" + pixels
    part = b"ANMF" + struct.pack("<I", len(frame)) + frame + b"\0" * (len(frame) % 2)
    return make_webp(1, 1, flags=2, chunks=b"ANIM" + struct.pack("<IIH", 6, 0, 0) + part * count)


def make_scans(size: tuple[int, int], count: int) -> bytes:
    """Return a progressive JPEG with many scans, each a few bytes, which each go through all pixels."""
    jpeg = encode("JPEG", size, progressive=True)
    return jpeg[:-2] + b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0" * count + jpeg[-2:]


def make_apng(count: int) -> bytes:
    """Return an animated PNG of many frames."""
    png = encode("PNG", (8, 8))
    at = png.index(b"IDAT") - 4
    pixels = zlib.compress(bytes(200))
    frames, number = [make_chunk(b"acTL", struct.pack(">II", count, 0))], 0
    for _ in range(count):
        control = struct.pack(">IIIIIHHBB", number, 8, 8, 0, 0, 1, 1, 0, 0)
        frames.append(make_chunk(b"fcTL", control) + make_chunk(b"fdAT", struct.pack(">I", number + 1) + pixels))
        number += 2
    return png[:at] + frames[0] + png[at:-12] + b"".join(frames[1:]) + png[-12:]


ANY = (200, 415, 422)
BOMBS = {
    "PNG of 50,000 x 50,000": Bomb(lambda: make_png(50_000, 50_000, rows=100)),
    "PNG of 1 x 2^31-1": Bomb(lambda: make_png(1, 2**31 - 1, rows=100)),
    "WebP of 16,383 x 16,383": Bomb(lambda: make_webp(16_383, 16_383, flags=0, chunks=encode("WEBP")[12:])),
    "WebP frame larger than its canvas": Bomb(
        lambda: make_riff((b"VP8X", bytes(10)), (b"VP8L", b"\x2f" + b"\xff" * 40))
    ),
    "GIF frame larger than its screen": Bomb(
        lambda: GIF_HEAD + b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x03\x84\x8f\x05\0;"
    ),
    "GIF of 100,000 frames": Bomb(lambda: GIF_HEAD + GIF_FRAME * 100_000 + b";", (200,)),
    "GIF with a comment of 19.9 MB": Bomb(
        lambda: GIF_HEAD + b"\x21\xfe" + repeat(b"\xff" + b"a" * 255) + b"\0" + GIF_FRAME + b";"
    ),
    "GIF with 4 million comments": Bomb(lambda: GIF_HEAD + repeat(b"\x21\xfe\x01a\0") + GIF_FRAME + b";"),
    "GIF with 4 million extensions": Bomb(lambda: GIF_HEAD + repeat(b"\x21\x01\x01a\0") + GIF_FRAME + b";"),
    "GIF with a comment in parts of a byte": Bomb(
        lambda: GIF_HEAD + b"\x21\xfe" + repeat(b"\x01a") + b"\0" + GIF_FRAME + b";"
    ),
    "GIF with 19.9 MB between blocks": Bomb(lambda: GIF_HEAD + repeat(b"\0") + GIF_FRAME + b";"),
    "GIF pixels in parts of a byte": Bomb(lambda: GIF_HEAD + GIF_FRAME[:-4] + repeat(b"\x01\0") + b"\0;", ANY),
    "APNG of 9,000 frames": Bomb(lambda: make_apng(9_000), (200,)),
    "APNG of 100,000 frames": Bomb(lambda: make_apng(100_000)),
    "PNG with 1,200 profiles of 16 MB": Bomb(
        lambda: insert_chunks(repeat(make_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(16_600_000), 9)))), ANY
    ),
    "PNG with 1,200 texts of 16 MB": Bomb(
        lambda: insert_chunks(repeat(make_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(16_600_000), 9)))), ANY
    ),
    "PNG with 1,200 international texts": Bomb(
        lambda: insert_chunks(repeat(make_chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(16_600_000), 9)))),
        ANY,
    ),
    "PNG with 1.6 million chunks": Bomb(lambda: insert_chunks(repeat(make_chunk(b"teXt", b"")))),
    "PNG with EXIF of 19 MB": Bomb(
        lambda: insert_chunks(make_chunk(b"eXIf", make_tags(65_535, 900_000, 19_000_000))), ANY
    ),
    "PNG with EXIF of 65,535 tags of 290 bytes": Bomb(
        lambda: insert_chunks(make_chunk(b"eXIf", make_tags(65_535, 290, 19_000_000))), ANY
    ),
    "JPEG with EXIF of 19 MB": Bomb(
        lambda: insert_segments(0xE1, b"Exif\0\0", make_tags(65_535, 900_000, 19_000_000)), ANY
    ),
    "JPEG with EXIF of 65,535 tags of 290 bytes": Bomb(
        lambda: insert_segments(0xE1, b"Exif\0\0", make_tags(65_535, 290, 19_000_000)), ANY
    ),
    "JPEG with a profile of 19 MB": Bomb(lambda: insert_segments(0xE2, b"ICC_PROFILE\0\1\1", bytes(19_000_000)), ANY),
    "JPEG with an index of pictures": Bomb(
        lambda: insert_segments(0xE2, b"MPF\0", make_tags(5_000, 64_000, 64_900)), ANY
    ),
    "JPEG with 300 indices of pictures": Bomb(
        lambda: insert_segments(0xE2, b"MPF\0", repeat(make_tags(5_000, 64_000, 64_996)[:65_000])), ANY
    ),
    "JPEG with Photoshop's blocks": Bomb(
        lambda: insert_segments(0xED, b"Photoshop 3.0\0", repeat(b"8BIM\0\1\0\0\0\0\0\0")), ANY
    ),
    "JPEG with 19.9 MB of XMP": Bomb(
        lambda: insert_segments(0xE1, b"http://ns.adobe.com/xap/1.0/\0", repeat(b"tiff:Orientation=")), ANY
    ),
    "WebP with EXIF of 19 MB": Bomb(lambda: encode("WEBP", exif=make_tags(65_535, 290, 19_000_000)), ANY),
    "WebP with 2 million chunks": Bomb(
        lambda: make_webp(8, 8, flags=0, chunks=repeat(b"abcd\0\0\0\0"), still=True), ANY
    ),
    "WebP of 300,000 frames": Bomb(lambda: make_webp_frames(300_000), ANY),
    "JPEG of 10,000 scans": Bomb(lambda: make_scans((2_000, 2_000), 10_000)),
    "JPEG of 65,500 x 65,500": Bomb(
        lambda: b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65_500, 65_500, 3) + bytes(9) + b"\xff\xda"
    ),
    "JPEG of 2 million tables": Bomb(
        lambda: insert_segments(0xE0, b"", b"")[:2] + repeat(b"\xff\xfe\0\x02") + encode("JPEG")[2:]
    ),
    "JPEG with 2 million tables between scans": Bomb(
        lambda: (lambda jpeg: jpeg[:-2] + repeat(b"\xff\xfe\0\x02") + jpeg[-2:])(encode("JPEG", progressive=True)), ANY
    ),
    "TIFF with its directory in a circle": Bomb(lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0" + bytes(99), (415,)),
    "TIFF of 65,535 tags": Bomb(lambda: make_tags(65_535, 900_000, 19_000_000), (415,)),
}
