"""``resnext data`` for detection data: check images with boxes, and make COCO's trainval35k and minival lists."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnext.sources import BOX_FORMATS

if TYPE_CHECKING:
    from resnext.detection.data.check import BoxReport
    from resnext.detection.settings import SourceName

BOX_OPTIONS = ("train", "val", "train_images", "val_images", "bad_boxes")
CLASSIFICATION_OPTIONS = {"val_path": None, "classes": None, "md5": False, "channels": 3, "group": None, "html": None}


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for images with boxes."""
    of_boxes = parser.add_argument_group("options for coco and voc, as in the data section of a detection recipe")
    of_boxes.add_argument("--train", metavar="FILE", help="annotations to train on (default: the usual place)")
    of_boxes.add_argument("--val", metavar="FILE", help="held-out annotations (default: the usual place)")
    of_boxes.add_argument("--train-images", metavar="FOLDER", help="images of --train")
    of_boxes.add_argument("--val-images", metavar="FOLDER", help="images of --val")
    of_boxes.add_argument(
        "--bad-boxes", choices=("error", "drop"), help="what training will do with invalid boxes (default: error)"
    )


def add_minival_action(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action ``minival``."""
    parser = actions.add_parser(
        "minival",
        help="make COCO's lists trainval35k and minival",
        description="Writes instances_trainval35k.json and instances_minival.json, which papers before 2017 train and "
        "test on, out of instances_train2014.json, instances_val2014.json and the ids of instances_val2017.json.",
    )
    parser.add_argument("path", metavar="PATH", help="COCO's folder, with annotations/, train2014/ and val2014/")
    parser.add_argument("--out", metavar="FOLDER", help="output folder of the two files (default: PATH/annotations)")
    parser.add_argument("--outlines", action="store_true", help="keep the segmentations (90 %% of the file size)")


def choose_box_source(args: argparse.Namespace) -> "SourceName | Literal['']":
    """Choose coco or voc, as given or as PATH looks like; empty for other data."""
    from resnext.detection.data.find_annotations import guess_detection_source
    from resnext.errors import RequestError

    source = args.source if args.source in BOX_FORMATS else "" if args.source else guess_detection_source(args.path)
    given = ["--" + name.replace("_", "-") for name in BOX_OPTIONS if getattr(args, name) is not None]
    if given and not source:
        look = f"is taken as {args.source}" if args.source else "does not look like coco or voc; give --source"
        raise RequestError(f"{given[0]} is for images with boxes, but {args.path} {look}")
    for name, usual in CLASSIFICATION_OPTIONS.items():
        if source and getattr(args, name) != usual:
            raise RequestError(f"--{name.replace('_', '-')} is not for images with boxes, and {args.path} is {source}")
    return source


def check_boxes(args: argparse.Namespace, source: "SourceName", progress: bool) -> "BoxReport":
    """Check images with boxes."""
    from resnext.detection.data.check import check_detection_data
    from resnext.detection.settings import DetectDataSettings

    settings = DetectDataSettings(
        source=source,
        path=args.path,
        train=args.train,
        val=args.val,
        val_fraction=args.val_fraction,
        split_seed=args.split_seed,
        train_images=args.train_images,
        val_images=args.val_images,
        exif=args.exif,
        bad_boxes=args.bad_boxes or "error",
    )
    return check_detection_data(settings, args.workers, progress)


def run_minival(args: argparse.Namespace) -> int:
    """Write both lists; print their sizes and whether they match COCO's own lists."""
    from resnext.detection.data.minival import OFFICIAL_COUNTS, make_minival

    folder = Path(args.path).expanduser() / "annotations"
    out = Path(args.out).expanduser() if args.out else folder
    years = [folder / f"instances_{name}.json" for name in ("train2014", "val2014", "val2017")]
    for count in make_minival(years[0], years[1], years[2], out, args.outlines):
        official = "as in COCO's list" if count.is_official else f"COCO's list has {OFFICIAL_COUNTS[count.name]:,}"
        print(f"{count.name}: {count.images:,} images ({official}), {count.boxes:,} boxes")
    print(f"instances_trainval35k.json and instances_minival.json are in {out}")
    return 0
