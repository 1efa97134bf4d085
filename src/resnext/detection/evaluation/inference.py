"""Run and evaluate a detector on a data set, with the images divided over ranks."""

from collections.abc import Callable
from typing import Any

import torch

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.data.loader import iterate_eval_batches
from resnext.detection.evaluation import coco_eval
from resnext.detection.evaluation.class_matching import match_classes
from resnext.detection.evaluation.coco_eval import DetectionEvaluation, Detections, evaluate_detections
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.model.fuse import prepare_for_inference
from resnext.detection.predictor import DetectPredictor
from resnext.detection.weights import copy_detector
from resnext.device import autocast
from resnext.errors import RequestError, WorkError
from resnext.training.distributed import World
from resnext.training.distributed_evaluation import run_on_all_ranks
from resnext.training.finetune import set_training_mode

Progress = Callable[..., None]


@torch.inference_mode()
def run_inference(
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
        batches = iterate_eval_batches(
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
                if not all(bool(torch.isfinite(one[key]).all()) for key in ("boxes", "scores")):
                    raise WorkError(f"the detector's output for {dataset.files[index]} is not finite")
                parts.append(Detections.from_image(index, one["boxes"], one["labels"], one["scores"]))
            if progress is not None:
                progress(done)
    finally:
        if training:
            set_training_mode(model)
    return coco_eval.sort_detections(parts)


def evaluate_detector(
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
        ready = prepare_for_inference(copy_detector(model))
    except RequestError as error:
        raise WorkError(f"the detector cannot be evaluated: {error}") from None
    share = run_on_all_ranks(world, lambda: run_inference(ready, dataset, world, **options))
    whole = share if world.size == 1 else Detections.from_rows(world.all_gather_rows(share.to_rows()))
    found, count = match.relabel(whole), max_detections or resolve_max_detections(model)
    return run_on_all_ranks(world, lambda: evaluate_detections(dataset, found, count) if world.is_main else None)


def resolve_max_detections(model: FasterRcnn | DetectPredictor) -> int:
    """Return how many detections per class and image count: COCO's 100, or all where the detector gives more."""
    return max(coco_eval.MAX_DETECTIONS, model.settings.detections)
