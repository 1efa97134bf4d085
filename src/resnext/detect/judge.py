"""Run and evaluate a detector on a data set, with the images divided over ranks."""

from collections.abc import Callable
from typing import Any

import torch

from resnext.detect.classes import match_classes
from resnext.detect.dataset import DetectionDataset
from resnext.detect.evaluator import MAX_DETECTIONS, DetectionEvaluation, Detections, evaluate_detections, in_order
from resnext.detect.fast import for_prediction
from resnext.detect.faster_rcnn import FasterRcnn
from resnext.detect.files import copy_detector
from resnext.detect.loader import eval_batches
from resnext.device import autocast
from resnext.errors import RequestError, WorkError
from resnext.train.distributed import World
from resnext.train.finetune import training_mode
from resnext.train.gather import together

Progress = Callable[..., None]


@torch.inference_mode()
def detect_all(
    model: FasterRcnn,
    dataset: DetectionDataset,
    world: World,
    *,
    precision: str = "fp32",
    workers: int = 0,
    start_method: str | None = None,
    progress: Progress | None = None,
) -> Detections:
    """Detect objects in this rank's share of ``dataset``; the model's mode is restored afterwards.

    Raises BadImage for an image that cannot be used, WorkError for an output that is not finite.
    """
    training = model.training
    model.eval()
    parts = []
    try:
        batches = eval_batches(
            dataset,
            model.preprocessing,
            workers=workers,
            start_method=start_method,
            rank=world.rank,
            world_size=world.size,
        )
        for done, batch in enumerate(batches, start=1):
            with autocast(world.device, precision):
                found = model.detect([image.to(world.device) for image in batch.images], batch.sizes)
            for index, one in zip(batch.indices, found, strict=True):
                if not (bool(torch.isfinite(one["boxes"]).all()) and bool(torch.isfinite(one["scores"]).all())):
                    raise WorkError(f"the detector's output for {dataset.where(index)} is not finite")
                parts.append(Detections.of_image(index, one["boxes"], one["labels"], one["scores"]))
            if progress is not None:
                progress(done)
    finally:
        if training:
            training_mode(model)
    return in_order(parts)


def evaluate(
    model: FasterRcnn, dataset: DetectionDataset, world: World, max_detections: int | None = None, **options: Any
) -> DetectionEvaluation | None:
    """Evaluate ``model`` on ``dataset`` with COCO's metrics; return None except on the main rank.

    A copy prepared for inference is used, so the same weights give the same detections during a run, at its end and
    afterwards. Images are computed one by one, so the results do not depend on the number of ranks.
    ``max_detections`` per class and image count; by default COCO's 100, or all where the detector gives more. Raises
    WorkError for weights that are not finite or a failure on another rank, and what ``run_inference`` and
    ``match_classes`` raise.
    """
    match = match_classes(model, dataset)
    try:
        ready = for_prediction(copy_detector(model))
    except RequestError as error:
        raise WorkError(f"the detector cannot be evaluated: {error}") from None
    share = together(world, lambda: detect_all(ready, dataset, world, **options))
    whole = share if world.size == 1 else Detections.from_rows(world.gather_rows(share.as_rows()))
    found, count = match.relabel(whole), max_detections or counted_detections(model)
    return together(world, lambda: evaluate_detections(dataset, found, count) if world.leads else None)


def counted_detections(model: FasterRcnn) -> int:
    """Return how many detections per class and image count: COCO's 100, or all where the detector gives more."""
    return max(MAX_DETECTIONS, model.settings.detections)
