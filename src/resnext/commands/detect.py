"""``resnext detect ACTION``: train, evaluate and run object detectors (Faster R-CNN) on our networks."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.commands.evaluate import parse_non_negative, parse_positive
from resnext.commands.train import add_run_options, add_setting_options, resolve_arguments
from resnext.detect.settings import DetectDataSettings, DetectRecipe, DetectTrainSettings
from resnext.errors import RequestError, escape_unprintable
from resnext.files import check_file, check_folder
from resnext.recipe import read_recipe
from resnext.run_directory import (
    CHECKPOINT_NAMES,
    RunDirectory,
    check_checkpoint_choice,
    check_run_kind,
    is_run,
    read_step,
)
from resnext.sources import BOX_FORMATS

if TYPE_CHECKING:
    from resnext.detect.coco_predictions import ResultIds
    from resnext.detect.data.dataset import DetectionDataset
    from resnext.detect.evaluate.coco_eval import DetectionEvaluation
    from resnext.detect.model.faster_rcnn import FasterRcnn
    from resnext.detect.predict import DetectPrediction

MAX_DETECTIONS_HINT = "--max-detections N allows more"
SUMMARY = "Train an object detector (Faster R-CNN), evaluate it by COCO's metrics, or detect objects in images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions train, evaluate and predict."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train a detector by a recipe, or resume a run", allow_abbrev=False)
    add_run_options(train)
    add_setting_options(train, DetectRecipe)
    _add_evaluate_options(
        actions.add_parser("evaluate", help="compute COCO's metrics on labelled images", allow_abbrev=False)
    )
    _add_predict_options(actions.add_parser("predict", help="detect objects in images", allow_abbrev=False))


def _add_weights_options(parser: argparse.ArgumentParser, **options: Any) -> None:
    about = "detection run, a detector's weights file (ours, torchvision's), hf://..."
    parser.add_argument("weights", metavar="RUN_OR_WEIGHTS", help=about, **options)
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto [auto]")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="precision of the convolutions [the run's, or fp32]"
    )
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
    parser.add_argument("--split", choices=("val", "train"), default="val", help="held-out or training images [val]")
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
        help="output folder for tables and plots [RUN/evaluation for the run's own standard evaluation, otherwise "
        "none]",
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

    from resnext.detect.train.task import train_detector

    train_detector(recipe, directory, resume=resume)
    return 0


def _run_evaluate(args: argparse.Namespace) -> int:
    from resnext.detect.data.open import open_detection_split
    from resnext.train.distributed import init_distributed

    if (args.weights is None) == (args.detections is None):
        raise RequestError("evaluate needs either RUN_OR_WEIGHTS or --detections FILE")
    _check_options(args)
    recipe = _read_run_recipe(args)
    dataset = open_detection_split(_choose_data(args, recipe), args.split)
    own = _choose_run_directory(args, recipe)
    out = own if args.out is None else Path(args.out)
    if out is not None:
        from resnext.detect.evaluate.tables import FILES, FORMAT
        from resnext.files import check_output_directory

        check_output_directory(out, FILES, FORMAT)
    evaluation: DetectionEvaluation | None
    with init_distributed(args.device) as world:
        if args.detections is not None:
            evaluation, about = _evaluate_file(args, dataset)
        else:
            evaluation, about = _evaluate_model(args, dataset, recipe, world)
        if evaluation is None:
            return 0
    other = ""
    if own is not None and args.out is None and recipe is not None:
        other = _explain_other_protocol(own.parent, recipe, about)
        out = None if other else own
    if out is not None:
        _write_results(evaluation, dataset, out, about)
    _print_evaluation(evaluation)
    print(f"{other}give --out DIR to keep tables and plots" if out is None else f"tables and plots  {out}")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that are invalid or would have no effect."""
    from resnext.detect.evaluate.coco_eval import MIN_MAX_DETECTIONS

    if args.max_detections is not None and args.max_detections < MIN_MAX_DETECTIONS:
        raise RequestError(f"--max-detections {args.max_detections} must be at least {MIN_MAX_DETECTIONS}")
    if args.detections is None:
        check_checkpoint_choice(args.checkpoint, [args.weights])
        return
    usual = {"checkpoint": "best", "device": "auto", "precision": None, "bn_eps": None, "score": None, "workers": None}
    for name, value in usual.items():
        if getattr(args, name) != value:
            option = name.replace("_", "-")
            raise RequestError(f"--{option} is for running a detector and has no effect on --detections")


