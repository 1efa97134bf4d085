"""The data sets of a robustness test: ImageNet-C's folders, or labelled images corrupted on the fly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from resnext.data.dataset import Dataset
from resnext.data.sources.image_folder import scan_class_folders
from resnext.errors import RequestError
from resnext.evaluation.options import EvalOptions
from resnext.evaluation.setup import EvalNetworks, choose_data
from resnext.evaluation.suites.corruptions import CorruptedDataset, load_library
from resnext.evaluation.suites.imagenet_c import CORRUPTIONS, find_corruptions
from resnext.settings import DataSettings

DEFAULT_SEVERITY = 3  # of 1 to 5


@dataclass(frozen=True, eq=False)
class CorruptionSuite:
    """Data sets by (corruption, severity), with a common name and how the images were selected."""

    name: str
    split: str
    method: str | None  # for the protocol: how images were corrupted; None for ImageNet-C as downloaded
    datasets: Mapping[tuple[str, int], Callable[[], Dataset]]  # opened one at a time: ImageNet-C has 3,750,000 files


def open_imagenet_c(root: Path, networks: EvalNetworks) -> CorruptionSuite:
    """Open the folder of ImageNet-C as downloaded. Raises RequestError for any other folder."""
    p = networks.preprocessing
    settings = DataSettings(source="folder", channels=p.channels, exif=p.exif)
    name = root.resolve().name

    def open_dataset(corruption: str, severity: int, folder: Path) -> Dataset:
        return replace(scan_class_folders(folder, "", settings), name=f"{name} {corruption} {severity}")

    folders = find_corruptions(root)
    datasets = {key: partial(open_dataset, *key, folder) for key, folder in folders.items()}
    return CorruptionSuite(name, f"every image of {name}", None, datasets)


def create_corruption_suite(
    networks: EvalNetworks, options: EvalOptions, data: str | None, corrupt: str, severities: Sequence[int] | None
) -> CorruptionSuite:
    """Corrupt the images of the chosen data set, each after its crop. Raises RequestError for invalid options.

    ``corrupt`` has names of corruptions separated by commas, or is ``all``; ``severities`` None is DEFAULT_SEVERITY.
    """
    p = networks.preprocessing
    if any(other != p for other in networks.preprocessings):
        raise RequestError("--corrupt needs networks with the same preprocessing, as all get the same corrupted images")
    names = list(CORRUPTIONS) if corrupt == "all" else corrupt.split(",")
    if len(set(names)) < len(names):
        raise RequestError(f"--corrupt {corrupt} names a corruption twice")
    severities = severities or [DEFAULT_SEVERITY]
    load_library()
    chosen = choose_data(networks, options, data)
    keys = [(name, severity) for name in names for severity in severities]
    for key in keys:
        CorruptedDataset(chosen.dataset, p, *key)  # report invalid options before the work starts
    listed = "all corruptions" if corrupt == "all" else ", ".join(names)
    name = f"{chosen.dataset.name}, {listed} at severity {', '.join(map(str, severities))}"
    datasets = {key: partial(CorruptedDataset, chosen.dataset, p, *key) for key in keys}
    return CorruptionSuite(name, chosen.split, "corrupted after the crop by imagecorruptions, seed 0", datasets)
