"""Measure what int8 costs in accuracy: train two small networks, export each to int8, and write what the gate found.

    python tools/measure_int8.py --cifar10 cifar10-jpeg.tar.xz --work /tmp/int8 --out results/int8.csv

Fashion-MNIST comes from Debian's package dataset-fashion-mnist, CIFAR-10 as JPEG files from the archive of
``--cifar10``. Each network learns from 8,000 images, a few minutes on two cores, and is judged on all 10,000 test
images. Runs that are already in ``--work`` are used again, so with better networks there, the same command measures
those.
"""

import argparse
import csv
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import resnext
from resnext.choices import ExportFormat
from resnext.commands.export_int8 import load_judged_images
from resnext.data.sources.fashion_mnist import DEBIAN_FOLDER
from resnext.deploy.example_images import load_example_images
from resnext.deploy.export import ExportRequest, export_classifier
from resnext.deploy.export_info import FORMATS, list_tool_versions
from resnext.deploy.exported import open_exported
from resnext.deploy.int8 import load_calibration_images
from resnext.deploy.int8_export import AccuracyError, Int8Plan
from resnext.environment import read_cpu_features, read_cpu_name
from resnext.evaluation.outputs import get_preprocessing

EPOCHS = {"fashion-mnist": 3, "cifar10": 2}
TRAIN = (
    "small/fashion-mnist --model.blocks 1,1,1 --model.stage_widths 16,32,64 --model.stage_channels 16,64,128 "
    "--data.max_train_images 8000 --train.precision fp32"
)
COLUMNS = (
    "data", "network", "epochs", "n", "to", "verdict", "loss", "bound", "max_loss", "confidence", "only_fp32",
    "only_int8", "top1_error_fp32", "top1_error_int8", "tries", "step", "int8_layers", "layers", "calibration_images",
    "cpu", "isa", "versions", "date", "commit", "command",
)  # fmt: skip


def main() -> None:
    """Train what is missing, export, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, metavar="TAR", help="cifar10-jpeg.tar.xz")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for images, runs and files")
    parser.add_argument("--max-loss", type=float, default=0.5, metavar="POINTS", help="as of resnext export [0.5]")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for data in EPOCHS:
        run = train(data, args.work, args.cifar10)
        for target in ("openvino", "onnx"):
            for row in measure(run, target, args.max_loss):
                rows.append({"data": data, "epochs": EPOCHS[data], **describe_place(), **row})
                print(", ".join(f"{key} {rows[-1][key]}" for key in COLUMNS[:15]), flush=True)
            write_rows(rows, args.out)


def train(data: str, work: Path, archive: Path) -> Path:
    """Train the network of a data set unless its run is there; return the run."""
    run = work / data
    if run.is_dir():
        return run
    options: list[object] = [*TRAIN.split(), "--train.epochs", EPOCHS[data]]
    if data == "fashion-mnist":
        options += ["--data.path", DEBIAN_FOLDER]
    else:
        images = work / "cifar10-images"
        if not images.is_dir():
            with tarfile.open(archive) as tar:
                tar.extractall(images, filter="data")
        source = "--data.source folder --data.channels 3 --data.image_size 32 --augment.pad 4"
        options += [*source.split(), "--data.path", images]
    subprocess.run([sys.executable, "-m", "resnext", "train", *map(str, options), "--run", run], check=True)
    return run


def measure(run: Path, target: ExportFormat, max_loss: float) -> Iterator[dict[str, Any]]:
    """Export a run to int8 as ``resnext export`` does; yield a row for each try, the last of which decides."""
    network = resnext.load(run)
    plan = Int8Plan(
        calibrate=lambda count: load_calibration_images(network, run, None, count),
        judged=load_judged_images(None, network, run),
        max_loss=max_loss / 100,
        calibration_source="the run's training images",
    )
    images = load_example_images(get_preprocessing(network), run, None).images
    out, request = run / f"int8{FORMATS[target]}", ExportRequest(format=target, precision="int8")
    try:
        export_classifier(network, out, request, images, int8=plan, progress=print)
    except AccuracyError as error:
        verdict, tries = "not kept", [one.to_dict() for one in error.tries]
    else:
        info = open_exported(out).info
        assert info.int8 is not None
        verdict, tries = "kept", info.int8["tries"]
    for number, one in enumerate(tries):
        yield describe_try(one) | {
            "to": target,
            "network": network.architecture.name,
            "verdict": verdict if number == len(tries) - 1 else "next try",
            "max_loss": max_loss,
            "tries": len(tries),
        }


def describe_try(one: dict[str, Any]) -> dict[str, Any]:
    """Convert a try, as the file has it, to columns: errors, loss and bound in percentage points."""
    n, right = one["images"], one["right_fp32"]
    counts = ("step", "only_fp32", "only_int8", "int8_layers", "layers", "calibration_images")
    return {name: one[name] for name in counts} | {
        "n": n,
        "top1_error_fp32": f"{100 * (1 - right / n):.2f}",
        "top1_error_int8": f"{100 * (1 - (right - one['only_fp32'] + one['only_int8']) / n):.2f}",
        "loss": f"{100 * one['loss']:.2f}",
        "bound": f"{100 * one['bound']:.3f}",
        "confidence": f"{one['confidence']:.3f}",
    }


def describe_place() -> dict[str, str]:
    """Describe machine, versions and command."""
    versions = list_tool_versions(["openvino", "nncf", "onnx", "onnxruntime"])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": read_cpu_name(),
        "isa": " ".join(read_cpu_features()),
        "versions": " ".join(f"{name} {version}" for name, version in versions.items()),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit,
        "command": "python tools/measure_int8.py --cifar10 cifar10-jpeg.tar.xz --work DIR --out results/int8.csv",
    }


def write_rows(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Write the CSV."""
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
