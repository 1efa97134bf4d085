import io
import struct
import zlib

import pytest
from PIL import Image

from resnext.serving.limits import Limits
from resnext.serving.pictures import check_scans, read_picture_header
from resnext.serving.problems import ProblemError

LIMITS = Limits()


def encode(kind: str, size: tuple[int, int], mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + b"\xff\xc0\0\x11\x08" * 999}),  # a frame marker inside of a tag
        ("JPEG", {"icc_profile": b"\xff\xda" * 40_000}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
        ("GIF", {}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (37, 1200), (1200, 37)])
def test_format_and_size_are_those_that_pillow_reads(kind, options, size):
    header = read_picture_header(encode(kind, size, **options), LIMITS)
    assert tuple(header) == (kind, size)
    assert header.pixels == size[0] * size[1]


def make_png(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def make_jpeg(width: int, height: int) -> bytes:
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)


def refuse(data: bytes) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        read_picture_header(data, LIMITS)
    return caught.value


@pytest.mark.parametrize(
    "bomb",
    [
        make_png(50_000, 50_000),
        make_jpeg(65_500, 65_500),
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2,  # 16383 x 16383
        b"GIF89a" + struct.pack("<HH", 65_535, 65_535),
    ],
)
def test_bombs_are_refused_by_their_header(bomb):
    problem = refuse(bomb)
    assert problem.status == 422
    assert "at most 64 million" in problem.detail


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 422, "empty"),
        (b"\0\0\0\x18ftypheic" + bytes(40), 415, "HEIC"),
        (b"\0\0\0\x18ftypavif" + bytes(40), 415, "AVIF"),
        (b"BM" + bytes(60), 415, "BMP"),
        (b"II*\0" + bytes(60), 415, "TIFF"),
        (b"8BPS" + bytes(60), 415, "Photoshop"),
        (b"SIMPLE  =", 415, "FITS"),
        (b"PK\x03\x04" + bytes(60), 415, "ZIP"),
        (b"%PDF-1.7", 415, "PDF"),
        (b"<?xml version='1.0'?><svg>", 415, "SVG"),
        (b"<!DOCTYPE html><script>", 415, "web page"),
        (b"hello", 415, "JPEG, PNG, WEBP and GIF"),
        (b"RIFF\0\0\0\0WAVE", 415, "JPEG, PNG, WEBP and GIF"),
        (make_png(0, 5), 422, "no pixels"),
        (make_png(9, 9)[:18], 422, "cut off"),
        (b"\xff\xd8\xff", 422, "cut off"),
        (b"\xff\xd8\xff\xd9", 422, "cut off"),
        (b"\xff\xd8" + b"\xff" * 5_000_000, 422, "cut off"),
        (b"\xff\xd8" + b"\xff\xe0\0\x02" * 5_000_000, 422, "cut off"),
        (b"RIFF\0\0\0\0WEBPVP8 ", 422, "cut off"),
        (b"GIF89a", 422, "cut off"),
    ],
)
def test_what_is_no_accepted_picture_is_refused_in_words(data, status, words):
    problem = refuse(data)
    assert problem.status == status
    assert words in problem.detail
    assert "<" not in problem.detail


def test_a_jpeg_of_thousands_of_scans_is_refused_and_a_usual_one_is_not():
    data = encode("JPEG", (2000, 2000), progressive=True)
    header = read_picture_header(data, LIMITS)
    check_scans(data, header, LIMITS)
    with pytest.raises(ProblemError, match=r"100.. scans"):
        check_scans(data[:-2] + b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0" * 10_000 + data[-2:], header, LIMITS)


def test_a_small_jpeg_may_have_many_scans():
    data = encode("JPEG", (100, 100))
    check_scans(data + b"\xff\xda" * 100, read_picture_header(data, LIMITS), LIMITS)
