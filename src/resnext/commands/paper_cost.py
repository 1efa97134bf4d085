"""``resnext paper cost``: estimate training time for the rows of a table, a recipe or a network on a machine."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.settings import Recipe
from resnext.sources import SOURCES

if TYPE_CHECKING:
    from rich.table import Table

    from resnext.planning.cost import Estimate
    from resnext.planning.machines import Cluster

MIN_MEASURED_BATCH = 64  # images per device; the measured speeds of tensor cores used at least as many
PAPER_TRAINING = {"imagenet": (1_281_167, 100, 256), "cifar": (50_000, 300, 128)}  # stem -> images, epochs, batch size


class TrainingJob(NamedTuple):
    """A network and how long it is trained; one row of the output."""

    name: str
    architecture: Architecture
    image_size: int | None  # None: the usual size of the network
    images: int  # over all epochs
    batch_size: int
    precision: str | None  # None: the fastest of the machine


NO_DETECTION_HOURS = "hours of detection are not estimated; resnext recipes 'paper/coco-*' lists the multiply-adds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext paper cost``."""
    parser.add_argument("table", nargs="?", help="table or figure of the paper to estimate, such as table3")
    parser.add_argument(
        "--recipe", type=Path, action="append", default=[], metavar="FILE", help="recipe to estimate, a file or a name"
    )
    parser.add_argument(
        "--network", action="append", default=[], metavar="NAME",
        help="network to estimate, trained as long as in the paper",
    )  # fmt: skip
    add_machine_options(parser)
    parser.add_argument("--images", type=int, metavar="N", help="training images per epoch (default: the data set's)")
    parser.add_argument("--epochs", type=float, metavar="N", help="epochs (default: the recipe's, or the paper's)")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that ``cost`` and ``feed`` share."""
    parser.add_argument(
        "--machine", default="8xH100", metavar="NxNAME",
        help="devices, such as 8xH100, 4x8xA100 for four hosts, or this for the processor here (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images per step over all devices (default: the recipe's)"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side of the training images (default: the recipe's)"
    )
    parser.add_argument(
        "--precision", metavar="NAME", help="fp32, tf32 or bf16 (default: the recipe's, else the fastest)"
    )
    parser.add_argument("--cores", type=int, metavar="N", help="cores per host for loading images (default: enough)")
    parser.add_argument(
        "--decode-ms", type=float, metavar="MS",
        help="milliseconds of one core to decode and augment an image (default: as measured on ImageNet files)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print one row per run; exit status 0. Raises RequestError."""
    from resnext.planning.machines import parse_cluster
    from resnext.screen import make_screen

    check_numbers(args)
    runs = collect_jobs(args)
    cluster = parse_cluster(args.machine)
    estimates = [(one, estimate_job(one, cluster, args.cores, resolve_seconds_per_image(args))) for one in runs]
    console = make_screen()
    console.print(f"{cluster}", style="bold", end="")
    console.print(f": {cluster.machine.source}")
    console.print(_make_table(estimates))
    console.print(_make_notes(cluster, estimates))
    return 0


def collect_jobs(args: argparse.Namespace) -> Sequence[TrainingJob]:
    """Collect the runs asked for, in the order of the arguments. Raises RequestError if there are none."""
    from resnext.paper.numbers import get_table
    from resnext.paper.row_recipes import list_table_recipes

    recipes = list_table_recipes(args.table) if args.table else []
    if args.table and not recipes:
        detection = any(row.recipe for row in get_table(args.table).rows)
        why = f"detection recipes only; {NO_DETECTION_HOURS}" if detection else "no recipes to estimate"
        raise RequestError(f"{args.table} has {why}")
    recipes += [(path.stem, read_classification_recipe(path)) for path in args.recipe]
    runs = [make_recipe_job(name, recipe, args) for name, recipe in recipes]
    runs += [make_network_job(name, args) for name in args.network]
    if not runs:
        raise RequestError("nothing to estimate; give a table such as table3, --recipe FILE or --network NAME")
    return runs


def read_classification_recipe(path: Path) -> Recipe:
    """Read a classification recipe. Raises RequestError, also for a detection recipe."""
    from resnext.recipe import read_recipe, read_recipe_kind

    if read_recipe_kind(path) == "detection":
        raise RequestError(f"{path} is a detection recipe; {NO_DETECTION_HOURS}")
    return read_recipe(path)


