"""Test ImageNet end to end on a few of its images: every layout trains alike, and every evaluation option works.

    python tools/show_imagenet.py imagenet-sample-250.tar --out results/imagenet-end-to-end.csv

The tar file holds images as val/<wnid>/<name>.JPEG, one per class. Each image is used for training and validation, so
the errors only show how well a small network remembers these images under each view; they say nothing about ImageNet.
"""

import argparse
import csv
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.data.layouts import (  # noqa: E402
    SampleImage,
    read_member,
    tar_bytes,
    write_archives,
    write_file,
    write_folders,
    write_parquet,
    write_shards,
)

CLASSES, EXTRA = 60, 20
RECIPE = """
model: {name: resnext20_4x8d, base_channels: 16}
data: {source: imagenet, image_size: 64, resize: 73, exif: false, workers: 2}
augment: {crop: paper_imagenet, min_area: 0.35, flip: 0.5, color_jitter: 0.4, lighting: 0.1}
optimizer: {lr: 0.05, weight_decay: 1.0e-4}
schedule: {name: cosine, warmup_epochs: 0.5}
train: {epochs: EPOCHS, batch_size: 20, channels_last: "yes", evaluate_every: 20, seed: 1}
"""


def main() -> None:
    """Run all parts and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sample", type=Path, metavar="TAR")
    parser.add_argument("--out", type=Path, default=Path("imagenet-end-to-end.csv"), help="CSV to write")
    parser.add_argument("--epochs", type=int, default=40, help="of the network that is evaluated")
    parser.add_argument("--keep", type=Path, help="folder for data and runs [a temporary one]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        images, extra = read_sample(args.sample)
        rows = [*show_layouts(folder, images), *show_views(folder, images, args.epochs)]
        rows += show_5k(folder, images, extra)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("what", "command", "result", "seconds"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_sample(path: Path) -> tuple[list[SampleImage], list[SampleImage]]:
    """Read the images of the classes used as ImageNet-1K, and of further classes for ImageNet-22K."""
    with tarfile.open(path) as tar:
        found = [(m.name.split("/")[1], read_member(tar, m.name)) for m in tar.getmembers() if m.isreg()]
    found.sort()
    images = []
    for number, (wnid, content) in enumerate(found[:CLASSES], 1):
        images.append(SampleImage("train", wnid, f"{wnid}_{number}.JPEG", content))
        images.append(SampleImage("val", wnid, f"ILSVRC2012_val_{number:08d}.JPEG", content))
    others = found[CLASSES : CLASSES + EXTRA]
    extra = [SampleImage("train", wnid, f"{wnid}_{i}.JPEG", content) for wnid, content in others for i in range(1, 3)]
    return images, extra


def run_resnext(folder: Path, *words: object) -> tuple[str, float]:
    """Run ``resnext WORDS``; return what it prints and its seconds. An error ends this script."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "resnext", *map(str, words)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", cwd=folder, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout, round(time.perf_counter() - started, 1)


def make_row(what: str, words: Sequence[object], result: str, seconds: float) -> dict[str, object]:
    """Make and print one row of the CSV."""
    shown = {"what": what, "command": f"resnext {' '.join(map(str, words))}", "result": result, "seconds": seconds}
    print(json.dumps(shown), flush=True)
    return shown


def show_layouts(folder: Path, images: list[SampleImage]) -> list[dict[str, object]]:
    """Train one epoch from each layout; the losses of all steps must be equal."""
    (folder / "one.yaml").write_text(RECIPE.replace("EPOCHS", "1"), encoding="utf-8")
    write_folders(folder / "folders", images)
    write_archives(folder / "archives", images)
    write_parquet(folder / "parquet", images)
    write_shards(folder / "shards", images, per_shard=16)
    write_file(folder / "classes.txt", "\n".join(sorted({image.wnid for image in images})).encode())
    shards = ["--data.source", "webdataset", "--data.path", "shards/train-*.tar", "--data.val_path", "shards/val-*.tar"]
    layouts: dict[str, list[object]] = {
        "class folders": ["--data.path", "folders"],
        "the official archives, not unpacked": ["--data.path", "archives"],
        "WebDataset shards": [*shards, "--data.classes", "classes.txt"],
        "Parquet as on the hub": ["--data.source", "parquet", "--data.path", "parquet"],
    }
    logs, rows = [], []
    for number, (name, options) in enumerate(layouts.items()):
        words = ["train", "one.yaml", *options, "--run", f"layout-{number}"]
        _, seconds = run_resnext(folder, *words)
        logs.append(read_losses(folder / f"layout-{number}" / "log.jsonl"))
        same = "the reference" if not number else "every loss bit-equal" if logs[-1] == logs[0] else "another stream"
        rows.append(make_row(f"{name}: one epoch of {len(logs[-1])} steps", words, same, seconds))
    return rows


def read_losses(log: Path) -> list[float]:
    """Read the losses of all steps of a log."""
    return [
        entry["loss"]
        for entry in map(json.loads, log.read_text(encoding="utf-8").splitlines())
        if entry["kind"] == "step"
    ]


