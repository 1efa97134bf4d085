"""Compare the simulated input pipeline with the real loader, on real images on this machine.

    python tools/measure_feed.py imagenet-sample-250.tar --out results/feed-simulation.csv
    python tools/measure_feed.py imagenet-sample-250.tar --images src/resnext/planning/decoding.json
    python tools/measure_feed.py 'shards/{0000..0003}.tar' --source webdataset

With the paper's augmentation, the processor time of each image is measured alone on one core. Then a TrainLoader with
1, 2 and 4 workers on 1 and 2 cores feeds a consumer that sleeps during its steps, and the same runs are simulated with
the measured times. Rounds are interleaved and medians used, because other programs disturb. The files are in the page
cache, so storage does not matter.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np
import torch

from resnext.data.dataset import Dataset, Subset
from resnext.data.loader import TrainLoader
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.registry import open_split
from resnext.data.transforms.pipeline import build_train_transform
from resnext.environment import read_cpu_name
from resnext.planning.input_pipeline import PREFETCH, ImageSample, Pipeline, simulate
from resnext.recipe import build_settings
from resnext.settings import AugmentSettings, DataSettings

BATCH = 16
COPIES = 2  # of the data set per epoch
CORES, WORKERS = (1, 2), (1, 2, 4)
STEPS = (0.0, 0.7, 1.5)  # time of a step, relative to the time of one core to load a batch
PAPER = AugmentSettings(crop="paper_imagenet", flip=0.5, color_jitter=0.4, lighting=0.1)
VIEW = Preprocessing(image_size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), channels=3)
COMMAND = "python tools/measure_feed.py imagenet-sample-250.tar"
Place = tuple[int, int, float]  # cores, workers, time of a step as in STEPS


def main() -> None:
    """Measure, simulate and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "path", help="folder with one folder of images per class, a tar file of it, or what --source reads"
    )
    parser.add_argument("--source", default="folder", help="data.source (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="CSV of predicted and measured throughput")
    parser.add_argument("--images", type=Path, help="only time the images one by one, and write this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in a loading process
    with ExitStack() as stack:
        dataset = open_dataset(args.path, args.source, stack)
        if args.images:
            write_images(make_sample(dataset, [time_images(dataset) for _ in range(args.rounds)]), args.images)
            return
        times: list[list[float]] = []
        rates: dict[Place, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(args.rounds):
            times.append(time_images(dataset))
            mean = statistics.fmean(times[-1])
            for place in product(CORES, WORKERS, STEPS):
                rate, processor = measure_loader(dataset, place, BATCH * mean)
                rates[place].append((rate * mean, processor))
        report(rates, make_sample(dataset, times), args.source, args.out)


def open_dataset(path: str, source: str, stack: ExitStack) -> Dataset:
    """Open the data set at ``path``; a tar file of a folder is unpacked while ``stack`` is open."""
    if source == "folder" and path.endswith(".tar"):
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
        path = folder
    return open_split(build_settings(DataSettings, {"source": source, "path": path}, "data."), "val")


def time_images(dataset: Dataset) -> list[float]:
    """Measure the processor seconds of each image: reading, decoding, augmenting, and its share of batch transfer."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        reader = make_loader(dataset, 0)._reader
        seconds, batches, images = [], [], []
        for index in range(len(dataset)):
            start = time.thread_time()
            images.append(reader.__getitems__([(0, index)]).images)  # type: ignore[union-attr]
            seconds.append(time.thread_time() - start)
            if len(images) == BATCH:
                start = time.thread_time()
                torch.cat(images).share_memory_()
                batches.append((time.thread_time() - start) / BATCH)
                images = []
    finally:
        os.sched_setaffinity(0, everywhere)
    return [one + statistics.median(batches) for one in seconds]


def measure_loader(dataset: Dataset, place: Place, load: float) -> tuple[float, float]:
    """Measure the images per second of a TrainLoader, from the end of step ``skip`` to the end of the last step.

    Also returns the processor seconds of its workers per image, which other programs disturb less.
    """
    cores, workers, step = place
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(everywhere)[:cores]))
    try:
        loader = make_loader(dataset, workers)
        ends, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in loader.batches(0):
            time.sleep(step * load)
            ends.append(time.perf_counter())
    finally:
        os.sched_setaffinity(0, everywhere)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    skip = PREFETCH * workers
    return (len(ends) - skip) * BATCH / (ends[-1] - ends[skip - 1]), processor / (len(ends) * BATCH)


def predict_loader(place: Place, images: ImageSample) -> tuple[float, int]:
    """Simulate the same run; return its speed relative to one core's loading speed, and the number of steps."""
    cores, workers, step = place
    steps = COPIES * len(images.sizes) // BATCH
    pipeline = Pipeline(step * BATCH * images.mean_seconds, BATCH, workers, cores)
    flow = simulate(pipeline, images, steps, skip=PREFETCH * workers, epoch_ends=True)
    return flow.images_per_second * images.mean_seconds, steps


def make_loader(dataset: Dataset, workers: int) -> TrainLoader:
    """Make the loader of COPIES copies of the data set."""
    copies = Subset(dataset, np.tile(np.arange(len(dataset)), COPIES))
    transform = build_train_transform(PAPER, VIEW)
    return TrainLoader(copies, transform, seed=0, batch_size=BATCH, drop_last=True, workers=workers)


def make_sample(dataset: Dataset, times: Sequence[Sequence[float]]) -> ImageSample:
    """Make a sample with the median time of each image."""
    root = getattr(dataset, "root", None)  # of a folder; other sources do not need sizes
    sizes = [os.path.getsize(os.path.join(root, dataset.image_path(i))) if root else 1 for i in range(len(dataset))]
    return ImageSample(tuple(sizes), tuple(float(t) for t in np.median(times, axis=0)))


def write_images(images: ImageSample, path: Path) -> None:
    """Write a sample as JSON."""
    values = {
        "command": f"{COMMAND} --images src/resnext/planning/decoding.json",
        "what": "files of ImageNet; decoding, the paper's augmentation at 224 pixels and handing over",
        "processor": f"one core of {read_cpu_name()}",
        "bytes": images.sizes,
        "milliseconds": [round(s * 1000, 2) for s in images.seconds],
    }
    path.write_text(json.dumps(values) + "\n", encoding="utf-8")
    print(f"{images.mean_seconds * 1000:.2f} ms and {images.mean_bytes / 1000:.0f} kB per image")


def report(rates: dict[Place, list[tuple[float, float]]], images: ImageSample, source: str, out: Path | None) -> None:
    """Print and write one row per setting; speeds are relative to one core's in the same round, so rounds compare."""
    rows: list[dict[str, object]] = []
    for (cores, workers, step), pairs in rates.items():
        found = [rate for rate, _ in pairs]
        said, steps = predict_loader((cores, workers, step), images)
        rate = statistics.median(found)
        a_second = 1 / images.mean_seconds
        rows.append(
            {
                "source": source, "cores": cores, "workers": workers, "batch": BATCH, "steps": steps,
                "step_seconds": round(step * BATCH * images.mean_seconds, 4),
                "milliseconds_an_image": round(images.mean_seconds * 1000, 2),
                "milliseconds_in_workers": round(statistics.median(p for _, p in pairs) * 1000, 2),
                "predicted_images_per_second": round(said * a_second, 1),
                "measured_images_per_second": round(rate * a_second, 1),
                "predicted_over_measured": round(said / rate, 3),
                "rounds": len(found),
                "best_images_per_second": round(max(found) * a_second, 1),
                "spread_percent": round(100 * (max(found) - min(found)) / rate, 1),
                "load_average": round(os.getloadavg()[0], 1),
                "processor": read_cpu_name(),
                "command": f"{COMMAND} --rounds {len(found)}",
            }
        )  # fmt: skip
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items() if name not in ("processor", "command")))
    ratios = [float(str(row["predicted_over_measured"])) for row in rows]
    print(f"predicted over measured: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    if out:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
