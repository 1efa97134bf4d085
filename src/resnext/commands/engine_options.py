"""The options shared by all verbs that can run a network on an inference engine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, cast

from resnext.choices import CheckpointName, Goal, PrecisionChoice
from resnext.errors import RequestError
from resnext.run_directory import is_run

if TYPE_CHECKING:
    from resnext.deploy.predictor import Predictor
    from resnext.model.network import Network


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine`` and ``--calibration``; each verb adds its own ``--precision``."""
    group = parser.add_argument_group("engine", "inference engine [plain PyTorch]")
    group.add_argument(
        "--engine", metavar="NAME",
        help="pytorch, onnxruntime, openvino or auto (the fastest on this machine, measured once)",
    )  # fmt: skip
    group.add_argument("--calibration", metavar="DIR", help="images for int8 calibration [the run's training data]")


def check_engine_options(args: argparse.Namespace) -> None:
    """Raise RequestError for engine options without --engine, or options that an engine does not take."""
    if args.engine is None and not has_exported(args) and args.precision in ("int8", "auto"):
        raise RequestError(f"--precision {args.precision} needs an engine: add --engine auto")
    if args.calibration is not None and (args.engine is None or args.precision != "int8"):
        raise RequestError("--calibration needs --engine and --precision int8")
    choose_device_name(args)


def choose_device_name(args: argparse.Namespace) -> str:
    """Return ``--device``, or the CPU with --engine. Raises RequestError for another device with --engine."""
    if args.engine is None and not has_exported(args):
        return str(args.device)
    if args.device == "auto":
        return "cpu"
    from resnext.device import pick_device

    if pick_device(args.device).type != "cpu":
        what = "an exported file" if args.engine is None else "--engine"
        raise RequestError(f"--device {args.device} cannot be used with {what}: engines run on the CPU")
    return "cpu"


def has_exported(args: argparse.Namespace) -> bool:
    """Return whether one of the given weights is an exported file."""
    from resnext.deploy.exported import find_exported_file

    given = [args.weights] if isinstance(args.weights, str) else args.weights
    return any(find_exported_file(weights) is not None for weights in given)


def load_model(args: argparse.Namespace, weights: str, checkpoint: CheckpointName) -> "Network | Predictor":
    """Load a network; an exported file is loaded as a predictor, with ``--engine`` and ``--precision`` if given."""
    from resnext.deploy.predictor import load_classifier

    batch = args.batch_size
    goal: Goal = "latency" if batch == 1 else "throughput"
    return load_classifier(
        weights, checkpoint, engine=args.engine or "auto", precision=args.precision, goal=goal, batch=min(batch, 32)
    )


def build_predictor(
    args: argparse.Namespace, network: "Network", weights: str, precision: str, size: int, batch: int
) -> "Predictor":
    """Build the predictor that runs ``network`` (loaded from ``weights``) on the chosen engine."""
    from resnext.deploy.int8 import load_calibration_images
    from resnext.deploy.predictor import Predictor

    calibration = None
    if precision == "int8":
        path = Path(weights)
        calibration = load_calibration_images(network, path if is_run(path) else None, args.calibration)
    return Predictor(
        network,
        engine=args.engine,
        precision=cast(PrecisionChoice, precision),  # checked there
        goal="latency" if batch == 1 else "throughput",
        batch=batch,
        image_size=size,
        calibration=calibration,
        with_cam=getattr(args, "explain", None) is not None,
    )
