"""``resnext data ACTION PATH``: check a data set before training, or write it as shards."""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.commands import data_boxes
from resnext.errors import RequestError
from resnext.sources import BOX_FORMATS, SOURCES, import_function, list_sources

if TYPE_CHECKING:
    from resnext.settings import DataSettings

SUMMARY = "Check a data set before training on it, or write it as shards."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions check, shard and minival."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="find files and folders that would break or harm training",
        description="Reads every image of PATH as training would and writes the findings into a CSV file; PATH is not "
        "changed. Exit status 1 when training would fail, 2 when PATH cannot be used.",
    )
    _add_data_arguments(check, (*list_sources(has_image_files=True), *BOX_FORMATS))
    check.add_argument(
        "--csv", default="data-check.csv", metavar="FILE", help="where the findings go (default: %(default)s)"
    )
    check.add_argument(
        "--html", metavar="FILE", help="also write a page: classes, sizes, pictures of each class, what to do"
    )
    check.add_argument("--channels", type=int, choices=(1, 3), default=3, help="read as RGB (3) or grey (1)")
    check.add_argument(
        "--no-exif", dest="exif", action="store_false", help="do not rotate images by their EXIF orientation"
    )
    check.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")
    check.add_argument("--md5", action="store_true", help="compare ImageNet's archives with the official checksums")
    data_boxes.add_check_arguments(check)
    shard = actions.add_parser(
        "shard",
        help="write the images as WebDataset shards",
        description="Copies the image files of PATH unchanged into OUT/train-000000.tar ... and OUT/val-000000.tar ... "
        "with the class names and a list of the source of each image. OUT must not exist; it is created only when all "
        "is written.",
    )
    _add_data_arguments(shard, list_sources(has_image_files=True))
    shard.add_argument("out", metavar="OUT", help="the folder to create")
    shard.add_argument(
        "--images-per-shard", type=int, default=5000, metavar="N", help="images in each shard (default: %(default)s)"
    )
    shard.add_argument("--seed", type=int, default=0, help="seed of the order in which images are written")
    data_boxes.add_minival_action(actions)


def _add_data_arguments(parser: argparse.ArgumentParser, kinds: tuple[str, ...]) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        help="folder with train/ and val/, or with one folder per class; or ImageNet's archives, shards or Parquet"
        + ("; or images with boxes in COCO or Pascal VOC format" if set(BOX_FORMATS) <= set(kinds) else ""),
    )
    parser.add_argument("--source", choices=kinds, help="type of the data at PATH (default: detected)")
    parser.add_argument("--val-path", metavar="PATH", help="held-out images, if not inside PATH")
    parser.add_argument("--classes", metavar="FILE", help="class names for shards, one per line, or imagenet")
    parser.add_argument("--extra-classes", type=int, default=4000, metavar="N", help="additional classes of imagenet5k")
    parser.add_argument(
        "--val-fraction", type=float, metavar="SHARE", help="share of the images that training will hold out"
    )
    parser.add_argument("--split-seed", type=int, default=0, metavar="SEED", help="seed of that split")
    parser.add_argument(
        "--group",
        metavar="PATTERN",
        help="keep groups of images on one side of that split: as data.group, also a CSV file",
    )


def run(args: argparse.Namespace) -> int:
    """Run the action; return 0, or 1 if training would fail."""
    share = getattr(args, "val_fraction", None)
    if share is not None and not 0.001 <= share <= 0.9:
        raise RequestError(f"--val-fraction {share:g} must be from 0.001 to 0.9")
    return {"check": _run_check, "shard": _run_shard, "minival": data_boxes.run_minival}[args.action](args)


def _run_check(args: argparse.Namespace) -> int:
    from resnext.data.tools.check_page import write_check_page
    from resnext.data.tools.check_source import find_wrong_archives
    from resnext.data.tools.findings import pluralize, sort_findings

    if args.workers is not None and args.workers < 1:
        raise RequestError(f"--workers {args.workers} must be at least 1")
    csv, page = Path(args.csv), None if args.html is None else Path(args.html)
    _check_output_path(csv, "--csv", Path(args.path).expanduser())
    if page is not None:
        _check_output_path(page, "--html", Path(args.path).expanduser())
    progress = sys.stderr.isatty()
    if source := data_boxes.choose_box_source(args):
        report = data_boxes.check_boxes(args, source, progress)
    else:
        settings = _build_settings(args)
        report = import_function(SOURCES[settings.source].check)(settings, args.workers, progress)
        if args.md5:
            report = replace(report, findings=sort_findings((*report.findings, *find_wrong_archives(settings))))
    report.write_csv(csv)
    for line in report.summary_lines(*_choose_bar()):
        print(line)
    if page is not None:
        write_check_page(page, report)
        print(f"page with pictures of each class: {page}")
    print(f"{pluralize(len(report.findings), 'finding')} in {csv}")
    return 1 if report.has_errors else 0


def _choose_bar() -> tuple[int, str]:
    """Choose the length of the longest bar of a class, and what it is made of: none in a file or a pipe."""
    if not sys.stdout.isatty():
        return 0, ""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    return max(10, min(40, shutil.get_terminal_size().columns // 3)), "█" if is_unicode else "#"


def _run_shard(args: argparse.Namespace) -> int:
    from resnext.data.tools.findings import pluralize
    from resnext.data.tools.make_shards import make_shards

    if args.images_per_shard < 1:
        raise RequestError(f"--images-per-shard {args.images_per_shard} must be at least 1")
    out = Path(args.out).expanduser()
    for split, shards in make_shards(_build_settings(args), out, args.images_per_shard, args.seed).items():
        print(f"{out}/{split}-*.tar: {pluralize(shards, 'shard')}")
    return 0


def _build_settings(args: argparse.Namespace) -> "DataSettings":
    """Build the data settings from the arguments."""
    from resnext.data.tools.check_source import guess_source
    from resnext.settings import DataSettings

    source = args.source or guess_source(args.path)
    if args.group is not None and source not in list_sources(val_fraction=True):
        raise RequestError(f"--group is about the split of a folder of classes, but {args.path} is {source}")
    if args.val_fraction is not None and source not in list_sources(val_fraction=True):
        raise RequestError(f"--val-fraction splits a folder of classes, but {args.path} is {source}")
    return DataSettings(
        source=source,
        path=args.path,
        val_path=args.val_path,
        classes=args.classes,
        extra_classes=args.extra_classes,
        val_fraction=args.val_fraction,
        split_seed=args.split_seed,
        group=args.group,
        channels=getattr(args, "channels", None),
        exif=getattr(args, "exif", True),
    )


def _check_output_path(path: Path, option: str, root: Path) -> None:
    """Raise RequestError unless a file can be written, and outside of the data."""
    from resnext.files import check_file

    if path.resolve().is_relative_to(root.resolve()):
        raise RequestError(f"{path.resolve()} is inside the data; give {option} a file outside of {root}")
    check_file(path, option, (f".{option.removeprefix('--')}",))
