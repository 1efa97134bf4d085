"""The data sets of a test of robustness: ImageNet-C's folders, or corruptions made here of any labelled images."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from resnext.data.folder import scan
from resnext.data.source import Dataset
from resnext.errors import RequestError
from resnext.evaluate.choose import Networks, choose_data
from resnext.evaluate.corruptions import Corrupted, library
from resnext.evaluate.robustness import CORRUPTIONS, find_corruptions
from resnext.settings import DataSettings

SEVERITY = 3  # of the five, when none is asked for


@dataclass(frozen=True, eq=False)
class Suite:
    """Data sets by (corruption, severity), what they are called together, and where they come from."""

    name: str
    split: str
    made: str | None  # for the protocol: how the corruptions came about, where not as downloaded
    datasets: Mapping[tuple[str, int], Callable[[], Dataset]]  # opened one by one: ImageNet-C has 3,750,000 files


def of_folder(args: argparse.Namespace, networks: Networks) -> Suite:
    """ImageNet-C as downloaded. Raises RequestError for any other folder."""
    root = Path(args.corruptions)
    p = networks.preprocessing
    settings = DataSettings(source="folder", channels=p.channels, exif=p.exif)
    name = root.resolve().name

    def opened(corruption: str, severity: int, folder: Path) -> Dataset:
        return replace(scan(folder, "", settings), name=f"{name} {corruption} {severity}")

    folders = find_corruptions(root)
    datasets = {key: partial(opened, *key, folder) for key, folder in folders.items()}
    return Suite(name, f"every image of {name}", None, datasets)


def made_here(args: argparse.Namespace, networks: Networks) -> Suite:
    """The images the user means, each corrupted after its crop. Raises RequestError for what cannot be had."""
    p = networks.preprocessing
    if any(other != p for other in networks.preprocessings):
        raise RequestError("--corrupt needs networks with the same preprocessing: all are shown the same pictures")
    names = list(CORRUPTIONS) if args.corrupt == "all" else args.corrupt.split(",")
    if len(set(names)) < len(names):
        raise RequestError(f"--corrupt {args.corrupt} names a corruption twice")
    severities = args.severity or [SEVERITY]
    library()
    judged = choose_data(args, networks)
    keys = [(name, severity) for name in names for severity in severities]
    for key in keys:
        Corrupted(judged.dataset, p, *key)  # what cannot be had is said before the work
    listed = "all corruptions" if args.corrupt == "all" else ", ".join(names)
    about = f"{listed} at severity {', '.join(map(str, severities))}"
    return Suite(
        f"{judged.dataset.name}, {about}",
        judged.split,
        "corrupted after the crop by imagecorruptions, seed 0",
        {key: partial(Corrupted, judged.dataset, p, *key) for key in keys},
    )
