"""The part of ``resnext export`` for int8: its options, calibration images and held-out images."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.errors import RequestError

if TYPE_CHECKING:
    from resnext.deploy.export_info import ExportInfo
    from resnext.deploy.int8_export import Int8Plan
    from resnext.deploy.int8_judge import LabelledImages
    from resnext.model.network import Network

MAX_LOSS = 0.5  # percentage points


def add_int8_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of int8."""
    group = parser.add_argument_group("int8", "smaller and faster; kept only if held-out images show little loss")
    group.add_argument("--int8", action="store_true", help="quantise to int8 (openvino, onnx)")
    group.add_argument(
        "--max-loss", type=float, metavar="POINTS",
        help=f"percentage points of accuracy that int8 may lose, with 95 %% confidence [{MAX_LOSS}]",
    )  # fmt: skip
    group.add_argument("--calibration", metavar="DIR", help="training images to calibrate on [the run's]")
    group.add_argument(
        "--data", metavar="DIR", help="held-out images to judge by, one folder per class [the run's held-out ones]"
    )


def check_int8_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that need --int8, or that make it judge on its calibration images."""
    from resnext.deploy.int8_gate import parse_max_loss

    for name in ("max_loss", "calibration", "data"):
        if getattr(args, name) is not None and not args.int8:
            raise RequestError(f"--{name.replace('_', '-')} is for --int8; add it, or leave this out")
    if args.max_loss is not None:
        parse_max_loss(args.max_loss)
    if args.data is not None and args.calibration is not None:
        data, calibration = Path(args.data).resolve(), Path(args.calibration).resolve()
        if data.is_relative_to(calibration) or calibration.is_relative_to(data):
            raise RequestError("--data and --calibration overlap; int8 is judged on images it was not calibrated on")


def plan_int8(args: argparse.Namespace, network: "Network", run: Path | None) -> "Int8Plan":
    """Collect calibration and held-out images. Raises RequestError if either are missing."""
    from resnext.deploy.int8 import load_calibration_images
    from resnext.deploy.int8_export import Int8Plan
    from resnext.deploy.int8_gate import parse_max_loss

    if run is None and args.calibration is None:
        raise RequestError("--int8 needs training images to calibrate on: give --calibration DIR, or export a run")
    return Int8Plan(
        calibrate=partial(load_calibration_images, network, run, args.calibration),
        judged=load_judged_images(args.data, network, run),
        max_loss=parse_max_loss(MAX_LOSS if args.max_loss is None else args.max_loss),
        calibration_source=args.calibration or "the run's training images",
    )


def load_judged_images(folder: str | None, network: "Network", run: Path | None) -> "LabelledImages":
    """Open the labelled held-out images: of ``folder``, or else of the run. Raises RequestError if there are none."""
    from resnext.data.sources.registry import open_data, open_split
    from resnext.deploy.int8_judge import LabelledImages
    from resnext.evaluation.evaluator import check_compatible
    from resnext.evaluation.label_mapping import map_labels
    from resnext.evaluation.outputs import get_preprocessing
    from resnext.run_directory import read_run_recipe
    from resnext.settings import DataSettings

    p = get_preprocessing(network)
    if folder is not None:
        dataset = open_split(DataSettings(source="folder", path=folder, channels=p.channels, exif=p.exif), "val")
    elif run is not None:
        dataset = open_data(read_run_recipe(run).data).val
    else:
        raise RequestError("--int8 is judged on labelled held-out images: give --data DIR, with one folder per class")
    dataset = map_labels(dataset, network.classes, network.architecture.num_classes).dataset
    check_compatible(network, dataset)
    return LabelledImages(dataset, folder or f"{dataset.name}, held out from training")


def list_int8_facts(info: "ExportInfo") -> list[tuple[str, str]]:
    """List what to print about int8: each try, and what was kept."""
    if info.int8 is None:
        return []
    from resnext.deploy.int8_export import describe_try

    words = [describe_try(one) for one in info.int8["tries"]]  # the last one is kept
    rows = [("", f"not kept: {one}") for one in words[:-1]] + [("", f"kept: {words[-1]}")]
    rows[0] = ("int8", rows[0][1])
    limit, confidence = 100 * info.int8["max_loss"], 100 * info.int8["confidence"]
    judged = f"bound of {confidence:g} % confidence over all tries, allowed {limit:g} points; {info.int8['judged']}"
    return [*rows, ("", judged)]
