"""A trained network on new pictures: which files are meant, what it says of each, and which could not be read."""

import glob
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from resnext.data.augment import eval_transform
from resnext.data.folder import files_below
from resnext.data.images import EXTENSIONS, NOT_READ, read_image
from resnext.data.preprocessing import Preprocessing, normalize
from resnext.data.source import BadImage
from resnext.environment import available_cores
from resnext.errors import RequestError
from resnext.evaluate.panel import in_eval_mode
from resnext.model.network import Network
from resnext.weights.known import PREPROCESSINGS

PICTURES = (*EXTENSIONS, *NOT_READ)
READERS = min(8, available_cores())  # threads; Pillow decodes outside Python's lock


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one picture: its ``probabilities`` (float64 [K]), or the ``error`` that prevented it."""

    path: str | None  # None for a picture that came without one
    classes: tuple[str, ...]
    probabilities: np.ndarray | None = None
    error: str | None = None

    def top(self, count: int = 1) -> list[tuple[str, float]]:
        """The ``count`` most probable classes, most probable first; equals in the order of the classes."""
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]


Picture = str | Path | Image.Image | np.ndarray  # a file, or uint8 [H, W, 3] or [H, W] pixels


def predict(
    model: Network,
    images: Picture | Iterable[Picture],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """One Prediction per image, in order, on the device where ``model`` is; ``progress(done)`` after each batch.

    ``images`` are paths, PIL images and arrays (uint8 [H, W, 3] or [H, W]), mixed as they come, or one of these.
    A picture that cannot be read gets an ``error`` that names it, and the others are done all the same. Raises
    RequestError where the weights do not know their preprocessing, and for what is no picture.
    """
    if batch_size < 1:
        raise RequestError(f"the batch size must be at least 1, not {batch_size}")
    preprocessing = preprocessing_of(model)
    if model.architecture.num_classes == 0:
        raise RequestError("the network has no classifier (num_classes 0), so it cannot name what is in an image")
    classes = model.classes or tuple(f"class {i}" for i in range(model.architecture.num_classes))
    view, device = eval_transform(preprocessing), next(model.parameters()).device
    predictions: list[Prediction] = []
    with in_eval_mode(model), torch.inference_mode(), ThreadPoolExecutor(READERS) as pool:
        for chunk in chunks(as_pictures(images), batch_size):
            inputs = list(pool.map(lambda image: _open(image, preprocessing, view), chunk))
            good = [item for item in inputs if isinstance(item, Tensor)]
            rows = iter(_probabilities(model, torch.stack(good), preprocessing, device) if good else ())
            for image, item in zip(chunk, inputs, strict=True):
                path = path_of(image)
                if isinstance(item, Tensor):
                    predictions.append(_prediction(path, classes, next(rows)))
                else:
                    predictions.append(Prediction(path, classes, error=item))
            if progress is not None:
                progress(len(predictions))
    return predictions


def preprocessing_of(model: Network) -> Preprocessing:
    """What the weights say of their input. Raises RequestError where they do not."""
    if model.preprocessing is None:
        raise RequestError(
            "the weights do not say how their images were prepared (size, crop, mean, std); write it down with "
            f"`resnext convert WEIGHTS NEW.safetensors --preprocessing {'|'.join(PREPROCESSINGS)}|FILE.json`"
        )
    return model.preprocessing


def find_images(arguments: Sequence[str]) -> tuple[list[str], list[Prediction]]:
    """The image files that files, folders and glob patterns mean, and an error for each argument that means none.

    A file is taken as it stands; folders are walked to the bottom, links followed, sorted, without hidden files; of
    folders and of what a pattern matches, files are taken by their extension, those of pictures that cannot be read
    too: they are named, not left out. Each file once. Raises RequestError where there is
    no image at all.
    """
    found: dict[str, None] = {}
    problems = []
    for argument in arguments:
        try:
            paths, problem = _meaning(argument)
        except RequestError as error:  # of a folder that cannot be listed
            paths, problem = [], str(error)
        found.update(dict.fromkeys(paths))
        if problem:
            problems.append(Prediction(argument, (), error=problem))
    if not found:
        raise RequestError("no image found: " + "; ".join(f"{p.path!r} {p.error}" for p in problems[:5]))
    return list(found), problems


def _meaning(argument: str) -> tuple[list[str], str | None]:
    """The files an argument means, or what is wrong with it."""
    if os.path.isdir(argument):
        paths = _pictures_below(argument)
        return paths, None if paths else f"holds no image ({', '.join(EXTENSIONS)})"
    if os.path.lexists(argument):
        return [argument], None
    if "://" in argument:
        return [], "is an address; fetch the picture first, images are read from this disk"
    if not glob.has_magic(argument):
        return [], "does not exist"
    paths = []
    for match in sorted(glob.glob(argument, recursive=True)):
        if os.path.isdir(match):
            paths += [] if "**" in argument else _pictures_below(match)
        elif match.lower().endswith(PICTURES):
            paths.append(match)
    return paths, None if paths else "matches no image"


def _pictures_below(folder: str) -> list[str]:
    return sorted((path for path in files_below(folder) if path.lower().endswith(PICTURES)), key=os.path.split)


def as_pictures(images: Picture | Iterable[Picture]) -> Iterator[Picture]:
    """Each picture of ``images``, which may be one alone. Raises RequestError for anything else."""
    alone = isinstance(images, Picture) or not isinstance(images, Iterable)
    several: Iterable[object] = [images] if alone else images  # type: ignore[assignment]
    for number, image in enumerate(several):
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
                raise RequestError(
                    f"image {number} is an array of {image.dtype} {list(image.shape)}; "
                    "expected the pixels of one picture, uint8 [height, width, 3] or [height, width]"
                )
        elif not isinstance(image, Picture):
            raise RequestError(
                f"image {number} is a {type(image).__name__}; expected a path, a PIL image or an array of pixels"
            )
        yield image


def path_of(image: Picture) -> str | None:
    """Where a picture lies; None where it is in memory."""
    return str(image) if isinstance(image, str | Path) else None


def open_picture(image: Picture, channels: int, exif: bool) -> Image.Image:
    """The pixels of a file or of a picture in memory, which is treated as if it came from one. Raises BadImage."""
    if isinstance(image, str | Path):
        return read_image(image, channels, exif)
    try:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        image = ImageOps.exif_transpose(image) if exif else image
        if image.mode in ("L", "RGB"):
            return image.convert("RGB" if channels == 3 else "L")
        file = io.BytesIO()
        image.save(file, "TIFF")  # keeps every mode, so the reader of files decides what it means
    except Exception as error:  # a picture opened lazily may be broken
        raise BadImage("(image)", str(error) or type(error).__name__) from error
    return read_image(file, channels, exif=False)


def _open(image: Picture, preprocessing: Preprocessing, view: Callable[[Image.Image], Tensor]) -> Tensor | str:
    """The network's input uint8 [C, S, S], or why there is none."""
    try:
        return view(open_picture(image, preprocessing.channels, preprocessing.exif))
    except BadImage as error:
        return error.reason


def _probabilities(model: Network, images: Tensor, preprocessing: Preprocessing, device: torch.device) -> np.ndarray:
    logits = model(normalize(images, preprocessing, device)).cpu().to(torch.float64)
    return torch.softmax(logits, dim=1).numpy()


def _prediction(path: str | None, classes: tuple[str, ...], probabilities: np.ndarray) -> Prediction:
    if not np.isfinite(probabilities).all():
        return Prediction(path, classes, error="the network's output is not finite")
    return Prediction(path, classes, probabilities)


def chunks(iterator: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    """Lists of up to ``size`` pictures, taken from the iterator when they are asked for."""
    while chunk := list(islice(iterator, size)):
        yield chunk
