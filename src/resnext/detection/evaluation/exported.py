"""Evaluate an exported detector on a data set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation.class_matching import match_classes, merge_classes
from resnext.detection.evaluation.coco_eval import (
    DetectionEvaluation,
    Detections,
    describe_images_over_limit,
    evaluate_detections,
    sort_detections,
)
from resnext.detection.evaluation.inference import Progress, resolve_max_detections
from resnext.detection.evaluation.protocol import describe_detection_protocol
from resnext.detection.evaluation.setup import MAX_DETECTIONS_HINT, DetectEvalOptions, Warn, describe_split
from resnext.detection.predictor import DetectPredictor
from resnext.errors import RequestError, WorkError
from resnext.progress_bar import show_image_progress


def evaluate_exported(
    options: DetectEvalOptions, dataset: DetectionDataset, warn: Warn
) -> tuple[DetectionEvaluation, dict[str, Any]]:
    """Evaluate an exported detector; return the results and their protocol.

    Raises RequestError, BadImage, WorkError.
    """
    assert options.weights is not None
    with DetectPredictor.load(options.weights, score=options.score) as predictor:
        limit = predictor.settings.detections
        usual = resolve_max_detections(predictor)
        if (options.max_detections or 0) > usual:
            raise RequestError(
                f"--max-detections {options.max_detections} is above {limit}, the most that {options.weights} gives; "
                "export it again with a higher limit"
            )
        most = options.max_detections or usual
        dataset = replace(dataset, exif=predictor.preprocessing.exif)
        dataset = merge_classes(dataset) if predictor.stage == "rpn" else dataset
        match = match_classes(predictor, dataset)
        warn(match.note and f"{dataset.name}: {match.note}")
        warn(describe_images_over_limit(dataset, most, limit, MAX_DETECTIONS_HINT))
        with show_image_progress(len(dataset)) as progress:
            found = run_predictor(predictor, dataset, progress)
        evaluation = evaluate_detections(dataset, match.relabel(found), most)
        about = describe_detection_protocol(
            predictor.preprocessing,
            predictor.settings,
            data=dataset.name,
            split=describe_split(options, dataset),
            changed=dataset.counts,
            device="cpu",
            precision="fp32",
            weights=Path(options.weights).name,
            classes=match.note,
            max_detections=most,
            images_over_limit=evaluation.images_over_limit,
        )
    return evaluation, about


def run_predictor(
    predictor: DetectPredictor, dataset: DetectionDataset, progress: Progress | None = None
) -> Detections:
    """Detect in all images of a data set.

    Raises BadImage for an image that cannot be used, WorkError for an output that is not finite.
    """
    parts = []
    for index in range(len(dataset)):
        boxes, labels, scores = predictor.detect(np.array(dataset.load_image(index)))
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise WorkError(f"the detector's output for {dataset.files[index]} is not finite")
        parts.append(Detections(np.full(len(labels), index, np.int64), labels, boxes, scores))
        if progress is not None:
            progress(index + 1)
    return sort_detections(parts)
