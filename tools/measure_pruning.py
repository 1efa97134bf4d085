"""Measure error against latency of networks pruned by paths, beside the same networks trained from scratch.

    python tools/measure_pruning.py RECIPE --work /tmp/pruning --out results/pruning.csv [--set data.path=...]

For each seed: the recipe's network is trained; it is pruned to each share of its paths (``resnext prune``); the rest
is fine-tuned with the whole network as its teacher; and a network of the same shape is trained from scratch for as many
epochs as take the time of whole network and fine-tuning together, by steps timed in turn. If Torch-Pruning can be
imported, it prunes the whole network too (by Taylor importance, the width d of all paths, since it keeps the groups of
a convolution), to the nearest cost, and is fine-tuned in the same way. Latency is measured in turn with the whole
network.

Rows and runs that are there already are used again, so the command can be stopped and repeated.
"""

import argparse
import csv
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml

import resnext
from resnext.bench.latency import LatencyRequest, measure_latencies
from resnext.bench.measure import Candidate, time_interleaved
from resnext.bench.peers import OURS
from resnext.bench.train_step import StepConfig, TrainStep, tune_plan
from resnext.child_runs import open_begun_run
from resnext.data.dataset import Dataset
from resnext.device import autocast
from resnext.environment import read_cpu_name
from resnext.evaluation.outputs import get_preprocessing
from resnext.files import atomic_write
from resnext.model.architecture import Architecture
from resnext.model.network import Network, convert_form, rebuild_network
from resnext.plotting import BLUE, MUTED, RED, add_title, create_figure, draw_grid, plot_style, save_figure
from resnext.pruning.images import iterate_images
from resnext.pruning.prune import BATCH_SIZE, IMPORTANCE_IMAGES, RECALIBRATION_IMAGES, recalibrate_on
from resnext.settings import DistillSettings, Recipe
from resnext.settings_shared import DEFAULT_EPOCHS, InitSettings, ModelSettings
from resnext.weights.infer_architecture import infer_architecture

