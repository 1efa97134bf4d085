"""``resnext detect ACTION``: train, evaluate and run object detectors (Faster R-CNN) on our networks."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.choices import CHECKPOINT_NAMES, PRECISIONS, SPLITS
from resnext.commands.evaluate import parse_non_negative, parse_positive
from resnext.commands.train import add_arguments as add_train_arguments
from resnext.commands.train import resolve_arguments
from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError, escape_unprintable
from resnext.files import check_file, check_folder
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory, check_checkpoint_choice, check_run_kind, is_run
from resnext.sources import BOX_FORMATS

if TYPE_CHECKING:
    from resnext.detection.coco_predictions import ResultIds
    from resnext.detection.evaluation.coco_eval import DetectionEvaluation
    from resnext.detection.model.faster_rcnn import FasterRcnn
    from resnext.detection.predict import DetectPrediction
    from resnext.detection.predictor import DetectPredictor

SUMMARY = "Train an object detector (Faster R-CNN), evaluate it by COCO's metrics, or detect objects in images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions train, evaluate and predict."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train a detector by a recipe, or resume a run", allow_abbrev=False)
    add_train_arguments(train, DetectRecipe)
    evaluate = actions.add_parser("evaluate", help="compute COCO's metrics on labelled images", allow_abbrev=False)
    _add_evaluate_options(evaluate)
    _add_predict_options(actions.add_parser("predict", help="detect objects in images", allow_abbrev=False))


def _add_weights_options(parser: argparse.ArgumentParser, **options: Any) -> None:
    about = "detection run, a detector's weights file (ours, torchvision's), hf://..., or an exported .onnx or .xml"
    parser.add_argument("weights", metavar="RUN_OR_WEIGHTS", help=about, **options)
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto [auto]")
    parser.add_argument("--precision", choices=PRECISIONS, help="precision of the convolutions [the run's, or fp32]")
    parser.add_argument("--bn-eps", type=float, metavar="X", help="epsilon of BN, if the file does not tell")
    parser.add_argument("--score", type=float, metavar="X", help="minimum score of a detection [the detector's]")


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    _add_weights_options(parser, nargs="?")
    parser.add_argument(
        "--detections",
        metavar="FILE",
        help="evaluate these detections instead: COCO's results format, from any program",
    )
    parser.add_argument(
        "--data", metavar="PATH", help="folder of images and annotations, all used [the run's own data]"
    )
    parser.add_argument("--source", choices=tuple(BOX_FORMATS), help="format of PATH [that of the run's data, or coco]")
    parser.add_argument("--annotations", metavar="FILE", help="COCO JSON or VOC list, if not at the usual place")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, if not at the usual place")
    parser.add_argument("--split", choices=SPLITS, default="val", help="held-out or training images [val]")
    parser.add_argument(
        "--max-detections",
        type=parse_positive,
        metavar="N",
        help="maximum detections per class and image that count [100, as in COCO]",
    )
    parser.add_argument("--workers", type=parse_non_negative, metavar="N", help="loading processes [one per core]")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for tables and plots [RUN/evaluation for the run's own standard evaluation, otherwise none]",
    )


def _add_predict_options(parser: argparse.ArgumentParser) -> None:
    _add_weights_options(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files, folders (searched recursively), quoted patterns: 'a/**/*.jpg'",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write COCO's results format with class names, one entry per detection; - prints it",
    )
    parser.add_argument(
        "--images-json", metavar="FILE", help="write all images with their number of detections, also zero; - prints it"
    )
    parser.add_argument(
        "--annotations", metavar="FILE", help="COCO JSON that gives the image and category ids to write [names as ids]"
    )
    parser.add_argument("--out", metavar="DIR", help="write each image with its boxes drawn into this folder")
    parser.add_argument("--batch-size", type=parse_positive, default=1, metavar="N", help="images per batch [1]")


def run(args: argparse.Namespace) -> int:
    """Run the action; return 0, or 1 if some images failed."""
    return {"train": _run_train, "evaluate": _run_evaluate, "predict": _run_predict}[args.action](args)


def _run_train(args: argparse.Namespace) -> int:
    recipe, directory, resume = resolve_arguments(args, DetectRecipe)

    from resnext.detection.training.task import Detection
    from resnext.training.loop import run_training

    run_training(Detection, recipe, directory, resume=resume)
    return 0


def _run_evaluate(args: argparse.Namespace) -> int:
    from resnext.detection.data.open import open_detection_split
    from resnext.detection.evaluation import setup
    from resnext.detection.evaluation.console import print_detection_evaluation
    from resnext.detection.evaluation.exported import evaluate_exported
    from resnext.detection.evaluation.tables import FILES, FORMAT
    from resnext.files import check_output_directory
    from resnext.training.distributed import init_distributed

    if (args.weights is None) == (args.detections is None):
        raise RequestError("evaluate needs either RUN_OR_WEIGHTS or --detections FILE")
    _check_options(args)
    options = setup.DetectEvalOptions(**{f.name: getattr(args, f.name) for f in fields(setup.DetectEvalOptions)})
    recipe = _read_run_recipe(args)
    dataset = open_detection_split(setup.choose_detection_data(options, recipe), args.split)
    own = setup.choose_run_directory(options, recipe)
    out = own if args.out is None else Path(args.out)
    if out is not None:
        check_output_directory(out, FILES, FORMAT)
    evaluation: DetectionEvaluation | None
    with init_distributed(args.device) as world:
        if args.detections is not None:
            evaluation, about = setup.evaluate_file(options, dataset, _warn)
        elif _is_exported(args):
            evaluation, about = evaluate_exported(options, dataset, _warn)
        else:
            evaluation, about = setup.evaluate_model(options, dataset, recipe, world, _warn)
        if evaluation is None:
            return 0
    other = ""
    if own is not None and args.out is None and recipe is not None:
        other = setup.explain_other_protocol(own.parent, recipe, about)
        out = None if other else own
    if out is not None:
        setup.write_results(evaluation, dataset, out, about)
    print_detection_evaluation(evaluation)
    print(f"{other}give --out DIR to keep tables and plots" if out is None else f"tables and plots  {out}")
    return 0


def _warn(sentence: str) -> None:
    """Print a warning on standard error, unless it is empty."""
    if sentence:
        print(f"resnext: {escape_unprintable(sentence)}", file=sys.stderr)


def _check_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that are invalid or would have no effect."""
    from resnext.detection.evaluation.coco_eval import MIN_MAX_DETECTIONS

    if args.max_detections is not None and args.max_detections < MIN_MAX_DETECTIONS:
        raise RequestError(f"--max-detections {args.max_detections} must be at least {MIN_MAX_DETECTIONS}")
    if args.detections is None:
        _check_weights_options(args)
        return
    usual = {"checkpoint": "best", "device": "auto", "precision": None, "bn_eps": None, "score": None, "workers": None}
    for name, value in usual.items():
        if getattr(args, name) != value:
            option = name.replace("_", "-")
            raise RequestError(f"--{option} is for running a detector and has no effect on --detections")


