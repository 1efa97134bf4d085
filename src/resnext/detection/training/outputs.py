"""Write the files of a detection run: samples at the start, evaluation and report at the end."""

from typing import Any

from torch import Tensor

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation.class_matching import match_classes
from resnext.detection.evaluation.coco_eval import DetectionEvaluation
from resnext.detection.evaluation.inference import evaluate_detector
from resnext.detection.evaluation.plots import plot_training_samples
from resnext.detection.evaluation.protocol import OWN_SPLIT, describe_detection_protocol
from resnext.detection.evaluation.report import write_detection_report
from resnext.detection.evaluation.tables import write_detection_evaluation
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.training.plots import plot_training_curves
from resnext.detection.training.step import State
from resnext.plotting import save_figure
from resnext.text import format_share
from resnext.training.logbook import find_last_evaluated

SAMPLE_COUNT = 12  # images in samples.png


def write_samples(state: State) -> None:
    """Write a few augmented training images."""
    images: list[Tensor] = []
    boxes: list[Tensor] = []
    labels: list[Tensor] = []
    batches = state.loader.batches(0)
    for batch in batches:
        images, boxes, labels = images + batch.images, boxes + batch.boxes, labels + batch.labels
        if len(images) >= SAMPLE_COUNT:
            break
    batches.close()  # type: ignore[attr-defined]  # a generator: stops its workers
    save_figure(plot_training_samples(images, boxes, labels, state.model.classes, SAMPLE_COUNT), state.run.samples)


def evaluate_held_out(state: State, model: FasterRcnn, val: DetectionDataset) -> DetectionEvaluation | None:
    """Evaluate ``model`` on the held-out images like ``resnext detect evaluate RUN``; None except on the main rank."""
    state.world.broadcast_model(model)
    precision, start_method = state.recipe.train.precision, state.recipe.data.start_method
    workers = state.loader.workers
    return evaluate_detector(model, val, state.world, precision=precision, workers=workers, start_method=start_method)


def write_final_evaluation(state: State, best: FasterRcnn, val: DetectionDataset, rows: list[dict[str, Any]]) -> str:
    """Evaluate the best detector; rank 0 writes curves, tables and report.html. Returns a sentence on the results."""
    evaluation = evaluate_held_out(state, best, val)
    if evaluation is None:
        return ""
    run, position = state.run, state.position
    save_figure(plot_training_curves(rows, f"{state.model.architecture.name} on {val.name}"), run.curves)
    about = describe_detection_protocol(
        best.preprocessing,
        best.settings,
        data=val.name,
        split=val.split_rule or OWN_SPLIT,
        changed=val.counts,
        device=str(state.world.device),
        precision=state.recipe.train.precision,
        weights=run.weights("best").name,
        checkpoint="best",
        step=(position.best or {}).get("step"),
        classes=match_classes(best, val).note,
        max_detections=evaluation.max_detections,
        images_over_limit=evaluation.images_over_limit,
    )
    metrics = write_detection_evaluation(evaluation, val, run.evaluation, about)
    write_detection_report(run.path, evaluation, val, metrics)
    last = find_last_evaluated(rows, "ap")
    best_epoch = (position.best or {}).get("epoch")
    said = f"AP {format_share(last['ap'])}, AP50 {format_share(last['ap50'])} after the last epoch"
    if last["epoch"] == best_epoch:
        return f"{said}, which is the best"
    at_best = f"AP {format_share(evaluation.ap)}, AP50 {format_share(evaluation.ap50)}"
    return f"{said}; {at_best} after the best, epoch {best_epoch}, which was chosen on the same images"
