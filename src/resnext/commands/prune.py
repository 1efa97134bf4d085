"""``resnext prune``: take the least useful paths out of a trained network, and train what is left."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.choices import CHECKPOINT_NAMES, LATENCY_PRECISIONS
from resnext.commands.design import parse_amount
from resnext.commands.evaluate import parse_non_negative, parse_positive
from resnext.commands.train import add_setting_options, collect_settings
from resnext.errors import RequestError
from resnext.files import check_output
from resnext.run_directory import (
    RunDirectory,
    check_checkpoint_choice,
    check_run_kind,
    is_run,
    read_run_recipe,
)
from resnext.sources import SOURCES

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.bench.latency import LatencyRequest
    from resnext.data.dataset import Source
    from resnext.model.network import Network
    from resnext.pruning.outcome import PruneStage
    from resnext.settings import Recipe

SUMMARY = "Take the least useful paths, or channels of paths, out of each block of a trained network."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the weights, the data, how much and what is pruned, and fine-tuning with one option for each setting."""
    parser.usage = (
        f"{parser.prog} RUN_OR_WEIGHTS (--cardinality C | --width d | --macs N | --latency MS) [--data PATH] "
        "[--out FILE] [--finetune RECIPE [--SECTION.FIELD VALUE ...]]"
    )
    parser.add_argument("weights", metavar="RUN_OR_WEIGHTS", help="run directory, weights file of any format, hf://...")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    parser.add_argument("--out", metavar="FILE", help="pruned weights file (.safetensors) [named after the network]")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto [auto]")
    _add_target_options(parser)
    _add_data_options(parser)
    group = parser.add_argument_group("fine-tuning", "train the pruned network, with the whole one as its teacher")
    group.add_argument(
        "--finetune", metavar="RECIPE", help="YAML file, or a name that resnext recipes lists; its model is left out"
    )
    group.add_argument("--run", metavar="DIR", help="new run directory of fine-tuning (default: runs/NAME-DATE-TIME)")
    add_setting_options(parser)


def _add_target_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how much", "one of --cardinality, --width, --macs, --latency")
    group.add_argument("--cardinality", metavar="C", help="paths that stay in every stage, or C,C,C,C: one a stage")
    group.add_argument(
        "--width", type=parse_positive, metavar="d",
        help="channels that stay in each path of the first stage, in proportion in others; alone or with --cardinality",
    )  # fmt: skip
    group.add_argument("--macs", metavar="N", help="budget of multiply-adds for one image, such as 1.5G")
    group.add_argument(
        "--latency", type=float, metavar="MS", help="budget of milliseconds for one image, measured on this CPU"
    )
    group.add_argument(
        "--multiple", type=parse_positive, default=1, metavar="N",
        help="with a budget: stages keep multiples of N paths, which some engines compute faster [1]",
    )  # fmt: skip
    group.add_argument(
        "--engine", metavar="NAME", default="auto",
        help="engine of the measured latency: pytorch, onnxruntime, openvino, auto (the fastest), or none (no "
        "measurement) [auto]",
    )  # fmt: skip
    group.add_argument(
        "--precision", choices=LATENCY_PRECISIONS, default="fp32", help="precision of the latency [fp32]"
    )


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "data", "training images to rank paths and re-estimate BN; held-out ones to judge"
    )
    group.add_argument(
        "--data", metavar="PATH", help="folder of the images; for a run: another location of its own data"
    )
    group.add_argument("--source", choices=SOURCES, help="other data than the run's own [folder]")
    group.add_argument(
        "--val-fraction", type=float, metavar="X", help="share of the images to hold out, of a folder without val/"
    )
    group.add_argument(
        "--importance", metavar="WORD",
        help="taylor: squared first-order change of the loss (needs data); magnitude: of the weights alone [taylor]",
    )  # fmt: skip
    group.add_argument(
        "--images", type=parse_positive, default=1024, metavar="N", help="training images for taylor [1024]"
    )
    group.add_argument(
        "--recalibrate", type=parse_non_negative, default=2048, metavar="N",
        help="training images from which BN's running statistics are estimated again; 0: not [2048]",
    )  # fmt: skip
    group.add_argument("--seed", type=parse_non_negative, default=0, metavar="N", help="which training images [0]")


