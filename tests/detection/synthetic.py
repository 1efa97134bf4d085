"""Small data sets and detections whose answers are known beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation.coco_eval import Detections

Row = tuple[int, int, Sequence[float]]  # image, label, box


@dataclass(frozen=True, eq=False, kw_only=True)
class Made(DetectionDataset):
    """A data set that draws its images where there is no folder."""

    def load_image(self, index: int) -> Image.Image:
        if self.root:
            return super().load_image(index)
        width, height = self.sizes[index].tolist()
        ramp = np.linspace(60, 200, width)[None, :, None] + np.linspace(-40, 40, height)[:, None, None]
        return Image.fromarray(np.repeat(ramp, 3, axis=2).astype(np.uint8))


def dataset(
    rows: Sequence[Row],
    images: int = 1,
    classes: tuple[str, ...] = ("cat",),
    ids: tuple[int, ...] = (),
    crowd: Sequence[int] = (),
    areas: dict[int, float] | None = None,
    size: tuple[int, int] = (640, 480),
) -> Made:
    """``rows`` in order of images; ``crowd`` and ``areas`` go by rows."""
    boxes = np.array([box for *_, box in rows], np.float32).reshape(-1, 4)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).astype(np.float64)
    corners = boxes.astype(np.float64)
    for row, value in (areas or {}).items():
        area[row] = value
    counts = np.bincount([image for image, *_ in rows], minlength=images)
    return Made(
        name="made.json",
        classes=classes,
        category_ids=ids or tuple(range(1, len(classes) + 1)),
        root="",
        files=tuple(f"{i:03}.png" for i in range(images)),
        image_ids=np.arange(images) * 3 + 7,
        sizes=np.tile(np.array(size), (images, 1)),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=np.array([label for _, label, _ in rows], np.int64),
        crowd=np.isin(np.arange(len(rows)), crowd),
        areas=area,
        stated=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
    )


def detections(*rows: tuple[int, int, Sequence[float], float]) -> Detections:
    """Of (image, label, box, score)."""
    image, label, boxes, score = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        np.array(image, np.int64),
        np.array(label, np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(score, np.float32),
    )


def random_case(
    seed: int, images: int = 12, classes: int = 3, boxes: int = 8, crowd: float = 0.1, found: int = 14
) -> tuple[Made, Detections]:
    """Boxes of all sizes, some of them crowds, and detections near them, twice, at random, and with equal scores."""
    draw = np.random.default_rng(seed)
    rows: list[Row] = []
    for image in range(images):
        for _ in range(int(draw.integers(0, boxes + 1))):
            at, side = draw.uniform(0, 400, 2), np.exp(draw.uniform(np.log(6), np.log(220), 2))
            rows.append((image, int(draw.integers(classes)), [*at, *np.minimum(at + side, (640, 480))]))
    names = tuple(f"class {k}" for k in range(classes))
    ids = tuple(int(i) for i in draw.permutation(90)[:classes] + 1)
    data = dataset(rows, images, names, ids, np.flatnonzero(draw.uniform(size=len(rows)) < crowd).tolist())
    return data, jittered(data, draw, found)


def jittered(data: DetectionDataset, draw: np.random.Generator, found: int, spread: float = 0.12) -> Detections:
    """Detections of a middling detector: moved boxes, doubles, wrong classes, misses, and boxes out of nothing."""
    out: list[tuple[int, int, list[float], float]] = []
    for image in range(len(data)):
        own = data.get_boxes(image)
        limit = np.tile(data.sizes[image], 2)
        for box, label in zip(own.boxes.astype(float), own.labels, strict=True):
            for _ in range(int(draw.choice([0, 1, 1, 1, 2]))):
                side = np.tile(box[2:] - box[:2], 2)
                moved = np.clip(box + draw.normal(0, spread, 4) * side, 0, limit)
                right = draw.uniform() < 0.9
                said = int(label) if right else int(draw.integers(len(data.classes)))
                sure = float(np.round(draw.beta(5, 2 if right else 5), 2))
                out.append((image, said, [*np.minimum(moved[:2], moved[2:]), *np.maximum(moved[:2], moved[2:])], sure))
        for _ in range(int(draw.integers(0, max(1, found // 4)))):
            at, side = draw.uniform(0, 0.8, 2), draw.uniform(0.02, 0.2, 2)
            box = np.concatenate([at, at + side]) * limit
            out.append((image, int(draw.integers(len(data.classes))), list(box), float(np.round(draw.beta(2, 4), 2))))
    return detections(*[out[i] for i in draw.permutation(len(out))])