def _check_weights_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that do not fit the run, the weights or the exported file."""
    check_checkpoint_choice(args.checkpoint, [args.weights])
    if not _is_exported(args):
        return
    for name, usual in (("device", ("auto", "cpu")), ("precision", (None, "fp32")), ("bn_eps", (None,))):
        value = getattr(args, name)
        if value not in usual:
            option = name.replace("_", "-")
            raise RequestError(f"--{option} {value} has no effect on {args.weights}: it was settled by the export")


def _is_exported(args: argparse.Namespace) -> bool:
    """Return whether RUN_OR_WEIGHTS is an exported file, or a folder with one."""
    from resnext.deploy.exported import find_exported_file

    return args.weights is not None and find_exported_file(args.weights) is not None


def _load_model(args: argparse.Namespace) -> "FasterRcnn | DetectPredictor":
    """Load what is to detect, on its device; torch is not imported for an exported file."""
    if _is_exported(args):
        from resnext.detection.predictor import DetectPredictor

        return DetectPredictor.load(args.weights, score=args.score)
    from resnext.detection.evaluation.setup import load_for_inference
    from resnext.device import pick_device

    device = pick_device(args.device)
    model = load_for_inference(args.weights, args.checkpoint, bn_eps=args.bn_eps, score=args.score, warn=_warn)
    return model.to(device)


def _run_predict(args: argparse.Namespace) -> int:
    from resnext.detection.coco_predictions import mark_wrong_sizes, read_annotation_ids, use_names_as_ids
    from resnext.detection.predict import draw_predictions, predict, summarize_prediction
    from resnext.evaluation.images import find_images
    from resnext.evaluation.output.drawing_paths import make_drawing_paths
    from resnext.progress_bar import show_image_progress
    from resnext.screen import make_screen

    for option, file in (("--json", args.json), ("--images-json", args.images_json)):
        if file == args.json == args.images_json == "-":
            raise RequestError("--json and --images-json cannot both be printed; give one of them a FILE")
        if file not in (None, "-"):
            check_file(Path(file), option, (".json",))
    if args.out is not None:
        check_folder(Path(args.out), "--out")
    _check_weights_options(args)
    recipe = _read_run_recipe(args)
    model = _load_model(args)
    precision = args.precision or (recipe.train.precision if recipe is not None else "fp32")
    paths, problems = find_images(args.images)
    places = make_drawing_paths(Path(args.out), paths) if args.out is not None else []
    if args.annotations is None:
        ids = use_names_as_ids(paths, model)
    else:
        ids = read_annotation_ids(Path(args.annotations), paths, model)
    with show_image_progress(len(paths)) as progress:
        found = predict(model, paths, precision=precision, batch_size=args.batch_size, progress=progress)
    found = mark_wrong_sizes(found, ids)
    if places:
        print(f"{draw_predictions(found, places, model.classes)} drawn into {args.out}", file=sys.stderr)
    _write_detections(args, found, ids)
    if "-" not in (args.json, args.images_json):
        screen = make_screen()
        for one in found:
            if one.error is None:
                screen.print(summarize_prediction(one, model.classes), highlight=False, markup=False, soft_wrap=True)
    failed = [one for one in found if one.error is not None]
    for path, error in [*((one.path, one.error) for one in failed), *problems]:
        print(f"resnext: {escape_unprintable(str(path))}: {error}", file=sys.stderr)
    return 1 if failed or problems else 0


def _write_detections(args: argparse.Namespace, found: "list[DetectPrediction]", ids: "ResultIds") -> None:
    """Write ``--json`` and ``--images-json``; print a note if names are used as ids."""
    from resnext.detection.coco_predictions import to_coco_results, to_image_table
    from resnext.files import atomic_write

    for file, values in ((args.json, to_coco_results(found, ids)), (args.images_json, to_image_table(found, ids))):
        if file == "-":
            print(json.dumps(values, indent=1))
        elif file is not None:
            with atomic_write(Path(file), "w") as stream:
                stream.write(json.dumps(values, indent=1))
    if args.json is not None and args.annotations is None:
        print(
            f"resnext: {args.json} uses image names as ids, because no --annotations FILE was given: "
            "resnext detect evaluate --detections accepts them, COCO's own tools do not",
            file=sys.stderr,
        )


def _read_run_recipe(args: argparse.Namespace) -> DetectRecipe | None:
    """Read the recipe of a detection run; None for a weights file. Raises RequestError for other runs."""
    weights: str | None = args.weights
    if weights is None or not is_run(Path(weights)):
        return None
    check_run_kind(weights, "detection", f"resnext {args.action} {weights}")
    try:
        return read_recipe(RunDirectory(Path(weights)).recipe, kind=DetectRecipe)
    except RequestError as error:
        raise RequestError(f"{weights} is not a run of resnext detect train: {error}") from None
