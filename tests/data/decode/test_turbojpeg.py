"""Crops decoded in C++ against Pillow: the same pixels within a level, the same files refused, nothing that crashes."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from resnext.data.dataset import BadImageError
from resnext.data.decode import turbojpeg
from resnext.data.decode.pillow import read_image
from resnext.data.decode.turbojpeg import CropSpec, TurboJpegDecoder
from resnext.data.transforms.color import ColorJitter, Lighting
from tests.data.jpeg_files import SAMPLINGS, crop_with_pillow, encode_jpeg, make_scene

FAST = {**os.environ, "RESNEXT_FAST": "1"}
FUZZ = Path(__file__).parents[3] / "tools" / "fuzz_jpeg.py"


def ours(decoder: TurboJpegDecoder, file: bytes, look: CropSpec, size: int) -> np.ndarray:
    out = torch.zeros(3, size, size, dtype=torch.uint8)
    assert decoder.decode_crop(file, look, out)
    return out.numpy().astype(int)


@given(data=st.data())
@settings(max_examples=300)
def test_any_crop_of_any_kind_is_pillows_to_the_bit(decoder: TurboJpegDecoder, data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    kind = {
        "quality": data.draw(st.sampled_from((20, 75, 95, 100))),
        "subsampling": data.draw(st.sampled_from(SAMPLINGS)),
        "progressive": data.draw(st.booleans()),
        "restart_marker_blocks": data.draw(st.sampled_from((0, 3))),
    }
    mode = data.draw(st.sampled_from(("RGB", "RGB", "L")))
    file = encode_jpeg(make_scene(width, height, seed=data.draw(st.integers(0, 9)), mode=mode), **kind)
    w, h = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    box = (data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h)), w, h)
    size, bicubic, flip = data.draw(st.integers(1, 70)), data.draw(st.booleans()), data.draw(st.booleans())
    if min(w, h) >= 2 * turbojpeg.MIN_PIXELS_PER_OUTPUT * size:
        return  # decoded at a half or less: see below
    got = ours(decoder, file, CropSpec(box, bicubic, flip), size)
    assert np.array_equal(got, crop_with_pillow(file, box, size, bicubic, flip))


def test_a_crop_of_its_own_size_is_pillows_to_the_bit(decoder: TurboJpegDecoder) -> None:
    for sampling in SAMPLINGS:
        for progressive in (False, True):
            file = encode_jpeg(make_scene(173, 141, seed=3), subsampling=sampling, progressive=progressive)
            for left in range(0, 40, 3):
                for top in (0, 1, 7, 8, 15, 16, 17, 33):
                    box = (left, top, 100, 100)
                    got = ours(decoder, file, CropSpec(box, True), 100)
                    assert np.array_equal(got, crop_with_pillow(file, box, 100, True, False))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("side", [300, 700, 1500])
def test_a_much_larger_crop_is_decoded_smaller_and_stays_close(
    decoder: TurboJpegDecoder, sampling: str, side: int
) -> None:
    image = make_scene(side + 90, side + 61, seed=side).filter(ImageFilter.GaussianBlur(2)).point(lambda v: 64 + v // 2)
    file, box = encode_jpeg(image, subsampling=sampling, quality=90), (33, 27, side + 5, side)
    difference = np.abs(ours(decoder, file, CropSpec(box, True), 64) - crop_with_pillow(file, box, 64, True, False))
    assert difference.max() <= 24
    assert difference.mean() <= 1


def test_real_photographs_decoded_smaller_stay_close(decoder: TurboJpegDecoder, photographs: list[bytes]) -> None:
    means = []
    for file in photographs[::4]:
        header = decoder.read_header(file)
        box, size = (0, 0, header.width, header.height), min(header.width, header.height) // 8
        got = ours(decoder, file, CropSpec(box, True), size)
        difference = np.abs(got - crop_with_pillow(file, box, size, True, False))
        assert difference.max() <= 40
        means.append(difference.mean())
    assert np.mean(means) <= 0.7
    assert np.max(means) <= 2.5


def test_real_photographs_are_pillows_to_the_bit(decoder: TurboJpegDecoder, photographs: list[bytes]) -> None:
    rng = np.random.default_rng(0)
    for file in photographs:
        width, height = Image.open(io.BytesIO(file)).size
        w, h = int(rng.integers(width // 4, min(width, 850) + 1)), int(rng.integers(height // 4, height + 1))
        box = (int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h)
        got = ours(decoder, file, CropSpec(box, True), 224)
        assert np.array_equal(got, crop_with_pillow(file, box, 224, True, False))


@given(st.permutations(("brightness", "contrast", "saturation")), st.integers(0, 1000))
@settings(max_examples=30)
def test_colours_are_those_of_jitter_and_lighting(decoder: TurboJpegDecoder, order: list[str], seed: int) -> None:
    file = encode_jpeg(make_scene(90, 80, seed=1))
    torch.manual_seed(seed)
    alphas = (0.6 + 0.8 * torch.rand(3)).tolist()
    steps = tuple(zip(order, alphas, strict=True))
    shift = torch.randn(3, dtype=torch.float64) * 0.02
    out = torch.empty(3, 37, 37)
    box = (5, 9, 70, 61)
    assert decoder.decode_crop(file, CropSpec(box, True, False, steps, shift.tolist()), out)
    plain = torch.from_numpy(ours(decoder, file, CropSpec(box, True), 37)).float() / 255
    expected = Lighting(1).apply(ColorJitter(1).apply(plain, steps), shift)
    assert torch.allclose(out, expected, atol=2e-6)


def test_a_file_cut_anywhere_is_taken_only_where_pillow_takes_it(decoder: TurboJpegDecoder) -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
        file = encode_jpeg(make_scene(40, 40), quality=60, **options)
        out = torch.empty(3, 8, 8, dtype=torch.uint8)
        for end in range(len(file)):
            if decoder.read_header(file[:end]).is_plain and decoder.decode_crop(
                file[:end], CropSpec((0, 0, 9, 9), True), out
            ):
                assert read_image(io.BytesIO(file[:end])).size == (40, 40)
        assert decoder.decode_crop(file, CropSpec((0, 0, 9, 9), True), out)


def test_what_is_no_ordinary_jpeg_is_left_to_pillow(decoder: TurboJpegDecoder) -> None:
    out = torch.empty(3, 8, 8, dtype=torch.uint8)
    image = make_scene(40, 40)
    png = io.BytesIO()
    image.save(png, "PNG")
    good = encode_jpeg(image)
    twelve_bits = good.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")
    cmyk = encode_jpeg(image.convert("CMYK"))
    for file in (b"", b"\xff", b"\xff\xd8", b"\0" * 5000, png.getvalue(), cmyk, twelve_bits):
        assert not decoder.read_header(file).is_plain
        assert not decoder.decode_crop(file, CropSpec((0, 0, 9, 9), True), out)


@pytest.mark.parametrize("box", [(-1, 0, 9, 9), (0, 0, 41, 9), (32, 0, 9, 9), (0, 0, 0, 9), (2**31 - 1, 0, 9, 9)])
def test_a_box_outside_the_picture_is_refused(decoder: TurboJpegDecoder, box: tuple[int, int, int, int]) -> None:
    out = torch.empty(3, 8, 8, dtype=torch.uint8)
    assert not decoder.decode_crop(encode_jpeg(make_scene(40, 40)), CropSpec(box, True), out)


def test_a_header_that_promises_too_much_takes_no_memory(decoder: TurboJpegDecoder) -> None:
    file = bytearray(encode_jpeg(make_scene(40, 40)))
    at = file.index(b"\xff\xc0") + 5
    file[at : at + 4] = struct.pack(">HH", 65500, 65500)
    header = decoder.read_header(bytes(file))
    assert (header.width, header.height) == (65500, 65500)
    with pytest.raises(BadImageError, match="decompression bomb"):
        read_image(io.BytesIO(bytes(file)))


def test_metadata_is_told_from_what_pillow_may_skip(decoder: TurboJpegDecoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = make_scene(20, 10)
    assert decoder.read_header(encode_jpeg(image, exif=exif)).has_metadata
    profiled = decoder.read_header(encode_jpeg(image, icc_profile=b"x" * 100))
    assert profiled.is_plain
    assert not profiled.has_metadata


def test_pillows_order_of_passes_is_known(decoder: TurboJpegDecoder) -> None:
    file, box = encode_jpeg(make_scene(50, 170, seed=4), quality=100), (0, 0, 50, 170)
    difference = ours(decoder, file, CropSpec(box, True), 60) - crop_with_pillow(file, box, 60, True, False)
    assert np.abs(difference).max() <= 1


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**FAST, **environment}, capture_output=True, text=True, timeout=300
    )


DIGEST = """
import hashlib, torch
from resnext.data.decode.turbojpeg import CropSpec, load_decoder
from tests.data.jpeg_files import encode_jpeg, make_scene
file, digest = encode_jpeg(make_scene(203, 187)), hashlib.sha256()
for dtype in (torch.uint8, torch.float32):
    for size in (33, 64, 224):
        for box in ((0, 0, 203, 187), (50, 3, 60, 180)):
            out = torch.empty(3, size, size, dtype=dtype)
            spec = CropSpec(box, True, True, (("contrast", 1.2), ("saturation", 0.7)))
            assert load_decoder().decode_crop(file, spec, out)
            digest.update(out.numpy().tobytes())
