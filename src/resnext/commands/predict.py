"""``resnext predict``: classify images."""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.choices import CHECKPOINT_NAMES, PRECISION_CHOICES
from resnext.commands import engine_options
from resnext.commands.evaluate import parse_positive
from resnext.errors import RequestError, escape_unprintable
from resnext.files import check_file, check_folder, is_device
from resnext.run_directory import check_checkpoint_choice, check_run_kind
from resnext.text import format_share

if TYPE_CHECKING:
    from resnext.deploy.predictor import Predictor
    from resnext.evaluation.predict import Prediction
    from resnext.model.network import Network

MAX_EXPLAINED = 4  # classes in a picture of --explain
ENDINGS = {  # option that names a file -> endings of the files that it may replace
    "csv": (".csv", ".tsv", ".txt"),
    "html": (".html", ".htm"),
    "embeddings": (".npz",),
    "picture": (".png",),
}
SUMMARY = "Classify images with a run or a weights file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for weights, images and output."""
    parser.add_argument("weights", metavar="RUN_OR_WEIGHTS", help="run directory, weights file of any format, hf://...")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image files, folders (searched recursively), quoted patterns: 'a/**/*.jpg'",
    )  # fmt: skip
    parser.add_argument("--top", type=parse_positive, default=3, metavar="K", help="number of classes to show [3]")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of a table")
    parser.add_argument("--csv", metavar="FILE", help="write a row for each image to this CSV file too")
    parser.add_argument("--html", metavar="FILE", help="write a page with thumbnails by predicted class")
    parser.add_argument("--sort-into", metavar="DIR", help="copy each image to DIR/CLASS")
    parser.add_argument(
        "--embeddings", metavar="FILE",
        help="write the pooled features (names, float32 [N, features]) to this .npz file instead of classifying",
    )  # fmt: skip
    parser.add_argument(
        "--explain", metavar="DIR", help="draw where the network looks for the --top classes: DIR/IMAGE.png"
    )
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    parser.add_argument("--batch-size", type=parse_positive, default=32, metavar="N", help="images per batch [32]")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto [auto]")
    parser.add_argument("--precision", choices=PRECISION_CHOICES, help="precision of the --engine [fp32]")
    engine_options.add_engine_options(parser)
    parser.add_argument(
        "--picture", metavar="FILE", help="also write a PNG of the first 24 images as the network sees them"
    )


def run(args: argparse.Namespace) -> int:
    """Classify and print; return 1 if an image could not be read (the others are still classified)."""
    from resnext.deploy.predictor import Predictor
    from resnext.evaluation.images import find_images
    from resnext.evaluation.output.drawing_paths import make_drawing_paths
    from resnext.evaluation.outputs import get_preprocessing
    from resnext.evaluation.predict import Prediction, predict
    from resnext.progress_bar import show_image_progress

    check_options(args)
    device_name = engine_options.choose_device_name(args)
    model = engine_options.load_model(args, args.weights, args.checkpoint)
    preprocessing = get_preprocessing(model)
    paths, problems = find_images(args.images)
    if args.picture is not None:
        check_picture(Path(args.picture), paths)
    if args.sort_into is not None:
        from resnext.evaluation.output.prediction_files import check_sort_folder

        check_sort_folder(Path(args.sort_into), paths)
    if not isinstance(model, Predictor):
        from resnext.device import pick_device

        model.to(pick_device(device_name))
    if args.embeddings is not None:
        return write_embeddings(args, model, paths, problems)
    if args.engine is not None and not isinstance(model, Predictor):
        batch = min(args.batch_size, len(paths))
        precision, size = args.precision or "fp32", preprocessing.image_size
        model = engine_options.build_predictor(args, model, args.weights, precision, size, batch)
    places = [] if args.explain is None else make_drawing_paths(Path(args.explain), paths, "--explain")
    explain, top = args.explain is not None, min(args.top, MAX_EXPLAINED)
    with show_image_progress(len(paths)) as progress:
        predictions = predict(model, paths, top, explain=explain, batch_size=args.batch_size, progress=progress)
    if args.explain is not None:
        from resnext.evaluation.output.heat_maps import draw_explanations

        count = draw_explanations(predictions, places, preprocessing)
        print(f"resnext: {count} drawn into {args.explain}", file=sys.stderr)
    predictions += [Prediction(path, (), error=problem) for path, problem in problems]
    failed = [prediction for prediction in predictions if prediction.error is not None]
    if args.picture is not None and len(failed) < len(predictions):
        from resnext.evaluation.output.plots import plot_predictions
        from resnext.plotting import save_figure

        save_figure(plot_predictions(predictions, preprocessing), args.picture)
        print(f"resnext: {args.picture} shows them as the network sees them", file=sys.stderr)
    write_files(args, predictions)
    if args.json:
        print(format_json([format_json_entry(prediction, args.top) for prediction in predictions]))
    elif len(failed) < len(predictions):
        print_predictions(predictions, args.top, preprocessing.to_dict())
    print_problems([(prediction.path, str(prediction.error)) for prediction in failed])
    return 1 if failed else 0