COLUMNS = (
    "seed", "method", "keep", "network", "top1_error", "images", "macs", "parameters", "latency_ms", "whole_latency_ms",
    "engine", "threads", "epochs", "train_seconds", "total_seconds", "cpu", "versions", "date", "command",
)  # fmt: skip
TIMED_ROUNDS = 15  # of training steps
LINES = {  # method -> color and style of its line
    "pruned": (BLUE, ":"),
    "fine-tuned": (BLUE, "-"),
    "scratch": (RED, "-"),
    "torch-pruning": (MUTED, ":"),
    "torch-pruning, fine-tuned": (MUTED, "-"),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What is measured."""

    recipe: Recipe
    work: Path
    finetune_epochs: int
    finetune_lr: float
    alpha: float
    temperature: float
    latency: LatencyRequest


def main() -> None:
    """Measure what is missing; write the CSV after each row, and the picture."""
    args = parse_arguments()
    overrides = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in args.set)}
    recipe = resnext.load_recipe(args.recipe, overrides)
    assert isinstance(recipe, Recipe), "a recipe of classification is needed"
    epochs = recipe.train.epochs or DEFAULT_EPOCHS
    study = Study(
        recipe,
        args.work,
        args.finetune_epochs or max(1, epochs // 4),
        args.finetune_lr or recipe.optimizer.lr / 5,
        args.alpha,
        args.temperature,
        LatencyRequest(args.engine),
    )
    rows = read_rows(args.out)
    for seed in args.seeds:
        for method, keep, measure in list_pieces(study, seed, args.keep):
            if any((r["seed"], r["method"], r["keep"]) == (str(seed), method, str(keep)) for r in rows):
                continue
            row = {"seed": str(seed), "method": method, "keep": str(keep), **measure(), **describe_place()}
            rows.append({key: str(value) for key, value in row.items()})
            print(", ".join(f"{key} {rows[-1][key]}" for key in COLUMNS[:15] if key in rows[-1]), flush=True)
            write_rows(rows, args.out)
    draw(rows, args.out.with_suffix(".png"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="RECIPE", help="recipe of the whole network")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="change the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=float, nargs="+", default=[0.75, 0.5, 0.25], help="shares of the paths")
    parser.add_argument("--finetune-epochs", type=int, help="[a quarter of the recipe's]")
    parser.add_argument("--finetune-lr", type=float, help="[a fifth of the recipe's]")
    parser.add_argument("--alpha", type=float, default=0.5, help="share of the teacher in the loss [0.5]")
    parser.add_argument("--temperature", type=float, default=4.0, help="of distillation [4]")
    parser.add_argument("--engine", default="auto", help="of the latency [auto]")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for runs and weights files")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    return parser.parse_args()


def list_pieces(study: Study, seed: int, shares: Sequence[float]) -> list[tuple[str, float, Callable[[], Row]]]:
    """List (method, share, function that measures it) in the order in which they build on each other."""
    pieces: list[tuple[str, float, Callable[[], Row]]] = [("whole", 1.0, partial(measure_whole, study, seed))]
    for share in shares:
        pieces += [
            ("pruned", share, partial(measure_pruned, study, seed, share)),
            ("fine-tuned", share, partial(measure_finetuned, study, seed, share, get_pruned)),
            ("scratch", share, partial(measure_scratch, study, seed, share)),
        ]
        if find_spec("torch_pruning") is not None:
            pieces += [
                ("torch-pruning", share, partial(measure_peer, study, seed, share)),
                ("torch-pruning, fine-tuned", share, partial(measure_finetuned, study, seed, share, get_peer)),
            ]
    return pieces


def measure_whole(study: Study, seed: int) -> Row:
    run = get_whole(study, seed)
    return judge(study, seed, run.load("last")) | describe_training(run)


def measure_pruned(study: Study, seed: int, share: float) -> Row:
    return judge(study, seed, resnext.load(get_pruned(study, seed, share)))


def measure_peer(study: Study, seed: int, share: float) -> Row:
    return judge(study, seed, resnext.load(get_peer(study, seed, share)))


def measure_finetuned(study: Study, seed: int, share: float, get: Callable[[Study, int, float], Path]) -> Row:
    whole, run = get_whole(study, seed), get_finetuned(study, seed, share, get)
    return judge(study, seed, run.load("last")) | describe_training(run, whole)


def measure_scratch(study: Study, seed: int, share: float) -> Row:
    """Train the pruned shape from scratch for the time of whole network and fine-tuning."""
    whole, pruned = get_whole(study, seed).load("last"), resnext.load(get_pruned(study, seed, share))
    begun = open_begun_run(study.work / f"{seed}-scratch-{share:g}")
    epochs = (
        count_scratch_epochs(study, whole, pruned) if begun is None else begun.recipe.train.epochs or DEFAULT_EPOCHS
    )
    run = train(study, seed, f"scratch-{share:g}", scratch_recipe(study, pruned.architecture, epochs))
    return judge(study, seed, run.load("last")) | describe_training(run)


def count_scratch_epochs(study: Study, whole: Network, pruned: Network) -> int:
    """Count the epochs that take the time of the whole network's and of fine-tuning, by steps timed in turn."""
    settings = study.recipe.train
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    config, batch, size = StepConfig(OURS, settings.precision), settings.batch_size, get_preprocessing(whole).image_size

    def make_step(a: Architecture) -> TrainStep:
        return TrainStep(a, config, batch, size, tune_plan(a, batch, size, settings.precision))

    train_whole, train_pruned, teacher = map(make_step, (whole.architecture, pruned.architecture, whole.architecture))
    teacher.model.eval()

    def teach() -> None:
        with torch.no_grad(), autocast(teacher.images.device, settings.precision):
            teacher.model(teacher.images)

    candidates = Candidate("whole", train_whole, batch), Candidate("pruned", train_pruned, batch)
    timings = time_interleaved([*candidates, Candidate("teacher", teach, batch)], TIMED_ROUNDS)
    of_whole, of_pruned, of_teacher = (1 / timing.median for timing in timings)
    seconds = (settings.epochs or DEFAULT_EPOCHS) * of_whole + study.finetune_epochs * (
        of_pruned + of_teacher
    )  # for each image
    return max(1, round(seconds / of_pruned))


def get_whole(study: Study, seed: int) -> resnext.Run:
    return train(study, seed, "whole", study.recipe)


def get_pruned(study: Study, seed: int, share: float) -> Path:
    """Prune the whole network to a share of the paths in every stage, unless the file is there."""
    file = study.work / f"{seed}-pruned-{share:g}.safetensors"
    if not file.exists():
        model = get_whole(study, seed).load("last")
        counts = tuple(max(1, round(share * c)) for c in model.architecture.cardinalities)
        resnext.save(resnext.prune(model, open_train(study), cardinality=counts, seed=seed), file)
    return file


def get_peer(study: Study, seed: int, share: float) -> Path:
    """Prune the whole network by Torch-Pruning to about the same multiply-adds, unless the file is there."""
    file = study.work / f"{seed}-torch-pruning-{share:g}.safetensors"
    if not file.exists():
        model = get_whole(study, seed).load("last")
        size = get_preprocessing(model).image_size
        budget = resnext.complexity(resnext.load(get_pruned(study, seed, share)), size).macs
        width = model.architecture.width or 1
        costs = {d: resnext.complexity(model.architecture.change(width=d), size).macs for d in range(1, width)}
        nearest = min(costs, key=lambda d: abs(costs[d] - budget))
        pruned = prune_widths(model, open_train(study), 1 - nearest / width, seed)
        recalibrate_on(pruned, open_train(study), RECALIBRATION_IMAGES, seed=seed)
        resnext.save(pruned, file)
    return file


def prune_widths(model: Network, data: Dataset, ratio: float, seed: int) -> Network:
    """Prune the channels inside the blocks by Torch-Pruning: ``ratio`` of each path, all paths of a block alike."""
    import torch_pruning  # type: ignore[import-not-found, unused-ignore]

    network = convert_form(model, "grouped").eval()
    size, device = get_preprocessing(model).image_size, torch.device("cpu")
    images = iterate_images(
        data, get_preprocessing(model), IMPORTANCE_IMAGES, batch_size=BATCH_SIZE, seed=seed, device=device
    )
    inside = ("conv1", "conv2")
    outside = [
        module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        and not (name.startswith("layer") and name.rpartition(".")[2] in inside)
    ]
    example = torch.zeros(1, network.architecture.in_channels, size, size)
    importance = torch_pruning.importance.GroupTaylorImportance()
    pruner = torch_pruning.pruner.MetaPruner(
        network, example, importance=importance, pruning_ratio=ratio, ignored_layers=outside
    )
    for batch, labels in images:
        F.cross_entropy(network(batch), labels).backward()
    pruner.step()
    state = network.state_dict()
    known = {name: getattr(model.architecture, name) for name in ("shortcut", "bn_eps", "stride_in_1x1")}
    return rebuild_network(model, infer_architecture(state, "the network of Torch-Pruning", **known), state)


def get_finetuned(study: Study, seed: int, share: float, get: Callable[[Study, int, float], Path]) -> resnext.Run:
    """Train a pruned network with the whole one as its teacher."""
    file, recipe = get(study, seed, share), study.recipe
    teacher = str(get_whole(study, seed).weights("last").absolute())
    return train(
        study,
        seed,
        f"{file.stem.removeprefix(f'{seed}-')}-tuned",
        replace(
            set_epochs(recipe, study.finetune_epochs),
            model=ModelSettings(),
            init=InitSettings(weights=str(file.absolute())),
            optimizer=replace(recipe.optimizer, lr=study.finetune_lr),
            distill=DistillSettings(weights=teacher, alpha=study.alpha, temperature=study.temperature),
        ),
    )


def scratch_recipe(study: Study, a: Architecture, epochs: int) -> Recipe:
    """Change the recipe to another number of paths, and of epochs."""
    settings = replace(study.recipe.model, cardinality=None, width=None)
    model = replace(settings, stage_cardinalities=a.cardinalities, stage_widths=a.stage_widths)
    return replace(set_epochs(study.recipe, epochs), model=model)


def set_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Change the number of epochs, and warm-up and milestones in proportion."""
    share = epochs / (recipe.train.epochs or DEFAULT_EPOCHS)
    milestones = tuple(share * milestone for milestone in recipe.schedule.milestones)
    schedule = replace(recipe.schedule, warmup_epochs=share * recipe.schedule.warmup_epochs, milestones=milestones)
    return replace(recipe, schedule=schedule, train=replace(recipe.train, epochs=epochs))


def train(study: Study, seed: int, name: str, recipe: Recipe) -> resnext.Run:
    """Train, resume or open the run of this name."""
    run = study.work / f"{seed}-{name}"
    if not (run / "report.html").exists():
        print(f"training {run}", flush=True)
        resnext.train(replace(recipe, train=replace(recipe.train, seed=seed)), run, resume=None, quiet=True)
    return resnext.open_run(run)


def open_train(study: Study) -> Dataset:
    return resnext.open_data(study.recipe.data).train


def judge(study: Study, seed: int, network: Network) -> Row:
    """Evaluate a network on the held-out images, count its cost, and time it in turn with the whole one."""
    evaluation = resnext.evaluate(network, resnext.open_data(study.recipe.data).val)
    cost = resnext.complexity(network, get_preprocessing(network).image_size)
    whole, latency = measure_latencies([get_whole(study, seed).load("last"), network], study.latency)
    return {
        "network": network.architecture.name,
        "top1_error": f"{evaluation.top1_error:.2f}",
        "images": evaluation.n,
        "macs": cost.macs,
        "parameters": cost.parameters,
        "latency_ms": f"{latency.milliseconds:.4g}",
        "whole_latency_ms": f"{whole.milliseconds:.4g}",
        "engine": latency.engine,
        "threads": torch.get_num_threads(),
    }


def sum_seconds(run: resnext.Run) -> float:
    return float(run.speed["seconds"].sum())


def describe_training(run: resnext.Run, before: resnext.Run | None = None) -> Row:
    """Return epochs and seconds of a run, and the seconds together with the run ``before``."""
    seconds = sum_seconds(run)
    total = seconds + (0 if before is None else sum_seconds(before))
    return {"epochs": len(run.speed["seconds"]), "train_seconds": f"{seconds:.1f}", "total_seconds": f"{total:.1f}"}


def describe_place() -> Row:
    names = ["torch", "openvino", "torch-pruning"]
    found = [name for name in names if find_spec(name.replace("-", "_")) is not None]
    return {
        "cpu": read_cpu_name(),
        "versions": " ".join(f"{name}-{version(name)}" for name in found),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]),
    }


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(rows: list[Row], path: Path) -> None:
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[Row], path: Path) -> None:
    """Draw error against latency relative to the whole network: mean over seeds, bars of a standard deviation."""
    with plot_style():
        figure = create_figure(7, 4.4)
        axes = figure.add_axes((0.1, 0.13, 0.86, 0.7))
        draw_grid(axes)
        seeds = len({row["seed"] for row in rows})
        for method, (color, style) in LINES.items():
            points = [average(rows, method, keep) for keep in sorted({row["keep"] for row in rows}, key=float)]
            there = [point for point in points if point is not None]
            if there:
                x, y, spread = ([point[i] for point in there] for i in range(3))
                axes.errorbar(x, y, spread, color=color, linestyle=style, marker="o", markersize=4, label=method)
        whole = average(rows, "whole", "1.0")
        if whole is not None:
            x, y, spread = ([value] for value in whole)
            axes.errorbar(x, y, spread, color="black", marker="s", linestyle="", label="whole network")
        axes.set(xlabel="latency relative to the whole network", ylabel="top-1 error (%)")
        axes.legend()
        about = f"mean and standard deviation over {seeds} seed{'s' if seeds > 1 else ''}, {rows[0]['images']} images"
        add_title(figure, "Networks pruned to a share of their paths", about)
    save_figure(figure, path)


def average(rows: list[Row], method: str, keep: str) -> tuple[float, float, float] | None:
    """Return mean relative latency, mean error and its standard deviation of a method at a share."""
    found = [row for row in rows if (row["method"], row["keep"]) == (method, keep)]
    if not found:
        return None
    errors = [float(row["top1_error"]) for row in found]
    ratios = [float(row["latency_ms"]) / float(row["whole_latency_ms"]) for row in found]
    return statistics.mean(ratios), statistics.mean(errors), statistics.stdev(errors) if len(errors) > 1 else 0.0


if __name__ == "__main__":
    main()
