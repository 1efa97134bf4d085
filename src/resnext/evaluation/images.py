"""Find image files, and open images of every kind that users have: files, PIL images, arrays, bytes and streams."""

import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps
from typing_extensions import TypeIs

from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import IMAGE_EXTENSIONS, UNSUPPORTED_EXTENSIONS, read_image
from resnext.data.sources.image_folder import walk_files
from resnext.errors import RequestError

Item = TypeVar("Item")
IMAGE_SUFFIXES = (*IMAGE_EXTENSIONS, *UNSUPPORTED_EXTENSIONS)
MAX_STREAM_BYTES = 1 << 30  # read from a stream; more is no image
# a file, an image, uint8 pixels [H, W, 3] or [H, W], or the bytes of a file, also as a stream
ImageInput = str | Path | Image.Image | np.ndarray | bytes | BinaryIO


def find_images(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Find the image files named by files, folders and glob patterns, and what is wrong with each argument without any.

    A file is taken as given. Folders are searched recursively, sorted, following links, without hidden files. In
    folders and for patterns, files are chosen by extension; image formats that cannot be read are included, so that
    they are reported. Each file is taken once. Raises RequestError if there is no image at all.
    """
    found: dict[str, None] = {}
    problems = []
    for argument in arguments:
        try:
            paths, problem = _expand_argument(argument)
        except RequestError as error:  # a folder that cannot be listed
            paths, problem = [], str(error)
        found.update(dict.fromkeys(paths))
        if problem:
            problems.append((argument, problem))
    if not found:
        raise RequestError("no image found: " + "; ".join(f"{path!r} {problem}" for path, problem in problems[:5]))
    return list(found), problems


def _expand_argument(argument: str) -> tuple[list[str], str | None]:
    """Return the files an argument stands for, or what is wrong with it."""
    if os.path.isdir(argument):
        paths = _list_images(argument)
        return paths, None if paths else f"holds no image ({', '.join(IMAGE_EXTENSIONS)})"
    if os.path.lexists(argument):
        return [argument], None
    if "://" in argument:
        return [], "is a URL; download the image first, only local files are read"
    if not glob.has_magic(argument):
        return [], "does not exist"
    paths = []
    for match in sorted(glob.glob(argument, recursive=True)):
        if os.path.isdir(match):
            paths += [] if "**" in argument else _list_images(match)
        elif match.lower().endswith(IMAGE_SUFFIXES):
            paths.append(match)
    return paths, None if paths else "matches no image"


def _list_images(folder: str) -> list[str]:
    return sorted((path for path in walk_files(folder) if path.lower().endswith(IMAGE_SUFFIXES)), key=os.path.split)


def pick_evenly(items: Sequence[Item], count: int) -> Sequence[Item]:
    """Pick up to ``count`` evenly spaced items of a list or a range, the first among them."""
    return items[:: max(1, len(items) // count)][:count]


def read_some_images(folder: str, count: int, channels: int, exif: bool) -> Iterator[Image.Image]:
    """Read up to ``count`` evenly spaced images of a folder, one when it is asked for. Raises BadImageError."""
    paths, _ = find_images([folder])
    return (read_image(path, channels, exif) for path in pick_evenly(paths, count))


def iterate_images(images: ImageInput | Iterable[ImageInput]) -> Iterator[ImageInput]:
    """Yield each image of ``images``, which may be a single one. Raises RequestError for anything else."""
    alone = _is_image(images) or not isinstance(images, Iterable)
    several: Iterable[object] = [images] if alone else images  # type: ignore[assignment]
    for number, image in enumerate(several):
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
                raise RequestError(
                    f"image {number} is an array of {image.dtype} {list(image.shape)}; "
                    "expected the pixels of one image, uint8 [height, width, 3] or [height, width]"
                )
        elif not _is_image(image):
            raise RequestError(
                f"image {number} is a {type(image).__name__}; expected a path, a PIL image, an array of pixels, or "
                "the bytes of an image file"
            )
        yield image  # type: ignore[misc]


def _is_image(value: object) -> bool:
    return isinstance(value, str | Path | Image.Image | np.ndarray | bytes) or _is_stream(value)


def _is_stream(value: object) -> TypeIs[BinaryIO]:
    return hasattr(value, "read") and not isinstance(value, io.TextIOBase)


def get_image_path(image: ImageInput) -> str | None:
    """Return the path of an image; None for an image in memory."""
    return str(image) if isinstance(image, str | Path) else None


def open_image(image: ImageInput, channels: int, exif: bool) -> Image.Image:
    """Read the pixels of a file or an image in memory, both in the same way. Raises BadImageError."""
    if isinstance(image, str | Path):
        return read_image(image, channels, exif)
    if isinstance(image, bytes) or _is_stream(image):
        return read_image(_read_bytes(image), channels, exif, name="(image)")
    try:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        image = ImageOps.exif_transpose(image) if exif else image
        if image.mode in ("L", "RGB"):
            return image.convert("RGB" if channels == 3 else "L")
        file = io.BytesIO()
        image.save(file, "TIFF")  # keeps every mode; read_image then converts it as it does for files
    except Exception as error:  # a lazily opened image may be broken
        raise BadImageError("(image)", str(error) or type(error).__name__) from error
    return read_image(file, channels, exif=False)


def _read_bytes(source: bytes | BinaryIO) -> io.BytesIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        data = source.read(MAX_STREAM_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: the stream is closed
        raise BadImageError("(image)", str(error)) from error
    if len(data) > MAX_STREAM_BYTES:
        raise BadImageError("(image)", f"the stream has more than {MAX_STREAM_BYTES >> 20} MB")
    return io.BytesIO(data)


def split_into_batches(iterator: Iterator[ImageInput], size: int) -> Iterator[list[ImageInput]]:
    """Yield lists of up to ``size`` images, read lazily from the iterator."""
    while chunk := list(islice(iterator, size)):
        yield chunk
