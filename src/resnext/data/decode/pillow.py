"""Decode image files with Pillow. Training, evaluation, prediction and ``resnext data check`` all use this module."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from resnext.data.dataset import BadImageError

# torchvision's ImageFolder reads the first nine; the others are .gif and more names of the same formats.
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".gif", ".jfif", ".jpe", ".apng", ".pnm", ".pbm"),
)
UNSUPPORTED_EXTENSIONS = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg")  # image formats that are not in FORMATS
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # formats Pillow may try, whatever the extension
MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb
# files that are not in FORMATS: offset and value of their first bytes, and what they are
UNSUPPORTED_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    *((4, brand, "a HEIC image") for brand in (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    *((4, brand, "an AVIF image") for brand in (b"ftypavif", b"ftypavis")),
    *((at, magic, "a JPEG XL image") for at, magic in ((0, b"\xff\x0a"), (4, b"JXL \r\n"))),
    *((at, magic, "a JPEG 2000 image") for at, magic in ((4, b"jP  \r\n"), (0, b"\xff\x4f\xff\x51"))),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF"),
)
SIGNATURE_BYTES = 512  # bytes read to find the type of a file
# bytes; with Pillow's limit of 1 MB, images with a long text or colour profile could not be read
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 16 << 20)
# Pillow's warnings on damaged tags and large images: thousands in an epoch, and without the file's name
warnings.filterwarnings("ignore", module=r"PIL\.")
EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class ImageInfo:
    """Properties of an image file before any conversion."""

    format: str  # one of FORMATS
    mode: str  # Pillow's mode: L, RGB, RGBA, CMYK, I;16 ...
    size: tuple[int, int]  # width, height as stored
    frames: int  # more than 1 for an animation or several pages
    orientation: int  # EXIF tag 0x0112; 1 is upright
    high_bit_depth: bool  # more than 8 bits a channel
    has_transparency: bool


ImageFile = str | Path | io.BytesIO


def read_image(file: ImageFile, channels: int = 3, exif: bool = True, name: str = "") -> Image.Image:
    """Decode the first frame of an image file to mode ``RGB`` (3 channels) or ``L`` (1 channel).

    Transparency is dropped. CMYK and palettes are converted as ``Image.convert`` does. Grey of 9 to 16 bits is scaled
    to 8 bits. With ``exif`` the image is turned upright (Pillow always turns TIFF files).

    Raises BadImage, which names the file (or ``name``), if the file cannot be decoded.
    """
    with _open_image(file, name) as image:
        return _decode_pixels(image, channels, exif)[0]


def read_image_with_info(
    file: ImageFile, channels: int = 3, exif: bool = True, name: str = ""
) -> tuple[Image.Image, ImageInfo]:
    """Decode an image like ``read_image``, and return the properties of its file too."""
    with _open_image(file, name) as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG followed by a preview
        mode, size, deep = image.mode, image.size, _has_high_bit_depth(image)  # before loading, which changes these
        transparent = image.has_transparency_data
        pixels, orientation = _decode_pixels(image, channels, exif)
        frames = 1 if kind == "JPEG" else int(getattr(image, "n_frames", 1))
        return pixels, ImageInfo(kind, mode, size, frames, orientation, deep, transparent)


def read_header(file: ImageFile) -> tuple[str, tuple[int, int], int]:
    """Read format, size as stored and EXIF orientation without decoding the pixels. Raises BadImage."""
    with _open_image(file, "") as image:
        return str(image.format), image.size, _read_orientation(image)


def read_image_size(file: ImageFile, exif: bool = True) -> tuple[int, int]:
    """Return the width and height that ``read_image`` would give, without decoding the pixels. Raises BadImage.

    Limitation: an EXIF tag that follows the pixels of a PNG file is not read.
    """
    with _open_image(file, "") as image:
        width, height = image.size
        if image.format == "TIFF" or not exif:  # for a TIFF Pillow's size is already that of the upright image
            return width, height
        png = image.format == "PNG"  # its own getexif() would decode the pixels
        turned = _read_orientation(image, Image.Image.getexif if png else None) in SIDEWAYS_ORIENTATIONS
        return (height, width) if turned else (width, height)


def detect_image_format(path: str) -> str:
    """Detect the format from the content, whatever the extension. Returns an empty text if it is not in FORMATS."""
    try:
        with _open_image(path, "") as image:
            return str(image.format)
    except BadImageError:
        return ""


@contextmanager
def _open_image(file: ImageFile, name: str) -> Iterator[Image.Image]:
    """Open an image file. Any exception inside the block is raised as BadImage."""
    try:
        if isinstance(file, str | Path) and os.path.exists(file) and not os.path.isfile(file):
            raise ValueError("not a regular file")  # reading a pipe would never end
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{width} x {height} pixels are more than {MAX_PIXELS}")
            yield image
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many exception types on broken files
        shown = name or (str(file) if isinstance(file, str | Path) else "(bytes)")
        raise BadImageError(shown, _describe_error(error, file)) from error


def _decode_pixels(image: Image.Image, channels: int, exif: bool) -> tuple[Image.Image, int]:
    """Return the upright pixels and the EXIF orientation."""
    is_tiff = image.format == "TIFF"
    orientation = _read_orientation(image) if is_tiff else 1  # loading a TIFF turns it and removes the tag
    image.load()
    if not is_tiff:  # after load(): reading a PNG's tags loads it, and a second load hides the error of a broken file
        orientation = _read_orientation(image)
        if exif and orientation in EXIF_TRANSPOSES:
            image = image.transpose(EXIF_TRANSPOSES[orientation])
    pixels = _convert_mode(image, "RGB" if channels == 3 else "L")
    pixels.info = {}  # drops all tags, so that nothing is applied a second time
    return pixels, orientation


def _describe_error(error: Exception, file: ImageFile) -> str:
    if isinstance(error, UnidentifiedImageError):
        what = _describe_unsupported(_read_signature(file))
        return what or f"not an image in any of the formats {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _read_signature(file: ImageFile) -> bytes:
    if isinstance(file, io.BytesIO):
        return file.getvalue()[:SIGNATURE_BYTES]
    try:
        with open(file, "rb") as stream:
            return stream.read(SIGNATURE_BYTES)
    except OSError:
        return b"?"


def _describe_unsupported(head: bytes) -> str:
    """Describe an unsupported file by its first bytes. Returns an empty text if they are not known."""
    if not head:
        return "the file is empty"
    for at, magic, what in UNSUPPORTED_SIGNATURES:
        if head[at : at + len(magic)] == magic:
            return f"the content is {what}, whatever the file name says; convert it to PNG or JPEG"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image itself; run: git lfs pull"
    if head.lstrip().startswith(b"<"):
        return "a web page or an SVG drawing, not an image; did the download fail?"
    return ""


def _has_high_bit_depth(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel. Pillow gives 16-bit RGB as mode RGB, so the tiles are read."""
    for tile in getattr(image, "tile", ()):
        given = tile[3]  # by number: before Pillow 11 a tile is a plain tuple
        args = given if isinstance(given, tuple) else (given,)
        if ";16" in str(args[0]) and "BGR" not in str(args[0]):  # BGR;16 has five or six bits a channel
            return True
        if str(tile[0]).startswith("ppm") and args[1] > 255:
            return True
    return image.mode.startswith(("I", "F"))


