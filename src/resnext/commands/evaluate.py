"""``resnext evaluate``: the error of a run or of weights on labelled images, with everything that explains it."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnext.errors import RequestError
from resnext.recipe import read_recipe
from resnext.run_directory import CHECKPOINTS, RunDirectory, is_run
from resnext.settings import SOURCES, DataSettings, Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.data.preprocessing import Preprocessing
    from resnext.data.source import Dataset
    from resnext.evaluate.evaluator import Evaluation
    from resnext.model.network import Network

SENTENCE = "Judge a run or weights on labelled images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose weights, which images, how to compute, and where the tables go."""
    parser.add_argument("weights", metavar="RUN_OR_WEIGHTS", help="run directory, weights file of any format, hf://...")
    parser.add_argument(
        "--data", metavar="PATH", help="where the images lie; of a run: its own data, found at another place"
    )
    parser.add_argument(
        "--source", choices=SOURCES, help="other data than the run's own; folder takes all images of PATH"
    )
    parser.add_argument("--split", choices=("val", "train"), default="val", help="held-out or training images [val]")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="best", help="which checkpoint of a run [best]")
    parser.add_argument(
        "--batch-size", type=positive, default=256, metavar="N", help="the result does not depend on it [256]"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="arithmetic of the convolutions [the run's, or fp32]"
    )
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="loading processes [0 for data in memory, else one a core]"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto [auto]")
    parser.add_argument("--out", metavar="DIR", help="where tables and pictures go [RUN/evaluation]")


class Judged(NamedTuple):
    """The images to judge, how they were divided from the others, and whether they are the run's own."""

    dataset: "Dataset"
    split: str
    own: bool


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write the tables; exit status 0."""
    from resnext.data.imagenet import by_synset
    from resnext.data.loader import default_workers
    from resnext.device import pick_device
    from resnext.evaluate.evaluator import check_fit, evaluate
    from resnext.evaluate.predict import preprocessing_of
    from resnext.evaluate.progress import image_bar
    from resnext.evaluate.report import write_report
    from resnext.evaluate.tables import check_directory, write_evaluation
    from resnext.screen import screen
    from resnext.weights import load

    console, path = screen(), Path(args.weights)
    device = pick_device(args.device)
    model = load(args.weights, args.checkpoint)
    preprocessing = preprocessing_of(model)
    recipe = read_recipe(path / "recipe.yaml") if is_run(path) else None
    judged = choose_data(args, recipe, preprocessing)
    if model.architecture.num_classes == 1000:
        judged = judged._replace(dataset=by_synset(judged.dataset, model.classes))
    check_fit(model, judged.dataset)
    out = choose_directory(args, path if recipe else None, judged)
    if out is not None:
        check_directory(out)
    precision = args.precision or (recipe.train.precision if recipe else "fp32")
    workers = default_workers(judged.dataset) if args.workers is None else args.workers
    with image_bar(len(judged.dataset)) as progress:
        evaluation = evaluate(
            model.to(device),
            judged.dataset,
            preprocessing,
            device=device,
            batch_size=args.batch_size,
            precision=precision,
            workers=workers,
            progress=progress,
        )
    about = describe(args, path, judged, preprocessing, str(device), precision)
    show(console, evaluation, about)
    show_published(console, model, args.weights, evaluation, about)
    if out is None:
        console.print("Give --out DIR to keep the tables and pictures.", soft_wrap=True)
        return 0
    write_evaluation(evaluation, judged.dataset, preprocessing, out, about)
    console.print(f"tables and pictures: {out}", markup=False, highlight=False, soft_wrap=True)
    if recipe and out == RunDirectory(path).evaluation:
        write_report(path)
        console.print(f"report: {RunDirectory(path).report}", markup=False, highlight=False, soft_wrap=True)
    return 0


def choose_data(args: argparse.Namespace, recipe: Recipe | None, preprocessing: "Preprocessing") -> Judged:
    """The images the user means. Raises RequestError where weights come without a run and nothing says it."""
    from resnext.data.open import open_data, open_split

    if args.source is None and recipe is None and args.data is None:
        raise RequestError(
            f"{args.weights} is a weights file, so nothing says which images to judge it on; "
            f"give --data PATH with a folder a class, or --source {'|'.join(SOURCES)}"
        )
    if args.source is None and recipe is not None:
        settings = recipe.data if args.data is None else replace(recipe.data, path=args.data)
        source = open_data(settings)
        return Judged(source.train if args.split == "train" else source.val, source.split, own=args.data is None)
    settings = DataSettings(source=args.source or "folder", path=args.data, exif=preprocessing.exif)
    if settings.source != "folder":
        source = open_data(settings)
        return Judged(source.train if args.split == "train" else source.val, source.split, own=False)
    dataset = open_split(replace(settings, channels=preprocessing.channels), args.split)
    return Judged(dataset, f"every image of {dataset.name}", own=False)


def choose_directory(args: argparse.Namespace, run: Path | None, judged: Judged) -> Path | None:
    """Where the tables go: the run's ``evaluation`` is kept for its best weights on its own held-out images."""
    if args.out is not None:
        return Path(args.out)
    if run is None:
        return None
    words = [word for word, usual in ((args.split, "val"), (args.checkpoint, "best")) if word != usual]
    words += [] if judged.own else [judged.dataset.name]
    return run / "-".join(["evaluation", *("".join(c if c.isalnum() else "-" for c in word) for word in words)])


