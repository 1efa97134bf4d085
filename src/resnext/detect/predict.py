"""A detector on pictures without labels: what is in them, as numbers and drawn."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resnext.data.images import read_image
from resnext.data.source import BadImage
from resnext.detect.drawing import draw_detections
from resnext.detect.faster_rcnn import FasterRcnn
from resnext.device import autocast, pick_device
from resnext.errors import RequestError, printable
from resnext.evaluate.panel import in_eval_mode
from resnext.evaluate.predict import Picture, as_pictures, chunks, open_picture, path_of
from resnext.files import written_whole


@dataclass(frozen=True, eq=False)
class Predicted:
    """One picture: what was found, best first; or why it could not be read."""

    path: str | None  # None for a picture that came without one
    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2 in pixels of the picture
    labels: np.ndarray  # int64 [n], into the detector's classes
    scores: np.ndarray  # float32 [n]
    exif: bool = True  # whether it was turned upright
    error: str | None = None
    size: tuple[int, int] | None = None  # width, height in pixels; None where it could not be read


@torch.inference_mode()
def predict(
    model: FasterRcnn,
    images: Picture | Iterable[Picture],
    device: torch.device | str | None = None,
    *,
    precision: str = "fp32",
    batch_size: int = 1,
    progress: Callable[..., None] | None = None,
) -> list[Predicted]:
    """One Predicted per image, in order: also of images with nothing in them, and of those that cannot be read.

    ``images`` are paths, PIL images and arrays (uint8 [H, W, 3] or [H, W]), mixed as they come, or one of these.
    ``model`` is moved to ``device``, where one is given, and left in the mode it came in. Raises RequestError for a
    device that is not here, and for what is no picture.
    """
    if batch_size < 1:
        raise RequestError(f"the batch size must be at least 1, not {batch_size}")
    if isinstance(device, str):
        device = pick_device(device)
    if device is not None:
        model.to(device)
    device = model.network.conv1.weight.device
    results: list[Predicted] = []
    with in_eval_mode(model):
        for pictures in chunks(as_pictures(images), batch_size):
            results += _of_batch(model, pictures, device, precision)
            if progress is not None:
                progress(len(results))
    return results


def _of_batch(
    model: FasterRcnn, pictures: Sequence[Picture], device: torch.device, precision: str
) -> Iterator[Predicted]:
    exif = model.preprocessing.exif
    opened = [_open(picture, exif) for picture in pictures]
    good = [one for one in opened if not isinstance(one, str)]
    found: Iterator[dict[str, torch.Tensor]] = iter(())
    if good:
        views = [model.preprocessing.view(picture).to(device) for picture in good]
        with autocast(device, precision):
            found = iter(model.detect(views, [(picture.height, picture.width) for picture in good]))
    for picture, pixels in zip(pictures, opened, strict=True):
        path = path_of(picture)
        if isinstance(pixels, str):
            yield _nothing(path, pixels)
            continue
        one = next(found)
        boxes, labels, scores = (one[key].float().cpu().numpy() for key in ("boxes", "labels", "scores"))
        yield Predicted(path, boxes, labels.astype(np.int64), scores, exif, size=pixels.size)


def _open(picture: Picture, exif: bool) -> Image.Image | str:
    """The pixels, or why there are none."""
    try:
        return open_picture(picture, 3, exif)
    except BadImage as error:
        return error.reason


def drawing_places(folder: Path, paths: Sequence[str]) -> list[Path]:
    """Where each picture is to be drawn: ``folder``/NAME.png; a name that comes twice gets a number.

    Raises RequestError for a folder that cannot be made, or that holds such a file: nothing there is written over.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {folder} cannot be made: {error.strerror}") from None
    names: set[str] = set()
    places = []
    for path in paths:
        stem, tries = Path(path).stem, count(2)
        name = stem
        while name in names:
            name = f"{stem}-{next(tries)}"
        names.add(name)
        places.append(folder / f"{name}.png")
    there = next((path for path in places if path.exists()), None)
    if there is not None:
        raise RequestError(f"{there} is there already: give --out an empty folder")
    return places


def draw(found: Sequence[Predicted], places: Sequence[Path], classes: Sequence[str]) -> int:
    """Each picture that could be read with its boxes, as PNG at its place; returns how many."""
    readable = [(one, one.path, place) for one, place in zip(found, places, strict=True) if one.error is None]
    for one, path, place in readable:
        assert path is not None
        picture = draw_detections(read_image(path, 3, one.exif), one.boxes, one.labels, one.scores, classes)
        with written_whole(place) as file:
            picture.save(file, format="PNG")
    return len(readable)


def summary(one: Predicted, classes: Sequence[str]) -> str:
    """A picture's line: how many of each class, the most frequent first, and the best score of each."""
    counts = Counter(one.labels.tolist())
    parts = [
        f"{number} {printable(classes[label])} (best {100 * float(one.scores[one.labels == label].max()):.0f} %)"
        for label, number in counts.most_common()
    ]
    name = "image" if one.path is None else printable(one.path)
    return f"{name}: {', '.join(parts) or 'nothing'}"


def _nothing(path: str | None, error: str) -> Predicted:
    return Predicted(path, np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.float32), error=error)