def _choose_run_directory(args: argparse.Namespace, recipe: DetectRecipe | None) -> Path | None:
    """Return RUN/evaluation if the run's best checkpoint is evaluated on its own held-out images; otherwise None."""
    elsewhere = any(value is not None for value in (args.data, args.source, args.annotations, args.images))
    if recipe is None or elsewhere or args.split != "val" or args.checkpoint != "best":
        return None
    return RunDirectory(Path(args.weights)).evaluation


def _explain_other_protocol(run: Path, recipe: DetectRecipe, about: dict[str, Any]) -> str:
    """Explain how the protocol ``about`` differs from that of the run's own evaluation; empty if it does not."""
    from resnext.detect.evaluate.coco_eval import MAX_DETECTIONS
    from resnext.detect.evaluate.tables import FORMAT
    from resnext.evaluate.output.protocol import compare_protocols, read_run_protocol

    limits = {key: getattr(recipe.detector, key) for key in ("score", "nms", "detections")}
    most = max(MAX_DETECTIONS, recipe.detector.detections)
    usual = read_run_protocol(RunDirectory(run), FORMAT) or {
        "precision": recipe.train.precision,
        "bn_eps": None,
        "max_detections": most,
        **limits,
    }
    words = [f"{key} is {this}, not {own}" for key, (own, this) in compare_protocols(usual, about).items()]
    return f"RUN/evaluation is kept, as this protocol differs from it ({', '.join(words)}): " if words else ""


def _write_results(
    evaluation: "DetectionEvaluation", dataset: "DetectionDataset", out: Path, about: dict[str, Any]
) -> None:
    """Write tables and plots; for a run's own evaluation also its report, which shows the same numbers."""
    from resnext.detect.evaluate.report import write_detection_report
    from resnext.detect.evaluate.tables import write_detection_evaluation

    metrics = write_detection_evaluation(evaluation, dataset, out, about)
    if is_run(out.absolute().parent) and RunDirectory(out.absolute().parent).evaluation == out.absolute():
        write_detection_report(out.absolute().parent, evaluation, dataset, metrics)


def _evaluate_file(
    args: argparse.Namespace, dataset: "DetectionDataset"
) -> tuple["DetectionEvaluation", dict[str, Any]]:
    from resnext.detect.evaluate.coco_eval import MAX_DETECTIONS, describe_images_over_limit, evaluate_detections
    from resnext.detect.evaluate.coco_results import read_coco_results
    from resnext.detect.evaluate.protocol import describe_detection_protocol

    changed = dict(dataset.counts)
    most = args.max_detections or MAX_DETECTIONS
    evaluation = evaluate_detections(dataset, read_coco_results(Path(args.detections), dataset, changed), most)
    _warn(describe_images_over_limit(dataset, most, None, MAX_DETECTIONS_HINT))
    about = describe_detection_protocol(
        None,
        None,
        data=dataset.name,
        split=_describe_split(args, dataset),
        changed=changed,
        weights=str(args.detections),
        max_detections=most,
        images_over_limit=evaluation.images_over_limit,
    )
    return evaluation, about