def describe(
    args: argparse.Namespace, path: Path, judged: Judged, preprocessing: "Preprocessing", device: str, precision: str
) -> dict[str, Any]:
    """The protocol of this evaluation."""
    from resnext.evaluate.protocol import protocol
    from resnext.weights.hub import is_remote

    step = None
    if is_run(path):
        position = RunDirectory(path).state(args.checkpoint).get("position")
        step = position.get("step") if isinstance(position, dict) else None
    return protocol(
        preprocessing,
        data=judged.dataset.name,
        split=judged.split,
        device=device,
        precision=precision,
        batch_size=args.batch_size,
        weights=args.weights if is_remote(args.weights) else path.resolve().name,
        checkpoint=args.checkpoint if is_run(path) else None,
        step=step,
    )


def show(console: "Console", evaluation: "Evaluation", protocol: dict[str, Any]) -> None:
    """The result as a small table, and under it the protocol without which it says little."""
    from rich.table import Table

    from resnext.evaluate.protocol import protocol_line
    from resnext.evaluate.tables import calibrate

    low, high = evaluation.interval95
    wrong = evaluation.n - evaluation.correct1
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("images", f"{evaluation.n:,}")
    table.add_row(
        "top-1 error", f"{evaluation.top1_error:.2f} %  ({wrong:,} wrong; 95 % interval {low:.2f} to {high:.2f})"
    )
    if evaluation.top5_error is not None:
        table.add_row("top-5 error", f"{evaluation.top5_error:.2f} %")
    table.add_row("loss", f"{evaluation.loss:.4f}")
    reliability = calibrate(evaluation)
    table.add_row(
        "calibration error", f"{100 * reliability.ece:.2f} %  (largest gap {100 * reliability.max_gap:.1f} %)"
    )
    console.print(table)
    console.print(protocol_line(protocol, evaluation.n), markup=False, highlight=False, soft_wrap=True)


def show_published(
    console: "Console", model: "Network", weights: str, evaluation: "Evaluation", protocol: dict[str, Any]
) -> None:
    """What was published for these very weights, where they are known, under what was measured."""
    from rich.table import Table

    from resnext.evaluate.protocol import view_line
    from resnext.paper.released import recognise

    entry = recognise(model.provenance, weights, model.architecture.name)
    if entry is None:
        return
    certain = "" if entry.certain else "probably "
    about = f"these are {certain}the weights of {entry.name}" + (f": {entry.note}" if entry.note else "")
    console.print(about, markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "top-1 error", "top-5 error"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    table.add_column("on")
    measured = f"{evaluation.n:,} images of {protocol['data']} · {view_line(protocol)}"
    table.add_row("measured", percent(evaluation.top1_error), percent(evaluation.top5_error), measured)
    for figure in entry.figures:
        table.add_row("published", percent(figure.top1_error), percent(figure.top5_error), figure.protocol)
    console.print(table)


def percent(error: float | None) -> str:
    """An error in percent, or nothing where it is unknown."""
    return "" if error is None else f"{error:.2f} %"


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def whole(text: str) -> int:
    """A whole number from 0, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return value
