"""``resnext data check PATH``: find what would stop or spoil training on a folder of images."""

import argparse
import sys
from pathlib import Path

SENTENCE = "Check a folder of images before training on it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="find files and folders that would stop or spoil training",
        description="Reads every image of PATH as training would and writes what it finds into a CSV; PATH itself is "
        "only read. Exit status 1 when training would fail, 2 when PATH cannot be used.",
    )
    check.add_argument("path", metavar="PATH", help="folder with train/ and val/, or with a folder for each class")
    check.add_argument(
        "--csv", default="data-check.csv", metavar="FILE", help="where the findings go (default: %(default)s)"
    )
    check.add_argument("--channels", type=int, choices=(1, 3), default=3, help="read as RGB (3) or grey (1)")
    check.add_argument("--val-fraction", type=float, metavar="SHARE", help="the share that training will hold out")
    check.add_argument("--split-seed", type=int, default=0, metavar="SEED", help="the seed of that split")
    check.add_argument("--no-exif", dest="exif", action="store_false", help="leave photographs as they are stored")
    check.add_argument("--workers", type=int, metavar="N", help="threads (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """Exit status 0, or 1 when training would fail. Raises RequestError for a path that cannot be used."""
    from resnext.data.check import check_folder
    from resnext.data.findings import count_of
    from resnext.errors import RequestError
    from resnext.settings import DataSettings

    if args.workers is not None and args.workers < 1:
        raise RequestError(f"--workers {args.workers} must be at least 1")
    if args.val_fraction is not None and not 0.001 <= args.val_fraction <= 0.9:
        raise RequestError(f"--val-fraction {args.val_fraction:g} must be from 0.001 to 0.9")
    csv = Path(args.csv)
    _check_place(csv, Path(args.path).expanduser())
    settings = DataSettings(
        source="folder",
        path=args.path,
        channels=args.channels,
        val_fraction=args.val_fraction,
        split_seed=args.split_seed,
        exif=args.exif,
    )
    report = check_folder(settings, args.workers, progress=sys.stderr.isatty())
    try:
        report.write_csv(csv)
    except OSError as error:
        raise RequestError(f"cannot write --csv {csv}: {error.strerror}") from error
    for line in report.summary():
        print(line)
    print(f"{count_of(len(report.findings), 'finding')} in {csv}")
    return 1 if report.failed else 0


def _check_place(csv: Path, root: Path) -> None:
    """Raise RequestError unless the CSV can be written, outside of the data that is only to be read."""
    from resnext.errors import RequestError

    if csv.resolve().is_relative_to(root.resolve()):
        raise RequestError(f"{csv.resolve()} would lie inside the data; give --csv a file outside of {root}")
    if csv.is_dir() or not csv.resolve().parent.is_dir():
        raise RequestError(f"--csv {csv} must be a file in a folder that exists")