def _evaluate_model(
    args: argparse.Namespace, dataset: "DetectionDataset", recipe: DetectRecipe | None, world: Any
) -> tuple["DetectionEvaluation | None", dict[str, Any]]:
    from resnext.data.loader import default_file_workers
    from resnext.detect.evaluate.class_matching import match_classes
    from resnext.detect.evaluate.coco_eval import describe_images_over_limit
    from resnext.detect.evaluate.inference import evaluate_detector, resolve_max_detections
    from resnext.detect.evaluate.protocol import OWN_SPLIT, describe_detection_protocol
    from resnext.detect.train.task import merge_classes
    from resnext.progress_bar import show_image_progress
    from resnext.train.setup import configure_process

    configure_process(DetectTrainSettings() if recipe is None else recipe.train, world)
    model = _load_detector(args).to(world.device)
    dataset = replace(dataset, exif=model.preprocessing.exif)
    dataset = merge_classes(dataset) if model.stage == "rpn" else dataset
    most = args.max_detections or resolve_max_detections(model)
    if model.settings.detections < (args.max_detections or 0):
        model.set_max_detections(args.max_detections)
    note = match_classes(model, dataset).note
    if world.leads:
        _warn(note and f"{dataset.name}: {note}")
        _warn(describe_images_over_limit(dataset, most, model.settings.detections, MAX_DETECTIONS_HINT))
    run = None if recipe is None else RunDirectory(Path(args.weights))
    precision = args.precision or (recipe.train.precision if recipe is not None else "fp32")
    workers = default_file_workers() if args.workers is None else args.workers
    with show_image_progress(len(dataset) // world.size) as progress:
        evaluation = evaluate_detector(
            model, dataset, world, most, precision=precision, workers=workers, progress=progress
        )
    about = describe_detection_protocol(
        model.preprocessing,
        model.settings,
        data=dataset.name,
        split=_describe_split(args, dataset)
        if _choose_run_directory(args, recipe) is None
        else dataset.split_rule or OWN_SPLIT,
        changed=dataset.counts,
        device=str(world.device),
        precision=precision,
        bn_eps=args.bn_eps,
        weights=str(args.weights) if run is None else run.weights(args.checkpoint).name,
        checkpoint=args.checkpoint if run is not None else None,
        step=None if run is None else read_step(run.state(args.checkpoint)),
        classes=note,
        max_detections=most,
        images_over_limit=0 if evaluation is None else evaluation.images_over_limit,
    )
    return evaluation, about


def _describe_split(args: argparse.Namespace, dataset: "DetectionDataset") -> str:
    return f"{args.split}: {dataset.split_rule}" if dataset.split_rule else str(args.split)


def _warn(sentence: str) -> None:
    """Print a warning on standard error, unless it is empty."""
    if sentence:
        print(f"resnext: {sentence}", file=sys.stderr)


def _run_predict(args: argparse.Namespace) -> int:
    from resnext.detect.coco_predictions import mark_wrong_sizes, read_annotation_ids, use_names_as_ids
    from resnext.detect.predict import draw_predictions, make_drawing_paths, predict
    from resnext.device import pick_device
    from resnext.evaluate.predict import find_images
    from resnext.progress_bar import show_image_progress

    for option, file in (("--json", args.json), ("--images-json", args.images_json)):
        if file == args.json == args.images_json == "-":
            raise RequestError("--json and --images-json cannot both be printed; give one of them a FILE")
        if file not in (None, "-"):
            check_file(Path(file), option)
    if args.out is not None:
        check_folder(Path(args.out), "--out")
    check_checkpoint_choice(args.checkpoint, [args.weights])
    recipe = _read_run_recipe(args)
    device = pick_device(args.device)
    model = _load_detector(args).to(device)
    precision = args.precision or (recipe.train.precision if recipe is not None else "fp32")
    paths, problems = find_images(args.images)
    places = make_drawing_paths(Path(args.out), paths) if args.out is not None else []
    if args.annotations is None:
        ids = use_names_as_ids(paths, model)
    else:
        ids = read_annotation_ids(Path(args.annotations), paths, model)
    with show_image_progress(len(paths)) as progress:
        found = predict(model, paths, device, precision=precision, batch_size=args.batch_size, progress=progress)
    found = mark_wrong_sizes(found, ids)
    if places:
        print(f"{draw_predictions(found, places, model.classes)} drawn into {args.out}", file=sys.stderr)
    _write_detections(args, found, ids)
    if "-" not in (args.json, args.images_json):
        _print_detections(found, model.classes)
    failed = [one for one in found if one.error is not None]
    for path, error in [*((one.path, one.error) for one in failed), *((p.path, p.error) for p in problems)]:
        print(f"resnext: {escape_unprintable(str(path))}: {error}", file=sys.stderr)
    return 1 if failed or problems else 0


def _write_detections(args: argparse.Namespace, found: "list[DetectPrediction]", ids: "ResultIds") -> None:
    """Write ``--json`` and ``--images-json``; print a note if names are used as ids."""
    from resnext.detect.coco_predictions import to_coco_results, to_image_table
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


def _load_detector(args: argparse.Namespace) -> "FasterRcnn":
    """Load the detector and apply --bn-eps and --score."""
    from resnext.detect.model.fuse import prepare_for_inference
    from resnext.detect.weights import load_detector

    model = prepare_for_inference(load_detector(args.weights, args.checkpoint, bn_eps=args.bn_eps))
    for note in model.provenance.get("notes", []):
        print(escape_unprintable(f"resnext: {args.weights}: {note}"), file=sys.stderr)
    if args.score is not None:
        if not 0 <= args.score <= 1:
            raise RequestError(f"--score {args.score:g} must be from 0 to 1")
        model.set_score_threshold(args.score)
    return model


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


def _choose_data(args: argparse.Namespace, recipe: DetectRecipe | None) -> DetectDataSettings:
    """Choose the labelled images: the run's own data, or all of the data given by the options."""
    if recipe is None and args.data is None:
        raise RequestError("name the images: --data PATH, a folder of images with their annotations")
    from resnext.detect.data.annotated_split import has_annotations

    data = DetectDataSettings() if recipe is None else recipe.data
    if args.data is not None:  # use all of it: the recipe's limits and absolute paths are for the run's own data
        names = ("train", "val", "train_images", "val_images")
        elsewhere: dict[str, Any] = {
            name: None for name in names if Path(getattr(data, name) or "").expanduser().is_absolute()
        }
        data = replace(data, path=args.data, max_train_images=None, max_val_images=None, **elsewhere)
    if args.source is not None:
        data = replace(data, source=args.source)
    if args.annotations is not None or (args.data is not None and has_annotations(data, "val")):
        data = replace(data, val_fraction=None)  # the annotations already define the split
    images = "train_images" if data.val_fraction is not None else f"{args.split}_images"
    said = {args.split: args.annotations, images: args.images}
    return replace(data, **{key: value for key, value in said.items() if value is not None})


def _print_evaluation(evaluation: "DetectionEvaluation") -> None:
    """Print COCO's twelve metrics and one row per class."""
    from rich.table import Table
    from rich.text import Text

    from resnext.screen import make_screen
    from resnext.text import format_share

    console = make_screen()
    e = evaluation
    console.print(
        f"AP {format_share(e.ap)}  AP50 {format_share(e.ap50)}  AP75 {format_share(e.ap75)}   small "
        f"{format_share(e.ap_small)}  medium "
        f"{format_share(e.ap_medium)}  large {format_share(e.ap_large)}\nAR of 1, 10, {e.max_detections} "
        "detections "
        f"{format_share(e.ar1)}, {format_share(e.ar10)}, {format_share(e.ar100)}   small "
        f"{format_share(e.ar_small)}  medium "
        f"{format_share(e.ar_medium)}  large {format_share(e.ar_large)}\n"
        f"{e.n:,} images of {e.name}, {e.boxes:,} boxes, {e.detections.n:,} detections",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("class", "images", "boxes", "AP", "AP50", "AP75", "AR"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for one in e.per_class:
        numbers = map(format_share, (one.ap, one.ap50, one.ap75, one.ar100))
        table.add_row(Text(escape_unprintable(one.name)), f"{one.images:,}", f"{one.boxes:,}", *numbers)
    console.print(table)


def _print_detections(found: list[Any], classes: tuple[str, ...]) -> None:
    """Print one line per image: the number of objects of each class."""
    from resnext.detect.predict import summarize_prediction
    from resnext.screen import make_screen

    for one in found:
        if one.error is None:
            make_screen().print(summarize_prediction(one, classes), highlight=False, markup=False, soft_wrap=True)