def run(args: argparse.Namespace) -> int:
    """Prune, judge, write and print; with ``--finetune`` also train. Returns 0."""
    from resnext.device import pick_device
    from resnext.files import compute_sha256
    from resnext.pruning.outcome import judge, print_outcome
    from resnext.pruning.prune import prune, recalibrate_on
    from resnext.screen import make_screen, print_line
    from resnext.weights import find_weights_file, load, native
    from resnext.weights.writers import write_verified

    cardinality = None if args.cardinality is None else parse_cardinality(args.cardinality)
    macs = None if args.macs is None else parse_amount(args.macs)
    check_options(args)
    file = find_weights_file(args.weights, args.checkpoint)
    model = load(args.weights, args.checkpoint)
    latency = build_latency_request(args)
    source = open_source(args, model)
    recipe = read_finetune_recipe(args, model, file)
    if args.out is not None:
        check_out(Path(args.out), file, args.overwrite)
    console = make_screen()
    model.to(pick_device(args.device))
    train, val = (None, None) if source is None else (source.train, source.val)
    pruned = prune(
        model, train,
        cardinality=cardinality, width=args.width, macs=macs, latency=args.latency, multiple=args.multiple,
        engine=args.engine, precision=args.precision, importance=args.importance, images=args.images, recalibrate=0,
        seed=args.seed, report=lambda line: print_line(console, line),
    )  # fmt: skip
    about = pruned.provenance["prune"]
    about["parent"] = {"file": file.name, "sha256": compute_sha256(file) if file.is_file() else None}
    stages = [judge("whole", model, val), judge("pruned", pruned, val)]
    if train is not None and args.recalibrate:
        about["recalibrated_images"] = recalibrate_on(pruned, train, args.recalibrate, seed=args.seed)
        stages.append(judge("BN re-estimated", pruned, val))
    out = choose_out(args.out, pruned, file, args.overwrite)
    write_verified(pruned.cpu(), out, native.save)
    print_outcome(console, stages, (model, pruned), latency)
    if train is None:
        print_line(console, NO_DATA)
    print_line(console, f"written: {out}, SHA-256 {compute_sha256(out)}")
    if recipe is not None:
        finetune(args, recipe, out, console, source, stages)
    return 0


NO_DATA = (
    "without data, paths were ranked by magnitude, BN keeps the statistics of the whole network, and no error was "
    "measured; give --data or --source"
)