def show_views(folder: Path, images: list[SampleImage], epochs: int) -> list[dict[str, object]]:
    """Evaluate two networks that remember the images, under every view, label set and corruption."""
    (folder / "long.yaml").write_text(RECIPE.replace("EPOCHS", str(epochs)), encoding="utf-8")
    for seed in (1, 2):
        run = ("--train.seed", seed, "--run", f"net-{seed}")
        run_resnext(folder, "train", "long.yaml", "--data.path", "archives", *run)
    val = [image for image in images if image.split == "val"]
    write_file(folder / "real.json", json.dumps(make_real_labels(val)).encode())
    from resnext.data.imagenet_classes import imagenet_synsets

    for image in val:
        write_file(folder / "v2" / str(imagenet_synsets().index(image.wnid)) / image.name, image.content)
    net, both = ["net-1", "--checkpoint", "last"], ["net-1", "net-2", "--checkpoint", "last"]
    questions: dict[str, Sequence[object]] = {
        "centre crop 64 of 73": net,
        "centre crop 96 of 110": [*net, "--image-size", 96],
        "centre and its mirror image": [*net, "--view", "center+flip"],
        "ten crops, mean of logits": [*net, "--view", "ten-crop"],
        "ten crops, mean of probabilities": [*net, "--view", "ten-crop", "--combine", "probabilities"],
        "fully convolutional, three scales, mirrored": [*net, "--view", "dense:64,80,96+flip"],
        "ensemble of two": both,
        "ReaL's format": [*net, "--data", "folders", "--real", "real.json"],
        "ImageNet-V2's folders (0 to 999, in no sorted order)": [*net, "--source", "folder", "--data", "v2"],
        "answers restricted to the data's classes": [*net, "--restrict", "data"],
        "ImageNet-C's corruptions made here": [*net, "--corrupt", "gaussian_noise,fog,jpeg_compression"],
    }
    rows = []
    for number, (name, options) in enumerate(questions.items()):
        words: list[object] = ["evaluate", *options, "--out", f"view-{number}"]
        output, seconds = run_resnext(folder, *words)
        rows.append(make_row(name, words, extract_result(output), seconds))
    return rows


def make_real_labels(val: list[SampleImage]) -> list[list[int]]:
    """Make labels in ReaL's format: 50,000 lists, where those of our images hold their class."""
    from resnext.data.imagenet_classes import imagenet_synsets

    labels: list[list[int]] = [[] for _ in range(50_000)]
    for image in val:
        labels[int(image.name[15:23]) - 1] = [imagenet_synsets().index(image.wnid)]
    return labels


def extract_result(output: str) -> str:
    """Extract the lines with results from the output."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    wanted = ("top-1 error", "top-5 error", "ReaL", "gaussian_noise", "fog", "jpeg_compression", "mean")
    return "; ".join(line for line in lines if line.startswith(wanted))


def show_5k(folder: Path, images: list[SampleImage], extra: list[SampleImage]) -> list[dict[str, object]]:
    """Train and evaluate a small ImageNet-5K: the classes of the validation set and ten others (Section 5.2)."""
    train = [image for image in images if image.split == "train"] + extra
    counts = {image.wnid for image in extra[:EXTRA]}  # the first ten have one more image each
    more = [
        SampleImage("train", w, f"{w}_9.JPEG", next(i.content for i in extra if i.wnid == w)) for w in sorted(counts)
    ]
    tars: dict[str, list[tuple[str, bytes]]] = {}
    for image in [*train, *more]:
        tars.setdefault(f"{image.wnid}.tar", []).append((image.name, image.content))
    write_file(folder / "fall11_whole.tar", tar_bytes((name, tar_bytes(files)) for name, files in tars.items()))
    recipe = RECIPE.replace("epochs: EPOCHS", "steps: 120").replace("source: imagenet,", "source: imagenet5k,")
    (folder / "5k.yaml").write_text(recipe, encoding="utf-8")
    words = ["train", "5k.yaml", "--data.path", "fall11_whole.tar", "--data.val_path", "archives", "--run", "net-5k"]
    _, seconds = run_resnext(folder, *words, "--data.extra_classes", 10)
    chosen = (folder / "net-5k" / "imagenet5k-classes.csv").read_text(encoding="utf-8").splitlines()[1:]
    extras = sum(line.endswith(",extra") for line in chosen)
    right = {line.split(",")[0] for line in chosen if line.endswith(",extra")} == counts
    result = f"{len(chosen)} classes, {extras} extra, {'the largest' if right else 'NOT the largest'} ones"
    rows = [make_row("ImageNet-22K archive: class selection, training counted in steps", words, result, seconds)]
    for name, options in {"5K-way": [], "1K-way": ["--restrict", "data"]}.items():
        words = ["evaluate", "net-5k", "--checkpoint", "last", *options]
        output, seconds = run_resnext(folder, *words)
        rows.append(make_row(f"{name} evaluation on the 1K validation set", words, extract_result(output), seconds))
    return rows


if __name__ == "__main__":
    main()