print(digest.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits(decoder: TurboJpegDecoder) -> None:  # noqa: ARG001 - compiled before
    digests = {run(DIGEST, RESNEXT_ISA=isa).stdout for isa in ("portable", "avx2", "avx512")}
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


NONE = "from resnext.data.decode.turbojpeg import load_decoder; print(load_decoder(), load_decoder())"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CXX": "no-such-compiler", "RESNEXT_CACHE": "{tmp}"}, "no C++ compiler, so images are decoded by Pillow"),
        ({"RESNEXT_CACHE": "/proc/nowhere"}, "could not be compiled, so images are decoded by Pillow"),
        ({"RESNEXT_FAST": "0"}, ""),
    ],
    ids=["no compiler", "unwritable cache", "switched off"],
)
def test_without_the_library_pillow_decodes_and_the_reason_is_said_once(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    result = run(NONE, **{key: value.format(tmp=tmp_path) for key, value in environment.items()})
    assert result.stdout.strip() == "None None"
    assert result.stderr.count(said) == 1 if said else not result.stderr


def test_broken_files_neither_crash_nor_pass(decoder: TurboJpegDecoder) -> None:  # noqa: ARG001 - compiled before
    command = [sys.executable, str(FUZZ), "--files", "600"]
    result = subprocess.run(command, env=FAST, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
