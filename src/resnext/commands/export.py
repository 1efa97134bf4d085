"""``resnext export``: write a network for another runtime, verified in a process of its own."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.choices import CHECKPOINT_NAMES, INPUT_KINDS
from resnext.commands.evaluate import parse_positive
from resnext.commands.export_detector import run_detector
from resnext.commands.export_int8 import add_int8_options, check_int8_options, list_int8_facts, plan_int8
from resnext.commands.export_layout import add_layout_arguments, check_layout_options, run_layout
from resnext.errors import RequestError, did_you_mean
from resnext.files import check_output
from resnext.run_directory import RunDirectory, check_checkpoint_choice, is_run

if TYPE_CHECKING:
    from resnext.deploy.export import ExportResult

CAM_CORRELATION = 0.95  # of class activation maps with PyTorch's; maps with less differ visibly
SUMMARY = "Export a network to ONNX, OpenVINO or PyTorch, with its preprocessing inside; verified before it is kept."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for weights, format and input."""
    parser.add_argument("weights", metavar="RUN_OR_WEIGHTS", help="run directory, weights file of any format, hf://...")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="onnx, openvino or torch-export")
    parser.add_argument("--out", metavar="FILE", help="the file to write [RUN/export/NAME or NAME beside the weights]")
    parser.add_argument(
        "--input", choices=INPUT_KINDS, default="pixels",
        help="pixels: uint8 [N, S, S, C], cropped, normalised inside; picture: uint8 [1, H, W, C] of any size, cropped "
        "inside too; normalised: float32 [N, C, S, S] [pixels]",
    )  # fmt: skip
    parser.add_argument("--with-cam", action="store_true", help="add an output cam: where the network looks, per class")
    parser.add_argument("--batch", type=parse_positive, metavar="N", help="a fixed number of images in a batch [any]")
    parser.add_argument("--images", metavar="DIR", help="images to verify with [the run's held-out ones]")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    add_int8_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    add_layout_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Export, verify and print; return 0."""
    from resnext.deploy.engines import require_packages
    from resnext.deploy.example_images import load_example_images
    from resnext.deploy.export import ExportRequest, export_classifier
    from resnext.deploy.exported import ENGINE_OF_SUFFIX
    from resnext.detection.weights import is_detector_source
    from resnext.evaluation.outputs import get_preprocessing
    from resnext.files import compute_sha256
    from resnext.progress_bar import show_image_progress
    from resnext.screen import make_screen
    from resnext.weights import load
    from resnext.weights.hub import fetch, is_remote

    check_checkpoint_choice(args.checkpoint, [args.weights])
    check_int8_options(args)
    suffix = choose_suffix(args.to)
    check_layout_options(args)
    require_packages(ENGINE_OF_SUFFIX[suffix])
    path = fetch(args.weights) if is_remote(args.weights) else Path(args.weights)
    run_folder = path if is_run(path) else None
    file = RunDirectory(path).weights(args.checkpoint) if run_folder is not None else path
    if args.layout is not None:
        return run_layout(args, path, file)
    if is_detector_source(path):
        return run_detector(args, path, file, choose_out(args, suffix, run_folder, file, "detector"))
    network = load(path, args.checkpoint)
    out = choose_out(args, suffix, run_folder, file, network.architecture.name.split(" ")[0])
    request = ExportRequest(
        format=args.to, input=args.input, with_cam=args.with_cam, batch=args.batch,
        precision="int8" if args.int8 else "fp32",
    )  # fmt: skip
    plan = plan_int8(args, network, run_folder) if args.int8 else None
    examples = load_example_images(get_preprocessing(network), run_folder, args.images)
    console = make_screen(stderr=True)
    with show_image_progress(0 if plan is None else len(plan.judged.dataset)) as image_progress:
        result = export_classifier(
            network,
            out,
            request,
            examples.images,
            weights_sha256=compute_sha256(file) if file.is_file() else None,
            int8=plan,
            progress=lambda words: console.print(words, style="dim", highlight=False),
            image_progress=image_progress,
        )
    print_export(result, examples.source)
    return 0


def choose_suffix(to: str) -> str:
    """Return the suffix of the format ``--to``. Raises RequestError for an unknown one."""
    from resnext.deploy.export_info import FORMATS

    if to not in FORMATS:
        raise RequestError(f"--to {to!r} is unknown{did_you_mean(to, FORMATS)}")
    return FORMATS[to]


def choose_out(args: argparse.Namespace, suffix: str, run: Path | None, file: Path, name: str) -> Path:
    """Choose the file to write.

    Raises RequestError if ``--out`` has another suffix than the format's, or the file exists or cannot be written.
    """
    out = choose_path(args.out, suffix, args.weights, run, name)
    for one in (out, out.with_suffix(".bin")) if suffix == ".xml" else (out,):
        check_output(one, (file,), folder=False, overwrite=args.overwrite)
    return out


def choose_path(out: str | None, suffix: str, weights: str, run: Path | None, name: str) -> Path:
    """Choose the path of the file. Raises RequestError if ``--out`` has another suffix than the format's."""
    if out is None:
        if run is not None:
            return RunDirectory(run).path / "export" / f"{name}{suffix}"
        return Path(f"{name}{suffix}") if "://" in weights else Path(weights).with_suffix(suffix)
    path = Path(out)
    if path.is_dir() or out.endswith("/"):
        return path / f"{name}{suffix}"
    if path.suffix.lower() != suffix:
        raise RequestError(f"--out {out} should end in {suffix}")
    return path


def list_cam_facts(correlation: float | None) -> list[tuple[str, str]]:
    """List what to print about class activation maps, if there are any."""
    if correlation is None:
        return []
    note = "" if correlation >= CAM_CORRELATION else f"; below {CAM_CORRELATION:g}, so do not rely on them"
    return [("", f"maps of the predicted classes correlate {correlation:.3f} with PyTorch's on average{note}")]


def print_export(result: "ExportResult", images: str) -> None:
    """Print what was written and how it agrees with PyTorch."""
    from resnext.deploy.export_info import INPUTS
    from resnext.screen import print_facts

    info, agreement = result.info, result.agreement
    batches = ", ".join(map(str, agreement.batches)) if info.batch is None else str(info.batch)
    rows = [
        ("written", f"{result.path} ({result.size:,} bytes)"),
        ("input", f"images: {INPUTS[info.input]}"),
        ("outputs", ", ".join(info.outputs)),
        ("classes", f"{len(info.classes):,} names in the file" if info.classes else "no names known"),
        ("verified", f"a process that knows only the file, {agreement.images} images in batches of {batches}"),
        ("", f"images: {images}"),
        ("agreement", f"{agreement.same_top1} of {agreement.images} predictions are the same as in PyTorch"),
        ("", f"largest difference of a logit {agreement.max_difference:.2g}, relative {agreement.relative_error:.2g}"),
        *list_cam_facts(agreement.cam_correlation),
        *list_int8_facts(info),
        ("next", f"resnext predict {result.path} IMAGE...; resnext serve {result.path}"),
    ]
    print_facts(rows)
