"""Turn the request for a detection evaluation into a detector, images and results. Nothing is printed here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnext.choices import CheckpointName, Precision, Split
from resnext.data.loader import default_file_workers
from resnext.detection.data.annotated_split import has_annotations
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation.class_matching import match_classes, merge_classes
from resnext.detection.evaluation.coco_eval import (
    MAX_DETECTIONS,
    DetectionEvaluation,
    describe_images_over_limit,
    evaluate_detections,
)
from resnext.detection.evaluation.coco_results import read_coco_results
from resnext.detection.evaluation.inference import evaluate_detector, resolve_max_detections
from resnext.detection.evaluation.protocol import OWN_SPLIT, describe_detection_protocol
from resnext.detection.evaluation.report import write_detection_report
from resnext.detection.evaluation.tables import FORMAT, write_detection_evaluation
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.model.fuse import prepare_for_inference
from resnext.detection.settings import DetectDataSettings, DetectRecipe, DetectTrainSettings
from resnext.detection.weights import load_detector
from resnext.errors import RequestError
from resnext.evaluation.output.protocol import compare_protocols, read_run_protocol
from resnext.progress_bar import show_image_progress
from resnext.run_directory import RunDirectory, is_run, read_step
from resnext.sources import BoxSource
from resnext.training.distributed import World
from resnext.training.setup import configure_process

MAX_DETECTIONS_HINT = "--max-detections N allows more"
Warn = Callable[[str], None]  # tells the user one sentence


@dataclass(frozen=True, kw_only=True)
class DetectEvalOptions:
    """What to evaluate, a detector or a file of detections, on which images, and how."""

    weights: str | None = None  # run or weights file
    detections: str | None = None  # file in COCO's results format, instead of weights
    checkpoint: CheckpointName = "best"
    precision: Precision | None = None  # None: the run's, or fp32
    bn_eps: float | None = None
    score: float | None = None  # None: the detector's
    data: str | None = None  # None: the run's own
    source: BoxSource | None = None
    annotations: str | None = None
    images: str | None = None
    split: Split = "val"
    max_detections: int | None = None  # per class and image; None: 100, or the detector's
    workers: int | None = None


def choose_detection_data(options: DetectEvalOptions, recipe: DetectRecipe | None) -> DetectDataSettings:
    """Choose the labelled images: the run's own data, or all of the data given by the options."""
    if recipe is None and options.data is None:
        raise RequestError("name the images: --data PATH, a folder of images with their annotations")
    data = DetectDataSettings() if recipe is None else recipe.data
    if options.data is not None:  # use all of it: the recipe's limits and absolute paths are for the run's own data
        names = ("train", "val", "train_images", "val_images")
        absolute = [name for name in names if Path(getattr(data, name) or "").expanduser().is_absolute()]
        elsewhere: dict[str, Any] = dict.fromkeys(absolute)
        data = replace(data, path=options.data, max_train_images=None, max_val_images=None, **elsewhere)
    if options.source is not None:
        data = replace(data, source=options.source)
    if options.annotations is not None or (options.data is not None and has_annotations(data, "val")):
        data = replace(data, val_fraction=None)  # the annotations already define the split
    images = "train_images" if data.val_fraction is not None else f"{options.split}_images"
    said: dict[str, Any] = {options.split: options.annotations, images: options.images}
    return replace(data, **{key: value for key, value in said.items() if value is not None})


def choose_run_directory(options: DetectEvalOptions, recipe: DetectRecipe | None) -> Path | None:
    """Return RUN/evaluation if the run's best checkpoint is evaluated on its own held-out images; otherwise None."""
    elsewhere = any(value is not None for value in (options.data, options.source, options.annotations, options.images))
    if options.weights is None or recipe is None or elsewhere or options.split != "val" or options.checkpoint != "best":
        return None
    return RunDirectory(Path(options.weights)).evaluation


def load_for_inference(
    weights: str, checkpoint: CheckpointName, *, bn_eps: float | None, score: float | None, warn: Warn
) -> FasterRcnn:
    """Load a detector with folded norms, another BN eps and minimum score if given; warn of the file's notes."""
    model = prepare_for_inference(load_detector(weights, checkpoint, bn_eps=bn_eps))
    for note in model.provenance.get("notes", []):
        warn(f"{weights}: {note}")
    if score is not None:
        if not 0 <= score <= 1:
            raise RequestError(f"--score {score:g} must be from 0 to 1")
        model.set_score_threshold(score)
    return model


