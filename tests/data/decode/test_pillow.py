"""Decoding image files, compared with Pillow and torchvision."""

import io
import os
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torchvision.datasets.folder import pil_loader

from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import (
    FORMATS,
    IMAGE_EXTENSIONS,
    MAX_PIXELS,
    detect_image_format,
    read_image,
    read_image_with_info,
)
from tests.data.sample_images import make_image

picture = partial(make_image, 9, 6)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


MODES = {  # what Pillow writes into each
    ".jpg": "1 L RGB CMYK", ".jpeg": "L", ".png": "1 L LA P RGB RGBA", ".ppm": "L RGB", ".pgm": "L",
    ".bmp": "1 L P RGB RGBA", ".tif": "1 L LA P RGB RGBA CMYK", ".tiff": "RGB",
    ".webp": "L P RGB RGBA", ".gif": "1 L P RGB RGBA", ".jfif": "L", ".jpe": "RGB CMYK", ".apng": "P RGBA",
    ".pnm": "RGB", ".pbm": "1",
}  # fmt: skip


@pytest.mark.parametrize(("extension", "mode"), [(e, mode) for e in IMAGE_EXTENSIONS for mode in MODES[e].split()])
def test_every_format_and_mode_is_read_as_torchvision_reads_it(tmp_path: Path, extension: str, mode: str) -> None:
    path = tmp_path / f"a{extension}"
    picture().convert(mode).save(path)
    found = read_image(path, 3)
    assert found.mode == "RGB"
    assert found.tobytes() == pil_loader(path).tobytes()
    assert read_image(path, 1).mode == "L"


def test_a_transparent_palette_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    image = picture().convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    with Image.open(tmp_path / "a.png") as opened:
        expected = opened.convert("RGBA").convert("RGB").tobytes()
    assert read_image(tmp_path / "a.png").tobytes() == expected


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, extension: str) -> None:
    values = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / f"a{extension}")
    for channels in (1, 3):
        found = np.asarray(read_image(tmp_path / f"a{extension}", channels)).reshape(6, 8, -1)[..., 0]
        np.testing.assert_array_equal(found, np.round(values / 257))
    assert read_image_with_info(tmp_path / f"a{extension}")[1].high_bit_depth


