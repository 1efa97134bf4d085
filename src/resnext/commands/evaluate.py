"""``resnext evaluate``: evaluate a run or a weights file on labelled images; write tables, plots and the report."""

import argparse
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.choices import CHECKPOINT_NAMES, COMBINE_METHODS, PRECISIONS, SPLITS
from resnext.commands import engine_options
from resnext.errors import RequestError
from resnext.evaluation.options import EvalOptions
from resnext.files import check_output_directory
from resnext.run_directory import RunDirectory, check_checkpoint_choice, check_run_kind
from resnext.settings_shared import RunSettings
from resnext.sources import SOURCES

if TYPE_CHECKING:
    from resnext.evaluation.classifier import Classifier
    from resnext.evaluation.evaluator import Evaluation
    from resnext.evaluation.label_mapping import LabelMapping
    from resnext.evaluation.setup import EvalNetworks, EvalRuntime
    from resnext.training.distributed import World

SUMMARY = "Evaluate a run or a weights file on labelled images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for weights, images, views, computation and output."""
    parser.add_argument(
        "weights", nargs="+", metavar="RUN_OR_WEIGHTS",
        help="run directory, weights file of any format, hf://...; several form an ensemble",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="PATH",
        help="folder of the images; for a run without --source: another location of its own data",
    )  # fmt: skip
    parser.add_argument("--source", choices=SOURCES, help="other data than the run's own; folder: all images in PATH")
    parser.add_argument("--split", choices=SPLITS, default="val", help="held-out or training images [val]")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    add_view_options(parser)
    add_benchmark_options(parser)
    parser.add_argument(
        "--batch-size", type=parse_positive, default=256, metavar="N",
        help="images per batch; results depend on it only by rounding [256]",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=(*PRECISIONS, "int8", "auto"),
        help="precision of the convolutions; int8 and auto need --engine [the run's, or fp32]",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=parse_non_negative, metavar="N",
        help="loading processes [0 for data in memory, else one per core]",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto [auto]")
    parser.add_argument("--out", metavar="DIR", help="output folder for tables and plots [RUN/evaluation]")
    engine_options.add_engine_options(parser)


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for views and for averaging."""
    view = parser.add_argument_group("view", "crops of each image [one centre crop, as stored with the weights]")
    view.add_argument(
        "--view", default="center", metavar="VIEW",
        help="center, center+flip, ten-crop, dense (fully convolutional at shorter sides 224,256,384,480,640), "
        "dense:256,384+flip",
    )  # fmt: skip
    view.add_argument(
        "--combine", choices=COMBINE_METHODS,
        help="what is averaged over views and networks [logits over views, probabilities over networks]",
    )  # fmt: skip
    view.add_argument("--image-size", type=parse_positive, metavar="N", help="side of the crop, pixels [the weights']")
    view.add_argument(
        "--resize", type=parse_positive, metavar="N", help="shorter side before the crop [the weights', in proportion]"
    )


def add_benchmark_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for restricted classes, ReaL labels and corruptions."""
    asked = parser.add_argument_group("classes, labels and corruptions")
    asked.add_argument(
        "--restrict", metavar="CLASSES",
        help="predict only these classes: imagenet1k (of a larger ImageNet), data (those of the data), or a file with "
        "one name per line",
    )  # fmt: skip
    asked.add_argument("--real", metavar="FILE", help="also compute the error on ReaL labels (real.json)")
    asked.add_argument(
        "--corruptions", metavar="DIR", help="evaluate on ImageNet-C: DIR/CORRUPTION/SEVERITY/CLASS/IMAGE"
    )
    asked.add_argument(
        "--corrupt", metavar="NAMES", help="corrupt the images on the fly: names separated by commas, or all"
    )
    asked.add_argument(
        "--severity", type=parse_severities, metavar="N",
        help="severity of --corrupt: 1 to 5, or several such as 1,3,5 [3]",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Evaluate, print and write the tables; return 0. With torchrun, the images are divided among the processes."""
    from resnext.evaluation.setup import load_networks
    from resnext.model.network import Network
    from resnext.training.distributed import init_distributed
    from resnext.training.setup import configure_process

    check_options(args)
    for name in args.weights:
        check_run_kind(name, "classification", f"resnext detect evaluate {name}")
    with init_distributed(engine_options.choose_device_name(args)) as world:
        networks = load_networks(args.weights, build_options(args), partial(engine_options.load_model, args))
        if args.engine is None:
            configure_process(networks.recipe.train if networks.recipe else RunSettings(), world)
        for model in networks.models:
            if isinstance(model, Network):
                model.to(world.device)
        runtime = build_runtime(args, networks, world)
        if args.corruptions is not None or args.corrupt is not None:
            return run_corruptions(args, networks, runtime, world)
        return run_evaluation(args, networks, runtime, world)


def build_options(args: argparse.Namespace) -> EvalOptions:
    """Build the options of the evaluation from the arguments of the same names."""
    return EvalOptions(**{field.name: getattr(args, field.name) for field in fields(EvalOptions)})


def build_runtime(args: argparse.Namespace, networks: "EvalNetworks", world: "World") -> "EvalRuntime":
    """Build the runtime: the networks themselves; or, with ``--engine`` or exported files, predictors.

    ``precision`` then names their engines.
    """
    from resnext.evaluation.setup import EvalRuntime
    from resnext.model.network import Network

    precision = args.precision or networks.default_precision
    if args.engine is None and all(isinstance(model, Network) for model in networks.models):
        return EvalRuntime(world.device, precision, networks.models)
    running: list[Classifier] = []
    for model, weights, p in zip(networks.models, args.weights, networks.preprocessings, strict=True):
        if isinstance(model, Network) and args.engine is not None:
            batch = min(args.batch_size, 32)
            running.append(engine_options.build_predictor(args, model, weights, precision, p.image_size, batch))
        else:
            running.append(model)
    engines = " + ".join(getattr(model, "engine", precision) for model in running)
    return EvalRuntime(world.device, engines, running, has_engine=True)


def evaluate_all_ranks(
    args: argparse.Namespace, networks: "EvalNetworks", runtime: "EvalRuntime", mapping: "LabelMapping", world: "World"
) -> "Evaluation":
    """Evaluate the networks on every image once, divided among the processes."""
    from resnext.evaluation.setup import evaluate_networks
    from resnext.progress_bar import show_image_progress
    from resnext.training.distributed_evaluation import evaluate_distributed

    with show_image_progress(len(mapping.dataset) // world.size) as progress:

        def evaluate_shard(rank: int, world_size: int) -> "Evaluation":
            options = build_options(args)
            return evaluate_networks(
                networks, options, runtime, mapping, progress=progress, rank=rank, world_size=world_size
            )

        return evaluate_distributed(evaluate_shard, world, mapping.dataset)


def run_evaluation(args: argparse.Namespace, networks: "EvalNetworks", runtime: "EvalRuntime", world: "World") -> int:
    """Evaluate on one data set: print the metrics, write tables and plots."""
    from resnext.evaluation.evaluator import check_compatible
    from resnext.evaluation.output.console import print_evaluation, print_published
    from resnext.evaluation.output.report import write_report
    from resnext.evaluation.output.tables import FILES, FORMAT, write_evaluation
    from resnext.evaluation.setup import choose_data, choose_directory, describe_evaluation
    from resnext.evaluation.suites.real import check_imagenet_validation, read_real_labels, score_real
    from resnext.screen import make_screen

    console, options = make_screen(), build_options(args)
    labels = None if args.real is None else read_real_labels(Path(args.real))
    chosen = choose_data(networks, options, args.data)
    mapping = networks.map_labels(chosen.dataset, args.restrict)
    for model in networks.models:
        check_compatible(model, mapping.dataset, mapping.output_indices)
    if labels is not None:
        check_imagenet_validation(mapping.dataset)
    data = None if chosen.is_run_data else chosen.dataset.name
    out = choose_directory(networks, options, runtime, data=data, out=args.out)
    if out is not None:
        check_output_directory(out, FILES, FORMAT)
    evaluation = evaluate_all_ranks(args, networks, runtime, mapping, world)
    if not world.is_main:
        return 0
    about = describe_evaluation(networks, options, runtime, mapping, chosen.split)
    real = None if labels is None else score_real(evaluation, labels)
    own_run = networks.run if networks.run and out == RunDirectory(networks.run).evaluation else None
    if out is not None:
        metrics = write_evaluation(evaluation, mapping.dataset, networks.preprocessing, out, about, real=real)
        if own_run is not None:
            write_report(own_run, evaluation, metrics, mapping.dataset, networks.preprocessing)
    print_evaluation(console, evaluation, about, real)
    if len(networks.models) == 1:
        print_published(console, networks.model, args.weights[0], evaluation, about)
    console.print("Give --out DIR to keep the tables and plots." if out is None else f"tables and plots: {out}")
    if own_run is not None:
        console.print(f"report: {RunDirectory(own_run).report}")
    return 0


def run_corruptions(args: argparse.Namespace, networks: "EvalNetworks", runtime: "EvalRuntime", world: "World") -> int:
    """Evaluate on ImageNet-C, or on images corrupted on the fly: errors, their mean, and the mCE if possible."""
    from resnext.evaluation.corruption_suites import create_corruption_suite, open_imagenet_c
    from resnext.evaluation.output.console import print_corruptions
    from resnext.evaluation.output.corruption_tables import FILES, FORMAT, write_corruptions
    from resnext.evaluation.setup import choose_directory, describe_evaluation
    from resnext.evaluation.suites.imagenet_c import CorruptionResult
    from resnext.screen import make_screen

    console, options, official = make_screen(), build_options(args), args.corruptions is not None
    if official:
        suite = open_imagenet_c(Path(args.corruptions), networks)
    else:
        suite = create_corruption_suite(networks, options, args.data, args.corrupt, args.severity)
    stored = networks.without_crop()
    out = choose_directory(networks, options, runtime, data=suite.name, out=args.out)
    if out is not None:
        check_output_directory(out, FILES, FORMAT)
    results: list[CorruptionResult] = []
    for (corruption, severity), open_dataset in suite.datasets.items():
        dataset = open_dataset()
        mapping = stored.map_labels(dataset, args.restrict)
        evaluation = evaluate_all_ranks(args, stored, runtime, mapping, world)
        results.append(CorruptionResult(corruption, severity, evaluation.n, evaluation.n - evaluation.correct1))
    if not world.is_main:
        return 0
    seen = stored if official else networks  # images corrupted on the fly were cropped by our own preprocessing
    about = describe_evaluation(seen, options, runtime, mapping, suite.split)
    about |= {"data": suite.name + mapping.dataset.name.removeprefix(dataset.name), "corruption": suite.method}
    if out is not None:
        write_corruptions(results, about, official, out)
    print_corruptions(console, results, about, official)
    console.print("Give --out DIR to keep the table and the plot." if out is None else f"table and plot: {out}")
    return 0


def check_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that cannot be combined."""
    engine_options.check_engine_options(args)
    check_checkpoint_choice(args.checkpoint, args.weights)
    if args.corrupt is not None and args.corruptions is not None:
        raise RequestError(
            "--corruptions uses ImageNet-C's files and --corrupt corrupts images on the fly; give only one of them"
        )
    if args.severity is not None and args.corrupt is None:
        raise RequestError("--severity needs --corrupt")
    if args.corruptions is not None and (args.data is not None or args.source is not None):
        raise RequestError("--corruptions already names the images; leave out --data and --source")
    if args.corrupt is None and args.corruptions is None:
        return
    option = "--corruptions" if args.corrupt is None else "--corrupt"
    if args.real is not None:
        raise RequestError(f"--real cannot be combined with {option}")
    if args.view not in ("center", "center+flip"):
        raise RequestError(
            f"the images of {option} have the network's input size, so view {args.view} is impossible; "
            "leave out --view or give center+flip"
        )
    if args.resize is not None:
        raise RequestError(f"--resize cannot be combined with {option}, whose images are already cropped")


def parse_positive(text: str) -> int:
    """Parse a whole number from 1, for argparse."""
    value = parse_non_negative(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def parse_non_negative(text: str) -> int:
    """Parse a whole number from 0, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text!r}")
    return value


def parse_severities(text: str) -> list[int]:
    """Parse numbers from 1 to 5 separated by commas, for argparse."""
    values = text.split(",")
    if not set(values) <= set("12345") or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"must be different numbers from 1 to 5 separated by commas, not {text!r}")
    return sorted(map(int, values))