def evaluate_file(
    options: DetectEvalOptions, dataset: DetectionDataset, warn: Warn
) -> tuple[DetectionEvaluation, dict[str, Any]]:
    """Evaluate a file of detections; return the results and their protocol."""
    assert options.detections is not None
    changed = dict(dataset.counts)
    most = options.max_detections or MAX_DETECTIONS
    evaluation = evaluate_detections(dataset, read_coco_results(Path(options.detections), dataset, changed), most)
    warn(describe_images_over_limit(dataset, most, None, MAX_DETECTIONS_HINT))
    about = describe_detection_protocol(
        None,
        None,
        data=dataset.name,
        split=describe_split(options, dataset),
        changed=changed,
        weights=str(options.detections),
        max_detections=most,
        images_over_limit=evaluation.images_over_limit,
    )
    return evaluation, about


def evaluate_model(
    options: DetectEvalOptions, dataset: DetectionDataset, recipe: DetectRecipe | None, world: World, warn: Warn
) -> tuple[DetectionEvaluation | None, dict[str, Any]]:
    """Evaluate a detector with all processes; return the results (None but in rank 0) and their protocol."""
    assert options.weights is not None
    configure_process(DetectTrainSettings() if recipe is None else recipe.train, world)
    model = load_for_inference(
        options.weights, options.checkpoint, bn_eps=options.bn_eps, score=options.score, warn=warn
    ).to(world.device)
    dataset = replace(dataset, exif=model.preprocessing.exif)
    dataset = merge_classes(dataset) if model.stage == "rpn" else dataset
    most = options.max_detections or resolve_max_detections(model)
    model.set_max_detections(max(model.settings.detections, options.max_detections or 0))
    note = match_classes(model, dataset).note
    if world.is_main:
        warn(note and f"{dataset.name}: {note}")
        warn(describe_images_over_limit(dataset, most, model.settings.detections, MAX_DETECTIONS_HINT))
    run = None if recipe is None else RunDirectory(Path(options.weights))
    precision = options.precision or (recipe.train.precision if recipe is not None else "fp32")
    workers = default_file_workers() if options.workers is None else options.workers
    with show_image_progress(len(dataset) // world.size) as progress:
        evaluation = evaluate_detector(
            model, dataset, world, most, precision=precision, workers=workers, progress=progress
        )
    is_own = choose_run_directory(options, recipe) is not None
    about = describe_detection_protocol(
        model.preprocessing,
        model.settings,
        data=dataset.name,
        split=dataset.split_rule or OWN_SPLIT if is_own else describe_split(options, dataset),
        changed=dataset.counts,
        device=str(world.device),
        precision=precision,
        bn_eps=options.bn_eps,
        weights=str(options.weights) if run is None else run.weights(options.checkpoint).name,
        checkpoint=options.checkpoint if run is not None else None,
        step=None if run is None else read_step(run.state(options.checkpoint)),
        classes=note,
        max_detections=most,
        images_over_limit=0 if evaluation is None else evaluation.images_over_limit,
    )
    return evaluation, about


def describe_split(options: DetectEvalOptions, dataset: DetectionDataset) -> str:
    """Describe which images are evaluated."""
    return f"{options.split}: {dataset.split_rule}" if dataset.split_rule else options.split


def explain_other_protocol(run: Path, recipe: DetectRecipe, about: dict[str, Any]) -> str:
    """Explain how the protocol ``about`` differs from that of the run's own evaluation; empty if it does not."""
    limits = {key: getattr(recipe.detector, key) for key in ("score", "nms", "detections")}
    most = max(MAX_DETECTIONS, recipe.detector.detections)
    usual = read_run_protocol(RunDirectory(run), FORMAT) or {
        "precision": recipe.train.precision,
        "bn_eps": None,
        "max_detections": most,
        **limits,
    }
    words = [f"{key} is {this}, not {own}" for key, (own, this) in compare_protocols(usual, about).items()]
    return f"RUN/evaluation is kept, as this protocol differs from it ({', '.join(words)}): " if words else ""


def write_results(evaluation: DetectionEvaluation, dataset: DetectionDataset, out: Path, about: dict[str, Any]) -> None:
    """Write tables and plots; for a run's own evaluation also its report, which shows the same numbers."""
    metrics = write_detection_evaluation(evaluation, dataset, out, about)
    if is_run(out.absolute().parent) and RunDirectory(out.absolute().parent).evaluation == out.absolute():
        write_detection_report(out.absolute().parent, evaluation, dataset, metrics)