def tiff(bits: int, pixels: bytes, *, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A grey TIFF of 4 x 2 pixels written by hand, for what Pillow does not write."""
    tags = {256: 4, 257: 2, 258: bits, 259: 1, 262: photometric, 273: 142, 277: 1, 278: 2}
    tags |= {279: len(pixels), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(142, b"\0") + pixels


def test_grey_of_a_tiff_whose_0_is_white_is_inverted_at_16_bits_as_at_8() -> None:
    values = np.array([0, 257, 514, 32896, 40000, 65278, 65534, 65535], "<u2")
    deep = np.asarray(read_image(io.BytesIO(tiff(16, values.tobytes(), photometric=0)), 1))
    np.testing.assert_array_equal(deep.ravel(), np.rint(255 - values / 257))
    shallow = np.asarray(read_image(io.BytesIO(tiff(8, bytes(range(8)), photometric=0)), 1))
    np.testing.assert_array_equal(shallow.ravel(), 255 - np.arange(8))


def test_grey_of_12_bits_uses_the_whole_range() -> None:
    values = [0, 16, 1000, 2048, 2056, 4000, 4094, 4095]
    packed = b"".join(
        bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in zip(values[::2], values[1::2], strict=True)
    )
    found = np.asarray(read_image(io.BytesIO(tiff(12, packed)), 1)).ravel()
    np.testing.assert_array_equal(found, np.rint(np.array(values) * 255 / 4095))


@pytest.mark.parametrize(
    ("bits", "sample_format", "says"), [(32, 1, "32-bit pixels"), (32, 2, "32-bit|signed"), (16, 2, "signed pixels")]
)
def test_grey_of_no_known_scale_is_refused_rather_than_turned_black(bits: int, sample_format: int, says: str) -> None:
    values = np.arange(0, 256, 36, f"<i{bits // 8}")  # which would end as 0 and 1
    with pytest.raises(BadImageError, match=f"({says}).* no known scale"):
        read_image(io.BytesIO(tiff(bits, values.tobytes(), sample_format=sample_format)))


@pytest.mark.parametrize("large", ["text", "profile"])
def test_a_png_with_megabytes_of_text_or_profile_is_read(tmp_path: Path, large: str) -> None:
    text = PngInfo()
    text.add_text("prompt", "x" * 3_000_000, zip=True)
    extra: dict[str, object] = {"pnginfo": text} if large == "text" else {"icc_profile": b"profile" * 500_000}
    picture().save(tmp_path / "a.png", **extra)
    assert read_image(tmp_path / "a.png").tobytes() == picture().tobytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"anything else", "not an image in any of the formats JPEG, PNG"),
    ],
)
def test_what_is_no_image_of_ours_is_called_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    for file in (tmp_path / "a.jpg", io.BytesIO(content)):
        with pytest.raises(BadImageError, match=says):
            read_image(file)


def test_damaged_tags_and_large_pictures_say_nothing_on_the_terminal(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description that the tag will say is longer than the file"
    picture().save(tmp_path / "a.jpg", exif=exif)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    at = content.index(b"\x01\x0e\x00\x02") + 4
    content[at : at + 4] = struct.pack(">I", 1 << 22)
    (tmp_path / "a.jpg").write_bytes(content)
    Image.new("1", (11_000, 9_000)).save(tmp_path / "b.png")
    script = (
        "import sys; from resnext.data.decode.pillow import read_header; [read_header(path) for path in sys.argv[1:]]"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "a.jpg", "b.png"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_pgm_with_1000_levels_uses_the_whole_range(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 1000\n" + struct.pack(">3H", 0, 500, 1000))
    image, facts = read_image_with_info(tmp_path / "a.pgm", 1)
    assert list(image.tobytes()) == [0, 128, 255]
    assert facts.high_bit_depth


def test_16_bit_colour_is_known_as_such() -> None:
    rows = b"\0" + struct.pack(">6H", 0, 257, 65535, 256, 512, 32768)
    image, facts = read_image_with_info(io.BytesIO(png(2, 1, 16, 2, rows)))
    assert list(image.tobytes()) == [0, 1, 255, 1, 2, 128]
    assert facts.high_bit_depth
    assert not read_image_with_info(io.BytesIO(png(1, 1, 8, 2, b"\0abc")))[1].high_bit_depth


def test_floating_point_pixels_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadImageError, match=r"a\.tif.*floating-point"):
        read_image(tmp_path / "a.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(BadImageError, match="no known scale"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif"])
def test_exif_turns_pictures_as_pillow_does(tmp_path: Path, extension: str, orientation: int) -> None:
    path = tmp_path / f"a{extension}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(path, exif=exif)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        assert upright is not None
        expected = upright.convert("RGB")
    found, facts = read_image_with_info(path, exif=True)
    assert found.size == expected.size
    assert found.tobytes() == expected.tobytes()
    assert facts.orientation == orientation
    assert ImageOps.exif_transpose(found).tobytes() == found.tobytes()  # no tag is left to be applied again
    if extension != ".tif":
        assert read_image(path, exif=False).size == (9, 6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_spoil_the_pixels(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").size == (9, 6)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".ppm", ".tif", ".webp"])
def test_a_truncated_file_is_named(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    make_image(64, 64).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(BadImageError, match=str(path)) as caught:
        read_image(path)
    assert caught.value.path == str(path)


def test_no_file_empty_file_text_and_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons = {"none": "No such file", "empty": "is empty", "page": "web page", "folder": "regular", "pipe": "regular"}
    for name, reason in reasons.items():
        with pytest.raises(BadImageError, match=rf"{name}\.jpg: .*{reason}"):
            read_image(tmp_path / f"{name}.jpg")


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(BadImageError, match="pixels"):
        read_image(io.BytesIO(png(side, side, 8, 0, b"")))


def test_bytes_are_named_by_the_caller() -> None:
    with pytest.raises(BadImageError, match=r"upload\.png"):
        read_image(io.BytesIO(b"nothing"), name="upload.png")


def test_the_format_is_told_by_content(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png", format="JPEG")
    assert detect_image_format(str(tmp_path / "a.png")) == "JPEG"
    assert detect_image_format(str(tmp_path / "none")) == ""


def test_frames_are_counted_and_the_first_is_used(tmp_path: Path) -> None:
    frames = [picture(seed=i) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, facts = read_image_with_info(tmp_path / "a.gif")
    assert facts.frames == 3
    assert image.tobytes() == pil_loader(tmp_path / "a.gif").tobytes()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150)
@given(data=st.data(), kind=st.sampled_from(FORMATS))
def test_damaged_bytes_are_a_bad_image_at_least_wherever_torchvision_fails(data: st.DataObject, kind: str) -> None:
    buffer = io.BytesIO()
    make_image(24, 24).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        expected = Image.open(io.BytesIO(content), formats=FORMATS).convert("RGB")
    except Exception:
        expected = None
    for read in (read_image, lambda file: read_image_with_info(file)[0]):
        try:
            image = read(io.BytesIO(content))
        except BadImageError:
            continue
        assert expected is not None
        assert image.mode == "RGB"
        assert sorted(image.size) == sorted(expected.size)


def test_a_broken_stream_is_not_hidden_by_looking_for_exif() -> None:
    rows = (b"\0" + bytes(range(120))) * 40
    content = bytearray(png(40, 40, 8, 2, rows))
    content[70] ^= 0xFF  # within the compressed pixels
    for exif in (True, False):
        with pytest.raises(BadImageError, match="broken data stream"):
            read_image(io.BytesIO(content), exif=exif)
