"""Find image files, classify them, and report those that could not be read."""

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

from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import IMAGE_EXTENSIONS, UNSUPPORTED_EXTENSIONS, read_image
from resnext.data.preprocessing import Preprocessing, normalize
from resnext.data.sources.image_folder import walk_files
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.environment import count_available_cores
from resnext.errors import RequestError, WorkError
from resnext.evaluation.classifier import Classifier, get_device
from resnext.evaluation.ensemble import eval_mode
from resnext.files import atomic_write
from resnext.model.network import Network
from resnext.weights.presets import PREPROCESSINGS

IMAGE_SUFFIXES = (*IMAGE_EXTENSIONS, *UNSUPPORTED_EXTENSIONS)
READER_THREADS = min(8, count_available_cores())  # Pillow decodes without holding the GIL


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image: ``probabilities`` (float64 [K]), or the ``error`` that prevented it."""

    path: str | None  # None for an image in memory
    classes: tuple[str, ...]
    probabilities: np.ndarray | None = None
    error: str | None = None
    top_k: int = 1  # how many classes ``top`` returns by default

    def top(self, count: int | None = None) -> list[tuple[str, float]]:
        """Return the ``count`` most probable classes with their probabilities; equal ones in class order."""
        if self.probabilities is None:
            return []
        count = self.top_k if count is None else count
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]


ImageInput = str | Path | Image.Image | np.ndarray  # a file, an image, or uint8 pixels [H, W, 3] or [H, W]


def predict(
    model: Classifier,
    images: ImageInput | Iterable[ImageInput],
    top_k: int = 1,
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Classify images on the device of ``model``.

    Args:
        model: A network with class names and preprocessing, as ``load`` returns it, or a ``Predictor`` made of one.
        images: Paths, PIL images or arrays (uint8 [H, W, 3] or [H, W]), also mixed; or a single one.
        top_k: How many classes ``Prediction.top()`` returns; ``Prediction.probabilities`` has all.
        batch_size: Images per forward pass.
        progress: Called as ``progress(done)`` after each batch.

    Returns:
        One Prediction per image, in order. An image that cannot be read gets an ``error``; the others are predicted.

    Raises:
        RequestError: The weights have no preprocessing or no classifier, or an item is not an image.
    """
    if top_k < 1:
        raise RequestError(f"top_k must be at least 1, not {top_k}")
    if model.architecture.num_classes == 0:
        raise RequestError("the network has no classifier (num_classes 0), so it cannot classify images")
    classes = model.classes or tuple(f"class {i}" for i in range(model.architecture.num_classes))

    def compute_probabilities(inputs: Tensor) -> Tensor:
        return torch.softmax(model(inputs).cpu().to(torch.float64), dim=1)

    predictions = []
    for path, value in _compute_outputs(model, compute_probabilities, images, batch_size, progress):
        if isinstance(value, Tensor) and not value.isfinite().all():
            value = "the network's output is not finite"
        if isinstance(value, str):
            predictions.append(Prediction(path, classes, error=value, top_k=top_k))
        else:
            predictions.append(Prediction(path, classes, value.numpy(), top_k=top_k))
    return predictions


