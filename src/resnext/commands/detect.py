"""``resnext detect ACTION``: Faster R-CNN on our networks, trained, judged and used on pictures."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.commands.evaluate import positive, whole
from resnext.commands.train import add_settings, add_ways, asked_for
from resnext.detect.settings import SOURCES, DetectDataSettings, DetectRecipe
from resnext.errors import RequestError
from resnext.recipe import read_recipe
from resnext.run_directory import CHECKPOINTS, RunDirectory, check_checkpoint, is_run

if TYPE_CHECKING:
    from resnext.detect.dataset import DetectionDataset
    from resnext.detect.evaluator import DetectionEvaluation
    from resnext.detect.faster_rcnn import FasterRcnn

SENTENCE = "Train a detector (Faster R-CNN), judge it by COCO's metrics, find what is in images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """train, evaluate, predict."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train a detector by a recipe, or go on with a run", allow_abbrev=False)
    add_ways(train)
    add_settings(train, DetectRecipe)
    _add_evaluate(actions.add_parser("evaluate", help="COCO's metrics on labelled images", allow_abbrev=False))
    _add_predict(actions.add_parser("predict", help="find what is in images", allow_abbrev=False))


def _add_weights(parser: argparse.ArgumentParser, **options: Any) -> None:
    about = "detection run, a detector's weights file (ours, torchvision's), hf://..."
    parser.add_argument("weights", metavar="RUN_OR_WEIGHTS", help=about, **options)
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="best", help="which checkpoint of a run [best]")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto [auto]")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="of the convolutions [the run's, or fp32]"
    )
    parser.add_argument(
        "--bn-eps", type=float, metavar="X", help="what BN adds to the variance, where the file cannot say"
    )
    parser.add_argument("--score", type=float, metavar="X", help="least score of a detection [the detector's]")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_weights(parser, nargs="?")
    parser.add_argument(
        "--detections", metavar="FILE", help="judge these instead: COCO's results format, of any program"
    )
    parser.add_argument("--data", metavar="PATH", help="folder of images and annotations [the run's own]")
    parser.add_argument("--source", choices=SOURCES, help="what PATH is [coco]")
    parser.add_argument("--annotations", metavar="FILE", help="COCO JSON, or list of VOC, when not at the usual place")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, when not at the usual place")
    parser.add_argument("--split", choices=("val", "train"), default="val", help="held-out or training images [val]")
    parser.add_argument("--workers", type=whole, metavar="N", help="loading processes [one a core]")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where tables and pictures go [of a run's own held-out images RUN/evaluation, else nowhere]",
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_weights(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files, folders (with all that is below), quoted patterns: 'a/**/*.jpg'",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write COCO's results format, with the files' names; - prints it"
    )
    parser.add_argument("--out", metavar="DIR", help="draw each image with its boxes into this folder")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images at a time [1]")


def run(args: argparse.Namespace) -> int:
    """Exit status 0, or 1 where the work failed for some images. Raises RequestError and WorkError."""
    return {"train": _train, "evaluate": _evaluate, "predict": _predict}[args.action](args)


def _train(args: argparse.Namespace) -> int:
    recipe, directory, resume = asked_for(args, DetectRecipe)

    from resnext.detect.task import DETECTION
    from resnext.train.loop import train

    train(recipe, directory, resume=resume, task=DETECTION)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from resnext.detect.open import open_detection_split
    from resnext.train.distributed import joined

    if (args.weights is None) == (args.detections is None):
        raise RequestError("evaluate needs RUN_OR_WEIGHTS, or --detections FILE: one of them")
    _check_options(args)
    recipe = _recipe_of(args.weights)
    dataset = open_detection_split(_data_of(args, recipe), args.split)
    own = recipe is not None and args.data is None and args.annotations is None and args.split == "val"
    out = args.out or (RunDirectory(Path(args.weights)).evaluation if own else None)
    if out is not None:
        from resnext.detect.tables import FILES, FORMAT
        from resnext.evaluate.tables import check_directory

        check_directory(Path(out), FILES, FORMAT)
    evaluation: DetectionEvaluation | None
    with joined(args.device) as world:
        if args.detections is not None:
            evaluation, about = _judged_file(args, dataset)
        else:
            evaluation, about = _judged_model(args, dataset, recipe, world)
        if evaluation is None:
            return 0
    _show(evaluation)
    if out is not None:
        from resnext.detect.tables import write_detection_evaluation

        print(f"tables and pictures  {write_detection_evaluation(evaluation, dataset, out, about)}")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raises RequestError for options that would change nothing."""
    if args.detections is None:
        check_checkpoint(args.checkpoint, [args.weights])
        return
    usual = {"checkpoint": "best", "device": "auto", "precision": None, "bn_eps": None, "score": None, "workers": None}
    for name, value in usual.items():
        if getattr(args, name) != value:
            option = name.replace("_", "-")
            raise RequestError(f"--{option} says how a detector runs, and --detections are judged without one")


def _judged_file(args: argparse.Namespace, dataset: "DetectionDataset") -> tuple["DetectionEvaluation", dict[str, Any]]:
    from resnext.detect.evaluator import evaluate_detections
    from resnext.detect.protocol import detection_protocol
    from resnext.detect.results import read_results

    evaluation = evaluate_detections(dataset, read_results(Path(args.detections), dataset))
    return evaluation, detection_protocol(
        None, None, data=dataset.name, split=args.split, changed=dataset.counts, weights=str(args.detections)
    )


def _judged_model(
    args: argparse.Namespace, dataset: "DetectionDataset", recipe: DetectRecipe | None, world: Any
) -> tuple["DetectionEvaluation | None", dict[str, Any]]:
    from resnext.data.loader import workers_for_files
    from resnext.detect.judge import evaluate
    from resnext.detect.protocol import detection_protocol
    from resnext.detect.session import as_one_class
    from resnext.evaluate.progress import image_bar

    model = _loaded(args).to(world.device)
    dataset = as_one_class(dataset) if model.learn == "rpn" else dataset
    precision = args.precision or (recipe.train.precision if recipe is not None else "fp32")
    workers = workers_for_files() if args.workers is None else args.workers
    with image_bar(len(dataset) // world.size) as progress:
        evaluation = evaluate(model, dataset, world, precision=precision, workers=workers, progress=progress)
    about = detection_protocol(
        model.preprocessing,
        model.settings,
        data=dataset.name,
        split=args.split,
        changed=dataset.counts,
        device=str(world.device),
        precision=precision,
        weights=str(args.weights),
        checkpoint=args.checkpoint if recipe is not None else None,
    )
    return evaluation, about


def _predict(args: argparse.Namespace) -> int:
    from resnext.detect.predict import as_results, draw, drawing_places, predict
    from resnext.device import pick_device
    from resnext.evaluate.predict import find_images
    from resnext.evaluate.progress import image_bar

    if args.json not in (None, "-") and not Path(args.json).absolute().parent.is_dir():
        raise RequestError(f"--json {args.json}: there is no folder {Path(args.json).parent}")
    check_checkpoint(args.checkpoint, [args.weights])
    recipe = _recipe_of(args.weights)
    device = pick_device(args.device)
    model = _loaded(args).to(device)
    precision = args.precision or (recipe.train.precision if recipe is not None else "fp32")
    paths, problems = find_images(args.images)
    places = drawing_places(Path(args.out), paths) if args.out is not None else []
    with image_bar(len(paths)) as progress:
        found = predict(model, paths, device, precision=precision, batch_size=args.batch_size, progress=progress)
    if args.json is not None:
        text = json.dumps(as_results(found, model.classes), indent=1)
        if args.json == "-":
            print(text)
        else:
            from resnext.files import written_whole

            with written_whole(Path(args.json), "w") as file:
                file.write(text)
    if args.json != "-":
        _list(found, model.classes)
    if places:
        print(f"{draw(found, places, model.classes)} drawn into {args.out}", file=sys.stderr)
    failed = [one for one in found if one.error is not None]
    for path, error in [*((one.path, one.error) for one in failed), *((p.path, p.error) for p in problems)]:
        print(f"resnext: {str(path).encode('utf-8', 'backslashreplace').decode()}: {error}", file=sys.stderr)
    return 1 if failed or problems else 0


def _loaded(args: argparse.Namespace) -> "FasterRcnn":
    """The detector, with what the command line changes of it. Raises RequestError."""
    from resnext.detect.fast import for_prediction
    from resnext.detect.files import load_detector

    model = for_prediction(load_detector(args.weights, args.checkpoint, bn_eps=args.bn_eps))
    for note in model.provenance.get("notes", []):
        print(f"resnext: {args.weights}: {note}", file=sys.stderr)
    if args.score is not None:
        if not 0 <= args.score <= 1:
            raise RequestError(f"--score {args.score:g} must be from 0 to 1")
        model.set_score(args.score)
    return model


def _recipe_of(weights: str | None) -> DetectRecipe | None:
    """The recipe of a detection run; None for weights. Raises RequestError for another run."""
    if weights is None or not is_run(Path(weights)):
        return None
    try:
        return read_recipe(RunDirectory(Path(weights)).recipe, kind=DetectRecipe)
    except RequestError as error:
        raise RequestError(f"{weights} is no run of resnext detect train: {error}") from None


def _data_of(args: argparse.Namespace, recipe: DetectRecipe | None) -> DetectDataSettings:
    """Where the labelled images lie: the run's own data, or what the command line says. Raises RequestError."""
    if recipe is None and args.data is None:
        raise RequestError("say which images: --data PATH, a folder of images with their annotations")
    data = DetectDataSettings() if recipe is None else recipe.data
    if args.data is not None:
        data = replace(data, path=args.data)
    if args.source is not None:
        data = replace(data, source=args.source)
    said = {args.split: args.annotations, f"{args.split}_images": args.images}
    return replace(data, **{key: value for key, value in said.items() if value is not None})


def _show(evaluation: "DetectionEvaluation") -> None:
    """COCO's twelve numbers, and a row a class."""
    from rich.table import Table
    from rich.text import Text

    from resnext.detect.finish import percent
    from resnext.evaluate.style import plain
    from resnext.screen import screen

    console = screen()
    e = evaluation
    console.print(
        f"AP {percent(e.ap)}  AP50 {percent(e.ap50)}  AP75 {percent(e.ap75)}   small {percent(e.ap_small)}  medium "
        f"{percent(e.ap_medium)}  large {percent(e.ap_large)}\nAR of 1, 10, 100 detections {percent(e.ar1)}, "
        f"{percent(e.ar10)}, {percent(e.ar100)}   small {percent(e.ar_small)}  medium {percent(e.ar_medium)}  large "
        f"{percent(e.ar_large)}\n{e.n:,} images of {e.name}, {e.boxes:,} boxes, {e.detections.n:,} detections",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("class", "images", "boxes", "AP", "AP50", "AP75", "AR"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for one in e.per_class:
        numbers = map(percent, (one.ap, one.ap50, one.ap75, one.ar100))
        table.add_row(Text(plain(one.name, 40)), f"{one.images:,}", f"{one.boxes:,}", *numbers)
    console.print(table)


def _list(found: list[Any], classes: tuple[str, ...]) -> None:
    """One line an image: how many of each class."""
    from resnext.detect.predict import summary
    from resnext.screen import screen

    for one in found:
        if one.error is None:
            screen().print(summary(one, classes), highlight=False, markup=False, soft_wrap=True)
