"""Map the labels of a data set to the outputs of a network.

Classes are matched by name: the data may have them in another order, or only some of them. ImageNet classes are matched
by synset, whether the network names them by word or synset, 1,000 or 5,000 of them. Predictions may also be restricted
to some of the outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.dataset import Dataset
from resnext.data.imagenet_classes import (
    RelabelledDataset,
    imagenet_classes,
    imagenet_synsets,
    resolve_output_synsets,
    synsets_from_numbers,
)
from resnext.errors import RequestError, did_you_mean

IMAGENET1K, DATA = "imagenet1k", "data"
MAX_LIST_BYTES = 16 << 20  # bytes


@dataclass(frozen=True, eq=False)
class LabelMapping:
    """A data set with mapped labels; ``output_indices`` (int64) are the outputs they refer to, None for all."""

    dataset: Dataset
    output_indices: np.ndarray | None = None


def map_labels(
    dataset: Dataset, classes: Sequence[str] | None, count: int, restrict: str | None = None
) -> LabelMapping:
    """Map the labels of ``dataset`` to a network of ``count`` outputs with the names ``classes``, if it has any.

    ``restrict`` is imagenet1k, data (the classes that the data has) or a file of class names, one per line; the softmax
    is then over these classes only. Data whose classes cannot be matched is returned unchanged. Raises RequestError for
    names that the network or the restriction lacks.
    """
    synsets = resolve_output_synsets(classes, count)
    by_number = synsets_from_numbers(dataset.classes) if synsets else None
    found = tuple(by_number or dataset.classes)
    names = tuple(classes) if classes is not None else imagenet_classes() if synsets else None
    outputs = None
    if restrict is not None:
        if names is None:
            raise RequestError("the weights have no class names, so --restrict cannot select any")
        outputs = find_output_indices(
            read_restriction(restrict, list_present_classes(dataset, found)), names, synsets or names
        )
    if names is None:
        return LabelMapping(dataset)
    kept = range(len(names)) if outputs is None else outputs
    by_synset = synsets is not None and set(found) <= set(synsets)
    by_name = len(set(names)) == len(names) and set(list_present_classes(dataset, found)) <= set(names)
    if not by_synset and not by_name and outputs is None:
        return LabelMapping(dataset)  # check_compatible compares its classes with the network's
    keys = [synsets[i] if synsets and by_synset else names[i] for i in kept]
    answers = tuple(names[i] for i in kept)
    if dataset.classes == answers:
        return LabelMapping(dataset, outputs)
    places = {key: place for place, key in enumerate(keys)}
    unasked = [name for name in list_present_classes(dataset, found) if name not in places]
    if unasked:
        raise RequestError(
            f"{dataset.name} has classes that --restrict {restrict} excludes: {quote_names(unasked)}; "
            "their images could not be predicted correctly"
        )
    labels = np.array([places.get(name, -1) for name in found], dtype=np.int64)  # -1: class without images
    return LabelMapping(RelabelledDataset(dataset, answers, labels), outputs)


def list_present_classes(dataset: Dataset, names: Sequence[str]) -> list[str]:
    """List those ``names`` of the data's classes that have images: ImageNet-5K is evaluated on 1,000 of its 5,000."""
    return [names[label] for label in np.unique(dataset.labels)]


def find_output_indices(allowed: Sequence[str], names: Sequence[str], synsets: Sequence[str]) -> np.ndarray:
    """Find the outputs named by ``allowed``, by word or synset: int64, in the network's order."""
    places = dict(zip(names, range(len(names)), strict=True)) | dict(zip(synsets, range(len(synsets)), strict=True))
    missing = [name for name in allowed if name not in places]
    if missing:
        hint = did_you_mean(missing[0], names) if len(missing) == 1 else ""
        raise RequestError(f"the network has no class {quote_names(missing)}, so --restrict cannot select it{hint}")
    for name in allowed:
        if name not in synsets and names.count(name) > 1:  # in some lists "crane" is a bird and a machine
            raise RequestError(f"{name!r} is the name of {names.count(name)} classes; restrict by synset instead")
    outputs = sorted({places[name] for name in allowed})
    if len(outputs) < len(allowed):
        raise RequestError("a class is named twice in the restriction, by the same name or by word and synset")
    return np.array(outputs, dtype=np.int64)


def read_restriction(restrict: str, found: Sequence[str]) -> Sequence[str]:
    """Read the class names that ``restrict`` stands for; ``found`` are those of the data."""
    if restrict == IMAGENET1K:
        return imagenet_synsets()
    if restrict == DATA:
        return found
    path = Path(restrict)
    try:
        if not path.is_file() or path.stat().st_size > MAX_LIST_BYTES:
            raise RequestError(
                f"--restrict {restrict} is not a list of class names; "
                f"give {IMAGENET1K}, {DATA} or a file with one name per line"
            )
        names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--restrict {restrict} cannot be read: {error}") from None
    if len(names) < 2:
        raise RequestError(f"--restrict {restrict} has {len(names)} class names; at least two are needed")
    return names
