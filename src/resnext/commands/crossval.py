"""``resnext crossval``: k-fold cross-validation of a recipe or on a folder of photos, and labels that look wrong."""

import argparse

from resnext.commands.train import add_setting_options, collect_settings

SUMMARY = "Cross-validate on a folder of photos or by a recipe, and find labels that look wrong."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add PHOTOS or RECIPE, --folds, --out, --jobs, --dry-run, and one option for every setting."""
    parser.usage = f"{parser.prog} PHOTOS | RECIPE [--folds K] [--out DIR] [--jobs N] [--SECTION.FIELD VALUE ...]"
    parser.add_argument(
        "recipe", metavar="PHOTOS | RECIPE",
        help="a folder with a folder of pictures for each class, or a recipe: a YAML file or a name that resnext "
        "recipes lists, whose training images are used",
    )  # fmt: skip
    parser.add_argument("--folds", type=int, metavar="K", help="parts, each of which is held out once [5]")
    parser.add_argument(
        "--out", metavar="DIR", help="directory; the same command goes on with what it has [runs/crossval-NAME]"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="folds trained side by side [1]")
    parser.add_argument("--dry-run", action="store_true", help="print plan, cost and folds; train and write nothing")
    add_setting_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train what is not finished, then write and print the results; exit status 0."""
    from resnext.cross_validation.cross_validate import cross_validate
    from resnext.screen import make_screen

    cross_validate(
        args.recipe,
        args.out,
        args.folds,
        collect_settings(args),
        jobs=args.jobs,
        console=make_screen(),
        dry_run=args.dry_run,
    )
    return 0
