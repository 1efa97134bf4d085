"""The fast JPEG decoder: C++ in ``csrc/`` that decodes a crop and resizes it.

It uses the libjpeg-turbo of the Pillow package, decodes only the rows and blocks that the crop needs, and resizes as
Pillow does. A crop decoded at full size differs from Pillow's by one level in about one of 20,000 values
(tests/data/decode/test_turbojpeg.py).
"""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from resnext.speed.cache_folder import warn_once
from resnext.speed.compiler import CompileUnit, Library
from resnext.speed.kernels import is_fast_enabled, list_isa_flags
from resnext.speed.prebuilt import load_library

FOLDER = Path(__file__).parent / "csrc"
SOURCES = ("feed.cpp", "jpeg.cpp", "header.cpp")
LIBJPEG_HEADERS = ("jconfig.h", "jmorecfg.h", "jpeglib.h")
HEADERS = ("jpeg.hpp", "lanes.hpp", "pixels.hpp", *(f"third_party/libjpeg/{name}" for name in LIBJPEG_HEADERS))
FUNCTIONS = (  # of libjpeg-turbo, which has jpeg_crop_scanline since 1.5; in the order of struct Turbo in csrc/jpeg.cpp
    *("std_error", "CreateDecompress", "read_header", "start_decompress", "crop_scanline", "skip_scanlines"),
    *("read_scanlines", "finish_decompress", "resync_to_restart", "destroy_decompress"),
)
FALLBACK_NOTE = "so images are decoded by Pillow alone"
OPERATIONS = {"brightness": 0, "contrast": 1, "saturation": 2}
MIN_PIXELS_PER_OUTPUT = 2  # pixels a side for each output pixel that decoding at 1/2 or 1/4 scale must leave


@dataclass(frozen=True)
class JpegHeader:
    """Header of a JPEG file. The other fields are valid only if ``is_plain``."""

    is_plain: bool  # a usual JPEG file, which Pillow surely opens
    has_metadata: bool  # has metadata that Pillow must check; it may contain an orientation
    width: int
    height: int


@dataclass(frozen=True)
class CropSpec:
    """A crop to decode: box, filter, horizontal flip, and for float output the changes of colour."""

    box: tuple[int, int, int, int]  # left, top, width, height in the whole image
    bicubic: bool
    flip: bool = False
    color_steps: Sequence[tuple[str, float]] = ()  # (brightness | contrast | saturation, alpha) in the order to apply
    color_shift: Sequence[float] = (0.0, 0.0, 0.0)  # added to R, G and B


