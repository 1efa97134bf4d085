"""Write the files of a detection run: recipe and samples at the start, evaluation and report at the end."""

from typing import Any

from rich.console import Console
from torch import Tensor

from resnext.detect.evaluate.class_matching import match_classes
from resnext.detect.evaluate.coco_eval import DetectionEvaluation
from resnext.detect.evaluate.inference import evaluate_detector
from resnext.detect.evaluate.plots import plot_training_samples
from resnext.detect.evaluate.protocol import OWN_SPLIT, describe_detection_protocol
from resnext.detect.evaluate.report import write_detection_report
from resnext.detect.evaluate.tables import write_detection_evaluation
from resnext.detect.train.initial_weights import restore_detector
from resnext.detect.train.plots import plot_training_curves
from resnext.detect.train.session import DetectSession
from resnext.plotting import save_figure
from resnext.train.checkpoint import read_checkpoint
from resnext.train.logbook import read_log
from resnext.train.outputs import write_recipe_and_environment

SAMPLE_COUNT = 12  # images in samples.png


def write_initial_files(session: DetectSession) -> None:
    """Write the resolved recipe, the environment, and a few augmented training images."""
    write_recipe_and_environment(session)
    images: list[Tensor] = []
    boxes: list[Tensor] = []
    labels: list[Tensor] = []
    batches = session.loader.batches(0)
    for batch in batches:
        images, boxes, labels = images + batch.images, boxes + batch.boxes, labels + batch.labels
        if len(images) >= SAMPLE_COUNT:
            break
    batches.close()  # type: ignore[attr-defined]  # a generator: stops its workers
    save_figure(plot_training_samples(images, boxes, labels, session.model.classes, SAMPLE_COUNT), session.run.samples)


def evaluate_held_out(session: DetectSession, model: Any) -> DetectionEvaluation | None:
    """Evaluate ``model`` on the held-out images like ``resnext detect evaluate RUN``; None except on the main rank."""
    session.world.broadcast_model(model)
    return evaluate_detector(
        model,
        session.val,
        session.world,
        precision=session.recipe.train.precision,
        workers=session.loader.workers,
        start_method=session.recipe.data.start_method,
    )


def write_final_report(session: DetectSession, console: Console) -> None:
    """Write curves, the evaluation of the best checkpoint and report.html; print the results and paths."""
    run, position, device = session.run, session.position, session.world.device
    files = read_checkpoint(run, "best") if session.world.is_main else {}
    best = restore_detector(session.world.broadcast_bytes(files.get("model", b""))).to(device)
    evaluation = evaluate_held_out(session, best)
    if evaluation is None:
        return
    rows = read_log(run.log)
    save_figure(plot_training_curves(rows, f"{session.model.architecture.name} on {session.val.name}"), run.curves)
    about = describe_detection_protocol(
        best.preprocessing,
        best.settings,
        data=session.val.name,
        split=session.val.split_rule or OWN_SPLIT,
        changed=session.val.counts,
        device=str(device),
        precision=session.recipe.train.precision,
        weights=run.weights("best").name,
        checkpoint="best",
        step=(position.best or {}).get("step"),
        classes=match_classes(best, session.val).note,
        max_detections=evaluation.max_detections,
        images_over_limit=evaluation.images_over_limit,
    )
    metrics = write_detection_evaluation(evaluation, session.val, run.evaluation, about)
    write_detection_report(run.path, evaluation, session.val, metrics)
    last = next(row for row in reversed(rows) if row["kind"] == "epoch")
    best_epoch, said = (
        (position.best or {}).get("epoch"),
        f"AP {format_percent(last['ap'])}, AP50 {format_percent(last['ap50'])}",
    )
    if last["epoch"] == best_epoch:
        said += " after the last epoch, which is the best"
    else:
        said += (
            f" after the last epoch; AP {format_percent(evaluation.ap)}, AP50 {format_percent(evaluation.ap50)} "
            "after the best, "
            f"epoch {best_epoch}, which was chosen on the same images"
        )
    console.print(said, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"run directory  {run.path}\nreport         {run.report}", highlight=False, markup=False, soft_wrap=True
    )


def format_percent(value: float | None) -> str:
    """Format a share as a percentage."""
    return "–" if value is None else f"{100 * value:.1f} %"