def check_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that cannot be combined."""
    check_checkpoint_choice(args.checkpoint, [args.weights])
    check_run_kind(
        args.weights, "classification", f"resnext convert {args.weights} OUT for its backbone, and prune OUT"
    )
    if args.engine == "none" and args.latency is not None:
        raise RequestError("--latency needs an engine to measure with; leave out --engine none")
    if args.multiple > 1 and args.macs is None and args.latency is None:
        raise RequestError("--multiple rounds what a budget leaves: it needs --macs or --latency")
    if args.val_fraction is not None and args.source is None and (args.data is None or is_run(Path(args.weights))):
        raise RequestError("--val-fraction is for a folder given by --data; a run keeps its own split")
    given = collect_settings(args)
    if args.finetune is None and (given or args.run is not None):
        raise RequestError(f"--{next(iter(given), 'run')} is for fine-tuning: give --finetune RECIPE")
    for key in given:
        if key.startswith("model.") or key == "init.weights":
            raise RequestError(f"--{key} has no place here: fine-tuning trains the pruned network")


def parse_cardinality(text: str) -> int | tuple[int, ...]:
    """Parse ``8`` or ``8,16,16,32``. Raises RequestError."""
    try:
        values = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise RequestError(
            f"--cardinality {text!r} must be a whole number, or one a stage such as 8,16,16,32"
        ) from None
    return values[0] if len(values) == 1 else values


def build_latency_request(args: argparse.Namespace) -> "LatencyRequest | None":
    """Return what latency is measured with; None with ``--engine none``. Raises RequestError for a missing engine."""
    from resnext.bench.latency import LatencyRequest

    if args.engine == "none":
        args.engine = "auto"
        return None
    request = LatencyRequest(args.engine, args.precision)
    request.check()
    return request


def open_source(args: argparse.Namespace, model: "Network") -> "Source | None":
    """Open both splits of the run's own data, or of ``--data`` and ``--source``; None if there are neither."""
    from dataclasses import replace

    from resnext.data.sources.registry import open_data
    from resnext.recipe import build_settings
    from resnext.settings import DataSettings

    if args.source is None and is_run(Path(args.weights)):
        own = read_run_recipe(args.weights).data
        return open_data(own if args.data is None else replace(own, path=args.data))
    if args.source is None and args.data is None:
        return None
    values = {"source": args.source or "folder", "path": args.data, "val_fraction": args.val_fraction}
    values |= {} if model.preprocessing is None else {"exif": model.preprocessing.exif}
    return open_data(build_settings(DataSettings, values, "data."))


def read_finetune_recipe(args: argparse.Namespace, model: "Network", file: Path) -> "Recipe | None":
    """Read the recipe of fine-tuning, without its model; the teacher is ``file`` unless an option names another.

    Raises RequestError if it is not valid, or its data has other classes than the network.
    """
    if args.finetune is None:
        return None
    from dataclasses import replace

    from resnext.data.classes import check_same_classes
    from resnext.data.sources.registry import open_data
    from resnext.recipe import read_recipe
    from resnext.settings_shared import ModelSettings
    from resnext.training.request import choose_run_directory

    args.run = choose_run_directory(args.run, f"{Path(args.finetune).stem}-pruned").path
    settings: dict[str, Any] = {"init.weights": str(file), "distill.weights": str(file.absolute())}
    recipe = replace(read_recipe(args.finetune, settings | collect_settings(args)), model=ModelSettings())
    if model.classes is not None:
        data = open_data(recipe.data).train
        check_same_classes(model.classes, data.classes, f"{data.name}, the data of --finetune {args.finetune}")
    return recipe


def choose_out(out: str | None, pruned: "Network", file: Path, overwrite: bool) -> Path:
    """Choose the file to write. Raises RequestError if it exists or cannot be written."""
    path = Path(f"{pruned.architecture.name.split(' ')[0]}.safetensors") if out is None else Path(out)
    check_out(path, file, overwrite)
    return path


def check_out(out: Path, file: Path, overwrite: bool) -> None:
    """Raise RequestError if the weights made of ``file`` cannot be written to ``out``, or its name says other ones."""
    if out.suffix != ".safetensors":
        raise RequestError(
            f"--out {out} must end in .safetensors; resnext convert and resnext export write other formats"
        )
    check_output(out, (file,), folder=False, overwrite=overwrite)


def finetune(
    args: argparse.Namespace,
    recipe: "Recipe",
    pruned: Path,
    console: "Console",
    source: "Source | None",
    stages: "list[PruneStage]",
) -> None:
    """Train the pruned network into the run directory; print the errors before and after."""
    from dataclasses import replace

    from resnext.pruning.outcome import judge, print_outcome
    from resnext.training.classification import Classification
    from resnext.training.loop import run_training
    from resnext.weights import load

    recipe = replace(recipe, init=replace(recipe.init, weights=str(pruned)))
    directory = RunDirectory(Path(args.run))
    run_training(Classification, recipe, directory, console=console)
    if source is not None:
        stages.append(judge("fine-tuned", load(directory.path, args.checkpoint), source.val))
        print_outcome(console, stages, (), None)
