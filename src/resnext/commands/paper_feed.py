"""``resnext paper feed``: find the cores, storage and shards that keep the devices of a machine busy."""

import argparse
import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.commands import paper_cost
from resnext.errors import RequestError
from resnext.files import atomic_write, check_folder, report_write_errors

if TYPE_CHECKING:
    from resnext.planning.input_pipeline import ImageSample, Pipeline, Requirements, SimulationResult
    from resnext.planning.machines import Cluster

# numbers of cores in the plot, relative to the cores needed
CORE_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext paper feed``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--network", metavar="NAME", default="resnext50_32x4d", help="network to train (default: %(default)s)"
    )
    which.add_argument("--recipe", type=Path, metavar="FILE", help="recipe to train, a file or a name")
    paper_cost.add_machine_options(parser)
    parser.add_argument(
        "--bandwidth", metavar="RATE",
        help="bandwidth of the storage that all hosts share: 2GB/s, 10Gbit/s (default: enough)",
    )  # fmt: skip
    parser.add_argument(
        "--latency-ms", type=float, default=0.0, metavar="MS", help="latency of a read in milliseconds (default: 0)"
    )
    parser.add_argument(
        "--image-kb", type=float, metavar="kB", help="mean size of an image file (default: as measured)"
    )
    parser.add_argument(
        "--shard-mb", type=float, metavar="MB",
        help="size of shards that are read sequentially (default: one file per image)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("feed"), metavar="FOLDER",
        help="folder for the plot and the CSV (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the requirements, and write a plot and its numbers; exit status 0. Raises RequestError."""
    from resnext.planning.input_pipeline import SimulationResult, find_requirements, simulate
    from resnext.planning.machines import parse_cluster
    from resnext.screen import make_screen, show_work

    cluster = parse_cluster(args.machine)
    pipeline, images, name = build_pipeline(args, cluster)
    check_folder(args.out, "--out")
    console, flows = make_screen(), list[SimulationResult]()
    with show_work(console, f"simulating the input pipeline of {cluster.size} devices") as show:
        found = find_requirements(pipeline, images, report=show)
        counts = {max(1, round(share * found.cores)) for share in CORE_SHARES}
        cores = sorted(counts | {args.cores} if args.cores else counts)
        for c in cores:
            show(f"simulating {c} cores per host, {len(flows) + 1} of {len(cores)}")
            flows.append(simulate(replace(pipeline, workers=found.workers, cores=c), images))
    with report_write_errors(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{cluster}-{name}"
    write_csv(stem.with_name(f"{stem.name}.csv"), cluster, name, pipeline, cores, flows)
    plot_throughput(stem.with_name(f"{stem.name}.png"), f"{name} on {cluster}", pipeline, found, cores, flows)
    console.print(f"{name} on {cluster}", style="bold", end="")
    console.print(f": {pipeline.demand:,.0f} images/s if devices never wait")
    console.print(describe_requirements(pipeline, images, found))
    if args.cores:
        flow = flows[cores.index(args.cores)]
        console.print(
            f"with {args.cores} cores per host: {flow.images_per_second:,.0f} images/s, devices idle {flow.idle:.0%}"
        )
    console.print(f"written: {stem}.png, {stem}.csv")
    return 0


def build_pipeline(args: argparse.Namespace, cluster: "Cluster") -> "tuple[Pipeline, ImageSample, str]":
    """Build the pipeline to be planned, its images, and the name of the network or recipe. Raises RequestError."""
    from resnext.planning.input_pipeline import Pipeline, load_image_sample, parse_bandwidth

    paper_cost.check_numbers(args)
    if not 0 <= args.latency_ms < math.inf:
        raise RequestError(f"--latency-ms {args.latency_ms:g} must be 0 or more")
    for_cost = argparse.Namespace(**{**vars(args), "images": 1, "epochs": 1})  # the length of the run does not matter
    if args.recipe:
        recipe = paper_cost.read_classification_recipe(args.recipe)
        one = paper_cost.make_recipe_job(args.recipe.stem, recipe, for_cost)
    else:
        one = paper_cost.make_network_job(args.network, for_cost)
    speed = paper_cost.estimate_job(one, cluster, None, 0.0)
    images = load_image_sample()
    if args.decode_ms is not None:
        images = images.scale(args.decode_ms / 1000, images.mean_bytes)
    if args.image_kb is not None:
        images = images.scale(images.mean_seconds, args.image_kb * 1000)
    pipeline = Pipeline(
        step_seconds=speed.seconds_per_step,
        batch=one.batch_size // cluster.size,
        workers=1,
        cores=1,
        devices=cluster.devices,
        hosts=cluster.hosts,
        bandwidth=parse_bandwidth(args.bandwidth) if args.bandwidth else math.inf,
        latency=args.latency_ms / 1000,
        read_bytes=args.shard_mb * 1e6 if args.shard_mb else None,
    )
    return pipeline, images, one.name


def describe_requirements(pipeline: "Pipeline", images: "ImageSample", found: "Requirements") -> str:
    """Describe the requirements in sentences."""
    from resnext.planning.input_pipeline import MAX_IDLE, find_even_shard_count

    flow, even = found.flow, find_even_shard_count(found.readers)
    return (
        f"minimum to keep devices idle below {MAX_IDLE:.0%}, at {1000 * images.mean_seconds:.2f} ms of one core and "
        f"{images.mean_bytes / 1000:.0f} kB per image:\n"
        f"  cores    {found.cores} per host for loading, with {found.workers} workers per device (data.workers), "
        f"and {pipeline.devices} for the training processes\n"
        f"  storage  {found.bandwidth / 1e9:.3g} GB/s, with a tenth more cores; "
        f"{flow.bytes_per_second / 1e9:.3g} GB/s are read\n"
        f"  shards   any number with random access; if each of the {found.readers} workers reads whole shards, "
        f"a multiple of {found.readers}, or at least {even:,}\n"
        f"then {flow.images_per_second:,.0f} images/s, devices idle {flow.idle:.1%}, "
        f"loading cores {flow.core_use:.0%} busy"
    )


def write_csv(
    path: Path, cluster: "Cluster", name: str, pipeline: "Pipeline", cores: list[int], flows: "list[SimulationResult]"
) -> None:
    """Write one CSV row per number of cores. Raises WorkError if the disk cannot be written."""
    with atomic_write(path, "w") as file:
        out = csv.writer(file, lineterminator="\n")
        measured = ("images_per_second", "idle", "core_use", "bytes_per_second")
        out.writerow(("network", "machine", "demand_images_per_second", "cores_a_host", *measured))
        for c, flow in zip(cores, flows, strict=True):
            speed, read = f"{flow.images_per_second:.1f}", f"{flow.bytes_per_second:.0f}"
            shares = f"{flow.idle:.4f}", f"{flow.core_use:.4f}"
            out.writerow((name, cluster, f"{pipeline.demand:.1f}", c, speed, *shares, read))


def plot_throughput(
    path: Path,
    heading: str,
    pipeline: "Pipeline",
    found: "Requirements",
    cores: list[int],
    flows: "list[SimulationResult]",
) -> None:
    """Plot throughput over cores, with the demand as a line. Raises WorkError if the disk cannot be written."""
    from resnext import plotting

    with plotting.plot_style():
        figure = plotting.create_figure(6.4, 4.2)
        axes = figure.add_axes((0.12, 0.13, 0.84, 0.69))
        axes.axhline(pipeline.demand, color=plotting.RED, linewidth=1.2)
        axes.plot(cores, [flow.images_per_second for flow in flows], color=plotting.BLUE, marker="o", markersize=4)
        axes.axvline(found.cores, color=plotting.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate("demand of the devices", (cores[0], pipeline.demand), (0, 4), textcoords="offset points",
                      color=plotting.RED)  # fmt: skip
        axes.annotate(f"{found.cores} cores", (found.cores, 0), (-4, 6), textcoords="offset points", ha="right",
                      color=plotting.MUTED)  # fmt: skip
        axes.set(ylim=(0, 1.15 * pipeline.demand), xlabel="loading cores per host", ylabel="images/s")
        axes.set_xlim(0, None)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        plotting.add_title(figure, heading, "simulated input pipeline", left=0.2)
        plotting.save_figure(figure, path)
