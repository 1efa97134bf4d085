"""Write the files of a classification run: samples at the start; evaluation and report at the end."""

from typing import Any

from resnext.data.dataset import Dataset, Source
from resnext.data.loader import Batch
from resnext.evaluation.evaluator import BATCH_SIZE, Evaluation, evaluate
from resnext.evaluation.metrics import compute_class_scores, from_percent
from resnext.evaluation.output.plots import plot_samples
from resnext.evaluation.output.protocol import build_protocol
from resnext.evaluation.output.report import write_report
from resnext.evaluation.output.tables import write_evaluation
from resnext.evaluation.outputs import get_preprocessing
from resnext.files import atomic_write
from resnext.model.network import Network
from resnext.plotting import save_figure
from resnext.settings import Recipe
from resnext.training.distributed_evaluation import evaluate_distributed
from resnext.training.logbook import find_last_evaluated
from resnext.training.plots import draw_curves
from resnext.training.state import TrainState

SAMPLE_COUNT = 64  # images in samples.png


def write_samples(state: TrainState[Recipe, Network, Batch], source: Source) -> None:
    """Write a grid of augmented training images, and the files that the data brings for its runs."""
    for name, text in source.extra_files.items():
        with atomic_write(state.run.path / name) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    batches = state.loader.batches(0)
    first = next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator; this stops its workers
    picture = plot_samples(
        first.images[:SAMPLE_COUNT], first.labels[:SAMPLE_COUNT], source.train.classes, get_preprocessing(state.model)
    )
    save_figure(picture, state.run.samples)


def evaluate_held_out(state: TrainState[Recipe, Network, Batch], model: Network, val: Dataset) -> Evaluation:
    """Evaluate ``model`` on the held-out images with all processes, in the precision and memory layout of training.

    With ``data.on_bad_image`` skip, unreadable images are left out, as in training. The result is the same in every
    process. Raises WorkError if another process failed.
    """
    recipe, world, preprocessing = state.recipe, state.world, get_preprocessing(state.model)
    world.broadcast_model(model)

    def evaluate_shard(rank: int, world_size: int) -> Evaluation:
        return evaluate(
            model,
            val,
            preprocessing,
            device=world.device,
            precision=recipe.train.precision,
            workers=state.loader.workers,
            start_method=recipe.data.start_method,
            channels_last=recipe.train.channels_last == "yes",
            on_bad_image=recipe.data.on_bad_image,
            rank=rank,
            world_size=world_size,
        )

    return evaluate_distributed(evaluate_shard, world, val, recipe.data.on_bad_image)


def write_final_evaluation(
    state: TrainState[Recipe, Network, Batch], source: Source, best: Network, rows: list[dict[str, Any]]
) -> str:
    """Evaluate the best network with all processes; rank 0 writes curves, tables and report.html.

    Returns a sentence about the errors; ``rows`` is the log.
    """
    evaluation = evaluate_held_out(state, best, source.val)
    if not state.world.is_main:
        return ""
    run, recipe, position = state.run, state.recipe, state.position
    draw_curves(rows, run.curves, f"{state.model.architecture.name} on {source.val.name}")
    about = build_protocol(
        get_preprocessing(state.model),
        data=source.val.name,
        split=source.split_rule + describe_left_out(evaluation),
        device=str(state.world.device),
        precision=recipe.train.precision,
        channels_last=recipe.train.channels_last == "yes",
        batch_size=BATCH_SIZE,
        weights=run.weights("best").name,
        checkpoint="best",
        step=(position.best or {}).get("step"),
    )
    metrics = write_evaluation(evaluation, source.val, get_preprocessing(state.model), run.evaluation, about)
    write_report(run.path, evaluation, metrics, source.val, get_preprocessing(state.model))
    last = find_last_evaluated(rows, "top1_error")
    is_whole = last["epoch"] <= position.epoch  # or train.max_time was over before the first evaluation
    low, high = evaluation.interval95
    best_epoch, interval = (position.best or {}).get("epoch"), f"(95 % interval {low:.2f} to {high:.2f})"
    right = evaluation.n - from_percent(last["top1_error"], evaluation.n)
    error = f"{right:,} of {evaluation.n:,} held-out images right{describe_left_out(evaluation)}: top-1 error "
    error += f"{last['top1_error']:.2f} %"
    if last["epoch"] == best_epoch:
        where = "after the last epoch, which is the best one" if is_whole else f"after step {last['step']:,}"
        return f"{error} {interval} {where}{describe_weakest_class(evaluation)}"
    return (
        f"{error} after the last epoch; {evaluation.top1_error:.2f} % {interval} at the best one, {best_epoch}, "
        f"which was chosen on these same images{describe_weakest_class(evaluation)}"
    )


def describe_left_out(evaluation: Evaluation) -> str:
    """Return a clause on the unreadable images that were left out; empty without any."""
    count = evaluation.left_out
    return f" ({count:,} unreadable image{'s' * (count != 1)} left out)" if count else ""


def describe_weakest_class(evaluation: Evaluation) -> str:
    """Return a line on the class of which the smallest share is right, and what helps; empty without mistakes."""
    scores = [score for score in compute_class_scores(evaluation.confusion, evaluation.classes) if score.images]
    weakest = min(scores, key=lambda score: score.correct / score.images)
    if weakest.correct == weakest.images:
        return ""
    return (
        f"\nfewest right: {weakest.name}, {weakest.correct:,} of {weakest.images:,}; the report shows the worst "
        "images: look for wrong labels, or add images like them"
    )
