"""The options of every verb that can run a network on an engine, and the predictor they mean."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.errors import RequestError
from resnext.run_directory import is_run

if TYPE_CHECKING:
    from resnext.deploy.runtime import Predictor
    from resnext.model.network import Network


def add_engine(parser: argparse.ArgumentParser) -> None:
    """``--engine`` and ``--calibration``; ``--precision`` is the verb's own."""
    group = parser.add_argument_group("engine", "plain PyTorch, unless:")
    group.add_argument(
        "--engine", metavar="NAME", help="pytorch, onnxruntime, openvino or auto: the fastest here, measured once"
    )
    group.add_argument(
        "--calibration", metavar="DIR", help="images that int8 is calibrated on [the run's training data]"
    )


def check_engine(args: argparse.Namespace) -> None:
    """Raises RequestError for options that say something only of an engine, without one, or that it does not take."""
    if args.engine is None and args.precision in ("int8", "auto"):
        raise RequestError(f"--precision {args.precision} is an engine's: add --engine auto")
    if args.calibration is not None and (args.engine is None or args.precision != "int8"):
        raise RequestError("--calibration belongs to --engine with --precision int8")
    device_name(args)


def device_name(args: argparse.Namespace) -> str:
    """The device of ``--device``, or the CPU, where every engine runs. Raises RequestError for another one with it."""
    if args.engine is None:
        return str(args.device)
    from resnext.device import pick_device

    if args.device != "auto" and pick_device(args.device).type != "cpu":
        raise RequestError(f"--device {args.device} does not go with --engine: engines run on the CPU")
    return "cpu"


def predictor_of(
    args: argparse.Namespace, network: "Network", weights: str, precision: str, size: int, batch: int
) -> "Predictor":
    """``network``, which comes from ``weights``, on the engine asked for, for batches of images of ``size``."""
    from resnext.deploy.quantize import calibration_of
    from resnext.deploy.runtime import Predictor

    calibration = None
    if precision == "int8":
        path = Path(weights)
        calibration = calibration_of(network, path if is_run(path) else None, args.calibration)
    goal = "latency" if batch == 1 else "throughput"
    return Predictor(
        network,
        engine=args.engine,
        precision=precision,
        goal=goal,
        batch=batch,
        image_size=size,
        calibration=calibration,
    )