def make_recipe_job(name: str, recipe: Recipe, args: argparse.Namespace) -> TrainingJob:
    """Make the training job of a recipe. Raises RequestError if the number of images is unknown."""
    known, classes, channels, side = SOURCES[recipe.data.source].facts
    images = args.images or recipe.data.max_train_images or known
    if images is None:
        source = recipe.data.source
        raise RequestError(f"{name}: the number of images of data.source {source} is not known; give --images")
    if recipe.model.name is None:
        raise RequestError(f"{name}: the network is defined by init.weights, which is not read here; give --network")
    architecture = recipe.model.architecture(classes, channels)
    size = args.image_size or recipe.augment.size or recipe.data.image_size or side
    batch = args.batch_size or recipe.train.batch_size
    if recipe.train.steps is not None and args.epochs is None:
        total = recipe.train.steps * batch
    else:
        total = round((args.epochs or recipe.train.epochs or 100) * images)
    return TrainingJob(name, architecture, size, total, batch, args.precision or recipe.train.precision)


def make_network_job(name: str, args: argparse.Namespace) -> TrainingJob:
    """Make the training job of a network, trained as long as the paper trains such networks."""
    from resnext.model.stage_table import parse_paper_architecture

    architecture = parse_paper_architecture(name)
    images, epochs, batch = PAPER_TRAINING[architecture.stem]
    total = round((args.epochs or epochs) * (args.images or images))
    return TrainingJob(name, architecture, args.image_size, total, args.batch_size or batch, args.precision)


def estimate_job(one: TrainingJob, cluster: "Cluster", cores: int | None, seconds: float) -> "Estimate":
    """Estimate the cost of a training job on a cluster."""
    from resnext.planning.cost import estimate_cost

    precision = one.precision or next(p for p in ("half", "tf32", "fp32") if p in cluster.machine.peak)
    return estimate_cost(
        one.architecture, one.image_size, one.images, cluster,
        batch_size=one.batch_size, precision=precision, cores=cores, seconds_per_image=seconds,
    )  # fmt: skip


def check_numbers(args: argparse.Namespace) -> None:
    """Check the numbers of the command line. Raises RequestError if one is not above 0."""
    for option in ("images", "epochs", "batch_size", "image_size", "cores", "decode_ms", "image_kb", "shard_mb"):
        value = getattr(args, option, None)
        if value is not None and not 0 < value < float("inf"):
            raise RequestError(f"--{option.replace('_', '-')} {value:g} must be above 0")


def resolve_seconds_per_image(args: argparse.Namespace) -> float:
    """Return the seconds of one core per image: ``--decode-ms``, else as measured."""
    from resnext.planning.input_pipeline import load_image_sample

    return load_image_sample().mean_seconds if args.decode_ms is None else args.decode_ms / 1000


def _make_table(estimates: Sequence[tuple[TrainingJob, "Estimate"]]) -> "Table":
    from rich.table import Table

    from resnext.text import format_number

    table = Table(box=None, header_style="bold")
    table.add_column("run", overflow="fold")
    for heading in ("in", "s/step", "images/s", "±", "hours", "GPU-hours", "bound by", "cores"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one, e in estimates:
        table.add_row(
            one.name, e.precision, format_number(e.seconds_per_step), f"{e.images_per_second:,.0f}", f"{e.error:.0%}",
            format_number(e.hours), format_number(e.gpu_hours), e.bottleneck, format_number(e.cores),
        )  # fmt: skip
    return table


def _make_notes(cluster: "Cluster", runs: Sequence[tuple[TrainingJob, "Estimate"]]) -> str:
    small = min(one.batch_size // cluster.size for one, _ in runs)
    notes = [
        "",
        "±: error (one standard deviation) of the cost model on speeds left out of its fit, results/cost-model.csv",
        "cores: per host, to decode and augment as fast as the devices train; see resnext paper feed",
        "evaluation is not included: 50,000 images after each epoch of ImageNet-1K add about 1 %",
    ]
    if cluster.hosts > 1:
        notes.append("the model does not include the network between hosts")
    if any(e.extrapolated for _, e in runs):
        notes.append(f"extrapolated: the fit has no training speed of {cluster.machine.name} in this precision")
    if small < MIN_MEASURED_BATCH and "half" in cluster.machine.peak:
        few = f"{small} images per device are few"
        notes.append(f"{few}: the fit used {MIN_MEASURED_BATCH} and more, and smaller steps are slower")
    return "\n".join(notes)
