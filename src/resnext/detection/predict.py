"""Run a detector on unlabelled images, and draw what it finds. torch is imported only for detectors in memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from resnext.choices import Precision
from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import read_image
from resnext.detection.predictor import DetectPredictor
from resnext.errors import RequestError, escape_unprintable
from resnext.evaluation.images import ImageInput, get_image_path, iterate_images, open_image, split_into_batches
from resnext.files import atomic_write

if TYPE_CHECKING:
    import torch

    from resnext.detection.model.faster_rcnn import FasterRcnn, ImageDetections


@dataclass(frozen=True, eq=False)
class DetectPrediction:
    """Detections of one image, highest score first; or why the image could not be read."""

    path: str | None  # None for an image given without one
    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2 in pixels of the image
    labels: np.ndarray  # int64 [n], into the detector's classes
    scores: np.ndarray  # float32 [n]
    exif: bool = True  # whether its EXIF orientation was applied
    error: str | None = None
    size: tuple[int, int] | None = None  # width, height in pixels; None where it could not be read


def predict(
    model: "FasterRcnn | DetectPredictor",
    images: ImageInput | Iterable[ImageInput],
    device: "torch.device | str | None" = None,
    *,
    precision: Precision = "fp32",
    batch_size: int = 1,
    progress: Callable[..., None] | None = None,
) -> list[DetectPrediction]:
    """Detect objects in images.

    Args:
        model: The detector. It is moved to ``device`` where one is given, and keeps its training or eval mode. Or a
            predictor, which computes on its own engine, one image at a time.
        images: Paths, PIL images or arrays (uint8 [H, W, 3] or [H, W]), mixed, or a single one of these.
        device: Where to compute; by default where the model is.
        precision: fp32, bf16 or fp16.
        batch_size: Images computed together.
        progress: Called with the number of images done.

    Returns:
        One DetectPrediction per image, in order, also for images without detections and unreadable files.

    Raises:
        RequestError: For an unavailable device, a batch size below 1, or a value that is not an image.
    """
    if batch_size < 1:
        raise RequestError(f"the batch size must be at least 1, not {batch_size}")
    if isinstance(model, DetectPredictor):
        return _run_predictor(model, images, progress)
    import torch

    from resnext.device import pick_device
    from resnext.evaluation.ensemble import eval_mode

    if isinstance(device, str):
        device = pick_device(device)
    if device is not None:
        model.to(device)
    device = model.network.conv1.weight.device
    results: list[DetectPrediction] = []
    with eval_mode(model), torch.inference_mode():
        for pictures in split_into_batches(iterate_images(images), batch_size):
            results += _predict_batch(model, pictures, device, precision)
            if progress is not None:
                progress(len(results))
    return results


def _run_predictor(
    model: DetectPredictor, images: ImageInput | Iterable[ImageInput], progress: Callable[..., None] | None
) -> list[DetectPrediction]:
    results: list[DetectPrediction] = []
    exif = model.preprocessing.exif
    for picture in iterate_images(images):
        path, pixels = get_image_path(picture), _open_image(picture, exif)
        if isinstance(pixels, str):
            results.append(_report_error(path, pixels))
        else:
            found = model.detect(np.array(pixels))
            results.append(DetectPrediction(path, *found, exif, size=pixels.size))
        if progress is not None:
            progress(len(results))
    return results


def _report_error(path: str | None, error: str) -> DetectPrediction:
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.float32)
    return DetectPrediction(path, *nothing, error=error)


def _predict_batch(
    model: "FasterRcnn", pictures: Sequence[ImageInput], device: "torch.device", precision: Precision
) -> Iterator[DetectPrediction]:
    from resnext.device import autocast

    exif = model.preprocessing.exif
    opened = [_open_image(picture, exif) for picture in pictures]
    good = [one for one in opened if not isinstance(one, str)]
    found: Iterator[ImageDetections] = iter(())
    if good:
        views = [model.preprocessing.apply(picture).to(device) for picture in good]
        with autocast(device, precision):
            found = iter(model.detect(views, [(picture.height, picture.width) for picture in good]))
    for picture, pixels in zip(pictures, opened, strict=True):
        path = get_image_path(picture)
        if isinstance(pixels, str):
            yield _report_error(path, pixels)
            continue
        one = next(found)
        boxes, labels, scores = (one[key].float().cpu().numpy() for key in ("boxes", "labels", "scores"))
        yield DetectPrediction(path, boxes, labels.astype(np.int64), scores, exif, size=pixels.size)


def _open_image(picture: ImageInput, exif: bool) -> Image.Image | str:
    """Read the image, or return why it cannot be read."""
    try:
        return open_image(picture, 3, exif)
    except BadImageError as error:
        return error.reason


def draw_predictions(found: Sequence[DetectPrediction], places: Sequence[Path], classes: Sequence[str]) -> int:
    """Draw the boxes of every readable image into a PNG file at its place; return how many were drawn."""
    from resnext.detection.evaluation.draw_boxes import draw_detections

    readable = [(one, one.path, place) for one, place in zip(found, places, strict=True) if one.error is None]
    for one, path, place in readable:
        assert path is not None
        picture = draw_detections(read_image(path, 3, one.exif), one.boxes, one.labels, one.scores, classes)
        with atomic_write(place) as file:
            picture.save(file, format="PNG")
    return len(readable)


def summarize_prediction(one: DetectPrediction, classes: Sequence[str]) -> str:
    """Summarize an image in one line: the count and best score of each class, most frequent first."""
    parts = []
    for label, number in Counter(one.labels.tolist()).most_common():
        best = 100 * float(one.scores[one.labels == label].max())
        parts.append(f"{number} {escape_unprintable(classes[label])} (best {best:.0f} %)")
    name = "image" if one.path is None else escape_unprintable(one.path)
    return f"{name}: {', '.join(parts) or 'nothing'}"