def write_files(args: argparse.Namespace, predictions: list["Prediction"]) -> None:
    """Write what ``--csv``, ``--html`` and ``--sort-into`` ask for, and say where it is on standard error."""
    if args.csv is None and args.html is None and args.sort_into is None:
        return
    from resnext.evaluation.output import prediction_files

    if args.csv is not None:
        prediction_files.write_prediction_csv(Path(args.csv), predictions, args.top)
        print(f"resnext: {args.csv} has a row for each image", file=sys.stderr)
    if args.html is not None:
        title = f"Predictions of {args.weights}"
        prediction_files.write_gallery(Path(args.html), predictions, args.top, title)
        print(f"resnext: {args.html} shows the images by class", file=sys.stderr)
    if args.sort_into is not None:
        count = prediction_files.copy_by_class(Path(args.sort_into), predictions)
        print(f"resnext: {count} images copied into {args.sort_into}", file=sys.stderr)


def format_json(entries: list[dict[str, Any]]) -> str:
    """Format JSON with letters as they are, but for parts of file names that are not UTF-8, which are escaped."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(entries, indent=1, ensure_ascii=not is_utf8)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def check_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that cannot be combined."""
    check_files({name: Path(path) for name in ENDINGS if (path := getattr(args, name)) is not None})
    engine_options.check_engine_options(args)
    check_run_kind(args.weights, "classification", f"resnext detect predict {args.weights}")
    if args.engine is None and args.precision is not None and not engine_options.has_exported(args):
        raise RequestError(f"--precision {args.precision} needs an engine: add --engine auto")
    check_checkpoint_choice(args.checkpoint, [args.weights])
    if args.explain is not None:
        check_folder(Path(args.explain), "--explain")
    if args.sort_into is not None:
        check_folder(Path(args.sort_into), "--sort-into")
    if args.embeddings is not None:
        if args.engine is not None:
            raise RequestError("--embeddings cannot be combined with --engine: engines compute only logits")
        for option in ("json", "picture", "explain", "csv", "html", "sort_into"):
            if getattr(args, option):
                raise RequestError(
                    f"--embeddings writes features instead of predictions; leave out --{option.replace('_', '-')}"
                )


def check_files(files: Mapping[str, Path]) -> None:
    """Raise RequestError if one of the files, by option, cannot be written or is named twice."""
    options: dict[Path, str] = {}
    for name, path in files.items():
        check_file(path, f"--{name}", ENDINGS[name])
        other = options.setdefault(path.resolve(), name)
        if other != name and not is_device(path):
            raise RequestError(f"--{other} and --{name} both name {path}; give them different names")


def check_picture(picture: Path, paths: Sequence[str]) -> None:
    """Raise RequestError if the picture would replace a file beside the images, which may be one of them."""
    if picture.is_file() and any(picture.resolve().parent == Path(path).resolve().parent for path in paths):
        raise RequestError(f"--picture {picture} exists in the folder of the images; give another name")


def write_embeddings(
    args: argparse.Namespace, model: "Network | Predictor", paths: list[str], problems: list[tuple[str, str]]
) -> int:
    """Write the pooled features of the images; return 0, or 1 if an image could not be read."""
    from resnext.evaluation.embed import compute_embeddings
    from resnext.progress_bar import show_image_progress

    with show_image_progress(len(paths)) as progress:
        found = compute_embeddings(model, paths, batch_size=args.batch_size, progress=progress)
    failed = [*found.problems, *problems]
    if found.names:
        found.write(Path(args.embeddings))
        print(f"{len(found.names):,} images, {found.features.shape[1]:,} features each: {args.embeddings}")
    print_problems(failed)
    return 1 if failed else 0


def print_problems(problems: list[tuple[str | None, str]]) -> None:
    """Print on standard error which images could not be read, and why."""
    for path, reason in problems:
        print(f"resnext: {escape_unprintable(str(path))}: {reason}", file=sys.stderr)


def format_json_entry(prediction: "Prediction", top: int) -> dict[str, Any]:
    """Build one entry of the JSON array: the path with its predictions, or with its error."""
    if prediction.error is not None:
        return {"path": prediction.path, "error": prediction.error}
    pairs = [{"class": name, "probability": p} for name, p in prediction.top(top)]
    return {"path": prediction.path, "predictions": pairs}


def print_predictions(predictions: list["Prediction"], top: int, view: dict[str, Any]) -> None:
    """Print one row per image, and below how images were prepared."""
    from rich.table import Table

    from resnext.evaluation.output.view_text import format_view
    from resnext.screen import make_screen

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("prediction", style="bold")
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("next best" if top > 1 else "")
    for prediction in predictions:
        if prediction.error is None:
            (name, p), *others = prediction.top(top)
            rest = ", ".join(f"{escape_unprintable(other)} {format_share(q)}" for other, q in others)
            path = escape_unprintable(str(prediction.path))
            table.add_row(path, escape_unprintable(name), format_share(p), rest)
    console = make_screen()
    console.print(table)
    console.print(f"network input: {format_view(view)}", style="dim")
