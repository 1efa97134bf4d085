"""The part of ``resnext export`` for other model servers: ``--layout``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.errors import RequestError
from resnext.run_directory import is_run

if TYPE_CHECKING:
    from resnext.deploy.export import ExportResult

MODEL_NAME = "resnext"  # of the model on the server, where --name gives none


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the folder of another model server."""
    group = parser.add_argument_group("other model servers")
    group.add_argument(
        "--layout", metavar="SERVER", help="make --out the folder that a server reads: ovms (OpenVINO), triton, kserve"
    )
    group.add_argument("--name", help=f"name of the model on the server [{MODEL_NAME}]")
    group.add_argument("--storage-uri", metavar="URI", help="from where KServe fetches the model, such as s3://b/model")


def check_layout_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that do not fit ``--layout``, or that need it."""
    from resnext.deploy.layouts import check_layout

    if args.layout is None:
        for option, value in (("--name", args.name), ("--storage-uri", args.storage_uri)):
            if value is not None:
                raise RequestError(f"{option} is for --layout, which says what server the folder is for")
        return
    check_layout(args.layout, args.to, args.name or MODEL_NAME, args.storage_uri)
    if args.input != "pixels" or args.batch is not None or args.with_cam:
        raise RequestError("--layout chooses inputs and outputs by itself: leave out --input, --batch and --with-cam")
    if args.out is None:
        raise RequestError("--layout needs --out FOLDER, a new folder")
    if args.overwrite:
        raise RequestError("--layout makes a new folder: leave out --overwrite")
    if Path(args.out).exists():
        raise RequestError(f"--out {args.out} exists; --layout makes a new folder")


def run_layout(args: argparse.Namespace, path: Path, file: Path) -> int:
    """Write the folder of another model server, verify its files and print; return 0."""
    from resnext.commands.export_int8 import plan_int8
    from resnext.deploy.example_images import load_example_images
    from resnext.deploy.layouts import write_layout
    from resnext.detection.weights import is_detector_source
    from resnext.evaluation.outputs import get_preprocessing
    from resnext.files import check_folder, compute_sha256
    from resnext.progress_bar import show_image_progress
    from resnext.screen import make_screen
    from resnext.weights import load

    if is_detector_source(path):
        raise RequestError(f"{path} is a detector; --layout takes classifiers only, so export it without --layout")
    out = Path(args.out)
    check_folder(out.absolute().parent, "--out")
    network = load(path, args.checkpoint)
    examples = load_example_images(get_preprocessing(network), path if is_run(path) else None, args.images)
    plan = plan_int8(args, network, path if is_run(path) else None) if args.int8 else None
    console = make_screen(stderr=True)
    with show_image_progress(0 if plan is None else len(plan.judged.dataset)) as image_progress:
        results = write_layout(
            network,
            out,
            args.layout,
            args.to,
            args.name or MODEL_NAME,
            examples.images,
            storage_uri=args.storage_uri,
            weights_sha256=compute_sha256(file) if file.is_file() else None,
            int8=plan,
            progress=lambda words: console.print(words, style="dim", highlight=False),
            image_progress=image_progress,
        )
    print_layout(out, results, examples.source)
    return 0


def print_layout(out: Path, results: "list[ExportResult]", images: str) -> None:
    """Print the files of a layout and how they agree with PyTorch."""
    from resnext.commands.export_int8 import list_int8_facts
    from resnext.screen import print_facts

    rows = [("written", f"{out}")]
    for result in results:
        found = result.agreement
        same = f"{found.same_top1} of {found.images} predictions are the same as in PyTorch"
        rows += [
            ("model", f"{result.path.relative_to(out)} ({result.size:,} bytes)"),
            ("", f"{same}; largest difference of a logit {found.max_difference:.2g}"),
            *list_int8_facts(result.info),
        ]
    rows += [("images", images), ("next", f"{out / 'README.md'} starts the server and asks it")]
    print_facts(rows)