class _CropRequest(ctypes.Structure):
    """The struct ``Request`` of csrc/feed.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("left", "top", "width", "height", "size", "cubic", "flip")),
        *((name, ctypes.c_int32) for name in ("spare", "down_first", "output")),
        ("operations", ctypes.c_int32 * 3),
        ("alphas", ctypes.c_double * 3),
        ("shift", ctypes.c_double * 3),
    )


@dataclass(frozen=True)
class TurboJpegDecoder:
    """The loaded C++ library."""

    functions: ctypes.CDLL
    vertical_pass_first: bool  # Pillow 13 and later resizes tall crops vertically first

    def read_header(self, file: bytes) -> JpegHeader:
        """Read the header of a file; no pixels are decoded. For a file that is not JPEG, ``is_plain`` is False."""
        values = (ctypes.c_int32 * 4)()
        self.functions.feed_header(file, len(file), values)
        return JpegHeader(bool(values[0]), bool(values[1]), values[2], values[3])

    def decode_crop(self, file: bytes, spec: CropSpec, out: Tensor) -> bool:
        """Decode a crop into ``out`` [3, S, S], uint8 or float32. Float values are in 0..1, not clamped.

        Returns False if Pillow must decode the file instead; the content of ``out`` is then undefined.
        """
        assert out.is_contiguous()
        assert out.dtype in (torch.uint8, torch.float32)
        assert out.shape[0] == 3
        assert out.shape[1] == out.shape[2]
        assert len(spec.color_steps) <= len(OPERATIONS)
        size = out.shape[1]
        _, _, width, height = spec.box
        down_first = self.vertical_pass_first and height > max(size, 2 * width - size)
        numbers = [OPERATIONS[name] for name, _ in spec.color_steps] + [-1] * (3 - len(spec.color_steps))
        alphas = [alpha for _, alpha in spec.color_steps] + [1.0] * (3 - len(spec.color_steps))
        request = _CropRequest(
            *spec.box,
            *(size, spec.bicubic, spec.flip, MIN_PIXELS_PER_OUTPUT, down_first, out.dtype == torch.float32),
            *((ctypes.c_int32 * 3)(*numbers), (ctypes.c_double * 3)(*alphas), (ctypes.c_double * 3)(*spec.color_shift)),
        )
        return bool(self.functions.feed_image(file, len(file), ctypes.byref(request), out.data_ptr()) == 0)

    def decode_only(self, file: bytes, box: tuple[int, int, int, int], size: int) -> bool:
        """Decode what a crop of ``box`` to ``size`` needs and discard it; for benchmarks."""
        request = _CropRequest(*box, *(size, 0, 0, MIN_PIXELS_PER_OUTPUT, 0, 2))
        return bool(self.functions.feed_image(file, len(file), ctypes.byref(request), None) == 0)


@cache
def load_decoder() -> TurboJpegDecoder | None:
    """Load the decoder, compiling it if the cache has none. Returns None, and warns once why, if it cannot be used."""
    if not is_fast_enabled():
        return None
    turbo = find_libjpeg()
    if turbo is None:
        warn_once(f"Pillow's libjpeg-turbo library was not found, {FALLBACK_NOTE}")
        return None
    functions = load_library(describe_jpeg_library(turbo), lambda path: ctypes.CDLL(str(path)))
    return None if functions is None else _start_decoder(functions, turbo)


def describe_jpeg_library(turbo: Path) -> Library:
    """Return what the decoder is compiled from, for the ABI of the libjpeg-turbo at ``turbo``."""
    abi = 80 if ".so.8" in turbo.name else 62
    kernels = (CompileUnit(FOLDER / "kernels.cpp", (f"-DISA={isa}", *flags)) for isa, flags in list_isa_flags().items())
    return Library(
        "jpeg",
        (*(CompileUnit(FOLDER / name, (f"-DJPEG_LIB_VERSION={abi}",)) for name in SOURCES), *kernels),
        headers=tuple(FOLDER / name for name in HEADERS),
        fallback=FALLBACK_NOTE,
    )


def _start_decoder(functions: ctypes.CDLL, turbo: Path) -> TurboJpegDecoder | None:
    functions.feed_start.argtypes = (ctypes.c_void_p,)
    functions.feed_header.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
    functions.feed_image.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)
    try:
        library = ctypes.CDLL(str(turbo))
        found = [ctypes.cast(library[f"jpeg_{name}"], ctypes.c_void_p) for name in FUNCTIONS]
    except (OSError, AttributeError) as error:
        warn_once(f"{turbo} cannot be used, {FALLBACK_NOTE}: {error}")
        return None
    if functions.feed_start((ctypes.c_void_p * len(found))(*found)):
        warn_once(f"{turbo} cannot be used, {FALLBACK_NOTE}: it is of another ABI than its name says")
        return None
    return TurboJpegDecoder(functions, vertical_pass_first=_detect_vertical_pass_first())


def find_libjpeg() -> Path | None:
    """Find the libjpeg-turbo library in Pillow's wheel, or the one its extension is linked against."""
    package = Path(PIL.__file__).parent
    beside = sorted((package.parent / "pillow.libs").glob("libjpeg*.so*"))
    if beside:
        return beside[0]
    vars(Image)["core"].jpeg_decoder  # noqa: B018 - loads the extension, and the library with it
    try:
        maps = Path("/proc/self/maps").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    found = re.search(r"^.*?(/\S*/libjpeg\.so\.[0-9.]+)$", maps, re.MULTILINE)
    return Path(found[1]) if found else None


def _detect_vertical_pass_first() -> bool:
    """Whether Pillow resizes a tall image vertically first, tested on stripes where the order changes the result.

    Values are clamped to bytes between the two passes, so a filter that overshoots shows which pass is first.
    """
    stripes = np.zeros((64, 8), np.uint8)
    stripes[::3, ::2] = 255
    whole = Image.fromarray(stripes)
    across, down = whole.resize((4, 64), Image.Resampling.BICUBIC), whole.resize((8, 4), Image.Resampling.BICUBIC)
    across, down = (half.resize((4, 4), Image.Resampling.BICUBIC) for half in (across, down))
    assert across.tobytes() != down.tobytes()
    return whole.resize((4, 4), Image.Resampling.BICUBIC).tobytes() == down.tobytes()