def _read_orientation(image: Image.Image, read_tags: Callable[[Image.Image], Image.Exif] | None = None) -> int:
    """Read the EXIF orientation; 1 if there is none or the tags are broken (the pixels may still be good)."""
    try:
        tags = image.getexif() if read_tags is None else read_tags(image)
        value = tags.get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if value in EXIF_TRANSPOSES else 1


def _convert_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to ``RGB`` or ``L``. Raises ValueError if the scale of the values is not known."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known scale; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        black, white = _black_white_levels(image)
        values = np.asarray(image)
        if values.dtype == np.uint16:  # a table of all values takes a tenth of the memory
            levels = np.arange(1 << 16, dtype=np.int64)
            image = Image.fromarray(np.rint((levels - black) * 255 / (white - black)).astype(np.uint8)[values])
        else:
            scaled = (values.astype(np.int64) - black) * 255 / (white - black)
            image = Image.fromarray(np.rint(scaled).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # gives the same colours without Pillow's warning
    elif image.mode == "RGBa":
        image = image.convert("RGBA")
    return image.convert(mode)


def _black_white_levels(image: Image.Image) -> tuple[int, int]:
    """Return the values of black and white of a grey image with more than 8 bits. Raises ValueError if not known."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0, 65535  # Pillow scales PGM to this range
    tags = image.tag_v2
    bits, signed = tags[TiffImagePlugin.BITSPERSAMPLE][0], tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 2
    if bits > 16 or signed:
        kind = "signed" if signed else f"{bits}-bit"
        raise ValueError(f"{kind} pixels have no known scale; save it with 8 or 16 unsigned bits a channel")
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # WhiteIsZero: Pillow inverts it up to 8 bits
    return (2**bits - 1, 0) if inverted else (0, 2**bits - 1)
