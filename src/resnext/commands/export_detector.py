"""The part of ``resnext export`` for detectors."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from resnext.errors import RequestError
from resnext.run_directory import is_run

if TYPE_CHECKING:
    from resnext.detection.export.write import DetectorExport

VERIFY_IMAGES = 12  # number of images an export of a detector is verified with


def run_detector(args: argparse.Namespace, path: Path, file: Path, out: Path) -> int:
    """Export a detector, verify and print; return 0."""
    from resnext.detection.export.write import export_detector
    from resnext.detection.weights import load_detector
    from resnext.files import compute_sha256
    from resnext.screen import make_screen

    check_options(args)
    model = load_detector(path, args.checkpoint)
    images, source = load_images(args.images, path if is_run(path) else None, model.preprocessing.exif)
    console = make_screen(stderr=True)
    result = export_detector(
        model,
        out,
        args.to,
        images,
        weights_sha256=compute_sha256(file) if file.is_file() else None,
        progress=lambda words: console.print(words, style="dim", highlight=False),
    )
    print_detector_export(result, source)
    return 0


def check_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that detectors do not have."""
    if args.to == "torch-export":
        raise RequestError("a detector can be exported to onnx or openvino; torch-export has no operators for it")
    if args.int8:
        raise RequestError("a detector is exported in fp32: its boxes have no accuracy gate for int8; leave out --int8")
    if args.input == "normalised" or args.with_cam or args.batch not in (None, 1):
        raise RequestError("a detector takes one picture of any size: leave out --input, --with-cam and --batch")


def load_images(folder: str | None, run: Path | None, exif: bool) -> tuple[list[Image.Image], str]:
    """Load images to verify with: from ``folder``, or else the held-out ones of the run; and say which.

    Raises RequestError if there are none.
    """
    from resnext.detection.data.open import open_detection_data
    from resnext.detection.settings import DetectRecipe
    from resnext.evaluation.images import pick_evenly, read_some_images
    from resnext.recipe import read_recipe

    if folder is not None:
        return list(read_some_images(folder, VERIFY_IMAGES, 3, exif)), folder
    if run is not None:
        dataset = open_detection_data(read_recipe(run / "recipe.yaml", None, DetectRecipe).data)[1]
        some = pick_evenly(range(len(dataset)), VERIFY_IMAGES)
        return [dataset.load_image(index) for index in some], "held out from training"
    raise RequestError("a detector is verified with real images; give --images DIR")


def print_detector_export(result: "DetectorExport", images: str) -> None:
    """Print what was written and how it agrees with PyTorch."""
    from resnext.screen import print_facts

    info, found = result.info, result.agreement
    print_facts(
        [
            ("written", f"{result.path} ({result.size:,} bytes)"),
            ("input", "images: uint8 [1, H, W, 3] of any size; resized and normalised inside"),
            ("outputs", ", ".join(info.outputs)),
            ("classes", f"{len(info.classes or ()):,} names in the file"),
            ("verified", f"a process that knows only the file, {found.images} images ({images})"),
            ("agreement", f"{found.same} of {found.detections} detections are the same as in PyTorch"),
            ("", f"boxes {found.box_distance:.2g} pixels apart, scores differ by at most {found.score_difference:.2g}"),
            ("next", f"resnext detect predict {result.path} IMAGE...; resnext serve {result.path}"),
        ]
    )
