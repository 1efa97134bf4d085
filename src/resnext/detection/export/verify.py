"""Verify an exported detector: a child process that knows only the file detects, and PyTorch does the same.

``python -m resnext.detection.export.verify FILE IMAGES.npz OUT.npz`` is the child. It must not import torch.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from resnext.deploy.verify import run_as_child, run_child
from resnext.detection.export.engines import OUTPUTS, Detections
from resnext.errors import RequestError, WorkError

if TYPE_CHECKING:
    from resnext.detection.model.faster_rcnn import FasterRcnn

MATCH_IOU = 0.95  # two detections of a class with this IoU are the same
BOX_DISTANCE = 0.01  # pixels, mean over all coordinates of the same detections
SCORE_DIFFERENCE = 1e-3  # of the same detections
LEAST_SAME = 0.99  # share of the detections that both find
LEAST_SAME_UNSURE = 0.9  # the same at all scores: on plain background, rounding decides which box is the best
EDGE = 1e-3  # detections whose score is this close to the lowest one given may be missing from the other


@dataclass(frozen=True)
class DetectionAgreement:
    """How the detections of an exported file compare with PyTorch's."""

    images: int
    detections: int  # of PyTorch and the file together, without those at the edge of the score threshold or the limit
    same: int  # of these, how many the other has too
    box_distance: float  # pixels: mean over all coordinates of the same detections
    score_difference: float  # maximum over the same detections
    score: float  # threshold of the comparison
    seconds: float  # of the child's computing

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def check(self, least_same: float = LEAST_SAME) -> None:
        """Raise WorkError if the file does not give the detector's results."""
        start = "the exported file disagrees with the detector: "
        if self.same < least_same * self.detections:
            raise WorkError(
                f"{start}{self.detections - self.same} of {self.detections} detections are in one of both only; "
                "nothing was written"
            )
        if not (self.box_distance <= BOX_DISTANCE and self.score_difference <= SCORE_DIFFERENCE):
            raise WorkError(
                f"{start}boxes are {self.box_distance:.2g} pixels apart (at most {BOX_DISTANCE:g}) and scores "
                f"{self.score_difference:.2g} (at most {SCORE_DIFFERENCE:g}); nothing was written"
            )


def compare_with_detector(model: "FasterRcnn", file: Path, images: Sequence[Image.Image]) -> DetectionAgreement:
    """Compare an exported detector, run in a child process, with ``model`` in PyTorch, in fp32.

    Raises RequestError without images, WorkError if the child fails.
    """
    from resnext.detection.export.torch_engine import TorchDetectorEngine

    if not images:
        raise RequestError("an export is verified with real images; give --images DIR")
    pictures = [np.array(image.convert("RGB")) for image in images]
    engine = TorchDetectorEngine(model)
    reference = [engine(picture) for picture in pictures]
    arrays = run_child(__name__, file, pictures)
    found = [Detections(*(arrays[f"{name}_{i}"] for name in OUTPUTS)) for i in range(len(pictures))]
    settings = model.settings
    return measure_agreement(found, reference, settings.score, settings.detections, float(arrays["seconds"]))


def measure_agreement(
    found: Sequence[Detections], reference: Sequence[Detections], score: float, limit: int, seconds: float = 0.0
) -> DetectionAgreement:
    """Compare detections of the same images by two engines, with a score threshold and a limit per image."""
    counts, same, distances, differences = 0, 0, [np.empty(0)], [np.empty(0)]
    for one, other in zip(found, reference, strict=True):
        if not all(np.isfinite(part).all() for part in one):
            raise WorkError("the exported file gives boxes or scores that are not finite; nothing was written")
        edge = EDGE + max([score, *(float(part.scores[-1]) for part in (one, other) if len(part.scores) >= limit)])
        pairs = match_detections(one, other)
        for part, column in ((one, 0), (other, 1)):
            sure = part.scores > edge
            counts += int(sure.sum())
            same += int(np.isin(np.flatnonzero(sure), pairs[:, column]).sum())
        distances.append(np.abs(one.boxes[pairs[:, 0]] - other.boxes[pairs[:, 1]]).ravel())
        differences.append(np.abs(one.scores[pairs[:, 0]] - other.scores[pairs[:, 1]]))
    distance, difference = np.concatenate(distances), np.concatenate(differences)
    return DetectionAgreement(
        images=len(found),
        detections=counts,
        same=same,
        box_distance=float(distance.mean()) if len(distance) else 0.0,
        score_difference=float(difference.max(initial=0.0)),
        score=score,
        seconds=seconds,
    )


def match_detections(one: Detections, other: Detections) -> np.ndarray:
    """Match detections of a class by IoU, the best first: int64 [k, 2], indices into both."""
    areas = [(part.boxes[:, 2:] - part.boxes[:, :2]).prod(1) for part in (one, other)]
    low = np.maximum(one.boxes[:, None, :2], other.boxes[None, :, :2])
    high = np.minimum(one.boxes[:, None, 2:], other.boxes[None, :, 2:])
    inside = (high - low).clip(0).prod(2)
    iou = inside / (areas[0][:, None] + areas[1][None] - inside).clip(1e-9)
    iou[one.labels[:, None] != other.labels[None]] = 0
    order = np.argsort(-iou, axis=None, kind="stable")
    pairs, used = [], (set[int](), set[int]())
    for place in order[: int((iou >= MATCH_IOU).sum())]:
        row, column = divmod(int(place), iou.shape[1])
        if row not in used[0] and column not in used[1]:
            pairs.append((row, column))
            used[0].add(row)
            used[1].add(column)
    return np.array(pairs, np.int64).reshape(-1, 2)


def main(arguments: Sequence[str]) -> None:
    """Detect in all images. The child process."""
    from resnext.deploy.exported import ENGINE_OF_SUFFIX, open_exported
    from resnext.detection.export.engines import build_detector_engine

    file, given, out = map(Path, arguments)
    engine = build_detector_engine(ENGINE_OF_SUFFIX[file.suffix], open_exported(file).model)
    arrays: dict[str, np.ndarray] = {}
    began = time.perf_counter()
    with np.load(given) as images:
        for i, name in enumerate(images.files):
            arrays |= {f"{key}_{i}": value for key, value in engine(images[name])._asdict().items()}
    seconds = time.perf_counter() - began
    engine.close()
    if "torch" in sys.modules:
        raise WorkError("the exported file needed torch")
    np.savez(out, seconds=np.float64(seconds), **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    run_as_child(main)