def embed(
    model: Network,
    images: ImageInput | Iterable[ImageInput],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Compute the pooled features of images: what the classifier gets. Images are prepared as for ``predict``.

    Args:
        model: A network with preprocessing, as ``load`` returns it, on the device to compute on.
        images: Paths, PIL images or arrays (uint8 [H, W, 3] or [H, W]), also mixed; or a single one.
        batch_size: Images per forward pass.
        progress: Called as ``progress(done)`` after each batch.

    Returns:
        float32 [N, features], one row per image, in order.

    Raises:
        RequestError: The weights have no preprocessing, or ``model`` is an inference engine, which has no features.
        WorkError: An image cannot be read.
    """
    embeddings = compute_embeddings(model, images, batch_size=batch_size, progress=progress)
    if embeddings.problems:
        path, reason = embeddings.problems[0]
        raise WorkError(f"{path or 'an image'} cannot be embedded: {reason}")
    return embeddings.features


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Pooled features of the images that could be read, and what was wrong with the others."""

    names: list[str | None]  # path of each row; None for an image in memory
    features: np.ndarray  # float32 [N, features]
    problems: list[tuple[str | None, str]]  # path and reason

    def write(self, path: Path) -> None:
        """Write ``names`` and ``features`` to an .npz file, atomically. Raises WorkError if it cannot be written."""
        with atomic_write(path) as file:
            np.savez(file, names=np.array([name or "" for name in self.names], dtype=np.str_), features=self.features)


def compute_embeddings(
    model: Network,
    images: ImageInput | Iterable[ImageInput],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Embeddings:
    """Compute the pooled features of images, as ``embed``, but without failing for images that cannot be read."""
    if not isinstance(model, Network):
        raise RequestError("an inference engine computes only logits; embed images with the network itself")

    def compute_features(inputs: Tensor) -> Tensor:
        return model.features(inputs, ["pooled"])["pooled"].float()

    outputs = _compute_outputs(model, compute_features, images, batch_size, progress)
    rows = [(path, value.numpy()) for path, value in outputs if isinstance(value, Tensor)]
    problems = [(path, value) for path, value in outputs if isinstance(value, str)]
    width = model.architecture.stages[-1].out_channels
    features = np.array([row for _, row in rows], np.float32).reshape(len(rows), width)
    return Embeddings([path for path, _ in rows], features, problems)


def _compute_outputs(
    model: Classifier,
    compute: Callable[[Tensor], Tensor],
    images: ImageInput | Iterable[ImageInput],
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> list[tuple[str | None, Tensor | str]]:
    """Compute ``compute(inputs)`` of images prepared for ``model``, which is in eval mode meanwhile.

    Returns the path of each image, and its row of the output or why it could not be read.
    """
    if batch_size < 1:
        raise RequestError(f"the batch size must be at least 1, not {batch_size}")
    preprocessing = get_preprocessing(model)
    view, device = build_eval_transform(preprocessing), get_device(model)
    outputs: list[tuple[str | None, Tensor | str]] = []
    with eval_mode(model), torch.inference_mode(), ThreadPoolExecutor(READER_THREADS) as pool:
        for chunk in split_into_batches(iterate_images(images), batch_size):
            inputs = list(pool.map(lambda image: _prepare_input(image, preprocessing, view), chunk))
            good = [item for item in inputs if isinstance(item, Tensor)]
            rows = iter(compute(normalize(torch.stack(good), preprocessing, device)).cpu() if good else ())
            for image, item in zip(chunk, inputs, strict=True):
                outputs.append((get_image_path(image), next(rows) if isinstance(item, Tensor) else item))
            if progress is not None:
                progress(len(outputs))
    return outputs


def get_preprocessing(model: Classifier) -> Preprocessing:
    """Return the preprocessing stored with the weights. Raises RequestError if there is none."""
    if model.preprocessing is None:
        raise RequestError(
            "the weights do not say how images are prepared (size, crop, mean, std); add it by "
            f"`resnext convert WEIGHTS NEW.safetensors --preprocessing {'|'.join(PREPROCESSINGS)}|FILE.json`"
        )
    return model.preprocessing


def find_images(arguments: Sequence[str]) -> tuple[list[str], list[Prediction]]:
    """Find the image files named by files, folders and glob patterns, and an error for each argument without any.

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
            problems.append(Prediction(argument, (), error=problem))
    if not found:
        raise RequestError("no image found: " + "; ".join(f"{p.path!r} {p.error}" for p in problems[:5]))
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


def iterate_images(images: ImageInput | Iterable[ImageInput]) -> Iterator[ImageInput]:
    """Yield each image of ``images``, which may be a single one. Raises RequestError for anything else."""
    alone = isinstance(images, ImageInput) or not isinstance(images, Iterable)
    several: Iterable[object] = [images] if alone else images  # type: ignore[assignment]
    for number, image in enumerate(several):
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
                raise RequestError(
                    f"image {number} is an array of {image.dtype} {list(image.shape)}; "
                    "expected the pixels of one image, uint8 [height, width, 3] or [height, width]"
                )
        elif not isinstance(image, ImageInput):
            raise RequestError(
                f"image {number} is a {type(image).__name__}; expected a path, a PIL image or an array of pixels"
            )
        yield image


def get_image_path(image: ImageInput) -> str | None:
    """Return the path of an image; None for an image in memory."""
    return str(image) if isinstance(image, str | Path) else None


def open_image(image: ImageInput, channels: int, exif: bool) -> Image.Image:
    """Read the pixels of a file or an image in memory, both in the same way. Raises BadImageError."""
    if isinstance(image, str | Path):
        return read_image(image, channels, exif)
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


def _prepare_input(
    image: ImageInput, preprocessing: Preprocessing, view: Callable[[Image.Image], Tensor]
) -> Tensor | str:
    """Return the network's input, uint8 [C, S, S], or the reason why the image cannot be read."""
    try:
        return view(open_image(image, preprocessing.channels, preprocessing.exif))
    except BadImageError as error:
        return error.reason


def split_into_batches(iterator: Iterator[ImageInput], size: int) -> Iterator[list[ImageInput]]:
    """Yield lists of up to ``size`` images, read lazily from the iterator."""
    while chunk := list(islice(iterator, size)):
        yield chunk
