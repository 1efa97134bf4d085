"""Write the files of a run: recipe, environment and samples at the start; evaluation and report at the end."""

import copy
import json

from rich.console import Console

from resnext.environment import describe_environment
from resnext.evaluate.evaluator import BATCH_SIZE, Evaluation, evaluate
from resnext.evaluate.output.plots import plot_samples
from resnext.evaluate.output.protocol import build_protocol
from resnext.evaluate.output.report import write_report
from resnext.evaluate.output.tables import write_evaluation
from resnext.files import atomic_write
from resnext.model.network import Network
from resnext.plotting import save_figure
from resnext.recipe import dump_recipe, make_absolute, replace_places
from resnext.train.distributed_evaluation import evaluate_distributed
from resnext.train.logbook import read_log
from resnext.train.plots import draw_curves
from resnext.train.session import BaseSession, Session
from resnext.weights import load

SAMPLE_COUNT = 64  # images in samples.png


def write_initial_files(session: Session) -> None:
    """Write the resolved recipe, the environment and a grid of augmented training images.

    recipe.yaml marks the directory as a run that can be resumed, so its first checkpoint must exist before.
    """
    run = session.run
    write_recipe_and_environment(session)
    for name, text in session.source.extra_files.items():
        with atomic_write(run.path / name, "w") as file:
            file.write(text)
    batches = session.loader.batches(0)
    first = next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator; this stops its workers
    picture = plot_samples(
        first.images[:SAMPLE_COUNT], first.labels[:SAMPLE_COUNT], session.source.train.classes, session.preprocessing
    )
    save_figure(picture, run.samples)


def write_recipe_and_environment(session: BaseSession) -> None:
    """Write recipe.yaml, with absolute paths so that it works from any directory, and environment.json."""
    with atomic_write(session.run.recipe, "w") as file:
        file.write(dump_recipe(replace_places(session.recipe, make_absolute)))
    with atomic_write(session.run.environment, "w") as file:
        json.dump(describe_environment(str(session.world.device)), file, indent=1)


def evaluate_held_out(session: Session, model: Network) -> Evaluation:
    """Evaluate ``model`` on the held-out images with all processes, in the precision and memory layout of training.

    The result is the same in every process. Raises WorkError if another process failed.
    """
    recipe, world = session.recipe, session.world
    world.broadcast_model(model)
    return evaluate_distributed(
        evaluate,
        world,
        model,
        session.source.val,
        session.preprocessing,
        precision=recipe.train.precision,
        workers=session.loader.workers,
        start_method=recipe.data.start_method,
        channels_last=recipe.train.channels_last == "yes",
    )


def write_final_report(session: Session, console: Console) -> None:
    """Evaluate the best checkpoint with all processes; rank 0 writes curves, evaluation and report.html."""
    run, position, device = session.run, session.position, session.world.device
    best = load(run.path, "best").to(device) if session.world.is_main else copy.deepcopy(session.eval_model)
    evaluation = evaluate_held_out(session, best)
    if not session.world.is_main:
        return
    rows = read_log(run.log)
    draw_curves(rows, run.curves, f"{session.model.architecture.name} on {session.source.val.name}")
    about = build_protocol(
        session.preprocessing,
        data=session.source.val.name,
        split=session.source.split_rule,
        device=str(device),
        precision=session.recipe.train.precision,
        channels_last=session.recipe.train.channels_last == "yes",
        batch_size=BATCH_SIZE,
        weights=run.weights("best").name,
        checkpoint="best",
        step=(position.best or {}).get("step"),
    )
    metrics = write_evaluation(evaluation, session.source.val, session.preprocessing, run.evaluation, about)
    write_report(run.path, evaluation, metrics)
    last = next(row for row in reversed(rows) if row["kind"] == "epoch")
    low, high = evaluation.interval95
    best_epoch, interval = (position.best or {}).get("epoch"), f"(95 % interval {low:.2f} to {high:.2f})"
    said = f"top-1 error {last['top1_error']:.2f} %"
    if last["epoch"] == best_epoch:
        said += f" {interval} after the last epoch, which is the best one"
    else:
        said += (
            f" after the last epoch; {evaluation.top1_error:.2f} % {interval} at the best one, {best_epoch}, "
            "which was chosen on these same images"
        )
    console.print(said, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"run directory  {run.path}\nreport         {run.report}", highlight=False, markup=False, soft_wrap=True
    )
