import io
import random
import struct
import zlib

import pytest
from PIL import Image

from resnext.serving.decoding import decode_picture
from resnext.serving.limits import Limits
from resnext.serving.pictures import check_work, read_picture_header
from resnext.serving.problems import ProblemError
from resnext.serving.served_model import ServedModel
from tests.serving.fakes import FakeClassifier

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
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9) + b"\xff\xda"


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
    check_work(data, header, LIMITS)
    with pytest.raises(ProblemError, match=r"100.. scans"):
        check_work(data[:-2] + b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0" * 10_000 + data[-2:], header, LIMITS)


def test_a_small_jpeg_may_have_many_scans():
    data = encode("JPEG", (100, 100))
    check_work(data + b"\xff\xda" * 100, read_picture_header(data, LIMITS), LIMITS)


def test_a_second_frame_does_not_hide_the_larger_size():
    data = make_jpeg(8, 8)[:-2] + make_jpeg(65_500, 65_500)[2:]
    assert "65500 x 65500" in refuse(data).detail


def test_files_of_thousands_of_small_parts_are_refused():
    png, jpeg = encode("PNG", (9, 9)), encode("JPEG", (9, 9))
    many = png[:33] + (b"\0\0\0\x03tEXtk\0v" + bytes(4)) * 100_000 + png[33:]
    with pytest.raises(ProblemError, match="chunks"):
        check_work(many, read_picture_header(many, LIMITS), LIMITS)
    check_work(png, read_picture_header(png, LIMITS), LIMITS)
    frame = jpeg.index(b"\xff\xc0")
    for at in (2, frame, jpeg.index(b"\xff\xda")):
        assert refuse(jpeg[:at] + b"\xff\xfe\0\x02" * 10_000 + jpeg[at:]).status == 422


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_pictures_are_read_or_refused_and_nothing_else(count):
    kinds = [("JPEG", "RGB", {}), ("JPEG", "CMYK", {"progressive": True}), ("PNG", "RGBA", {}), ("PNG", "P", {})]
    kinds += [("PNG", "I;16", {}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}), ("GIF", "P", {})]
    pictures = [encode(kind, (50, 40), mode, **options) for kind, mode, options in kinds]
    model, chance, statuses = ServedModel("colors", FakeClassifier()), random.Random(0), set()
    for _ in range(count):
        data = bytearray(chance.choice(pictures))
        for _ in range(chance.choice((1, 2, 8))):
            at, width = chance.randrange(len(data)), chance.randrange(1, 9)
            data[at : at + width * chance.randrange(2)] = chance.randbytes(width * chance.randrange(2))
        try:
            header = read_picture_header(bytes(data), LIMITS)
            assert decode_picture(model, bytes(data), header, LIMITS).pixels.shape == (8, 8, 3)
            statuses.add(200)
        except ProblemError as problem:
            statuses.add(problem.status)
    assert statuses == {200, 415, 422}
