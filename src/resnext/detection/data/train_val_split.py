"""Split one annotation file into train and val, as labelling tools often export a single file."""

import os
from dataclasses import replace

import numpy as np

from resnext.data.dataset import choose_held_out
from resnext.detection.data.annotations import RawAnnotations
from resnext.detection.data.find_annotations import TRAIN, VAL
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError


def split_by_hash(parsed: RawAnnotations, settings: DetectDataSettings) -> dict[str, RawAnnotations]:
    """Split by ``val_fraction`` and a hash of file name and seed. Raises RequestError for fewer than two files."""
    assert settings.val_fraction is not None
    if len(set(parsed.files)) < 2:
        raise RequestError(f"{parsed.name} has one image, but data.val_fraction needs at least two")
    names = [os.fsencode(file) for file in parsed.files]
    held_out = choose_held_out(names, settings.val_fraction, settings.split_seed)
    return {TRAIN: _select_images(parsed, ~held_out, TRAIN), VAL: _select_images(parsed, held_out, VAL)}


def describe_split_rule(settings: DetectDataSettings) -> str:
    """Describe the split, for the protocol of a result."""
    return f"a hash of each file's name with split_seed {settings.split_seed} holds out about {settings.val_fraction:g}"


def _select_images(parsed: RawAnnotations, chosen: np.ndarray, split: str) -> RawAnnotations:
    """Select the images of ``chosen`` (bool [N]) with their boxes."""
    found = parsed.boxes
    rows = np.flatnonzero(chosen[found.image])
    boxes = type(found)(*(values[rows] for values in found))
    place_of = np.cumsum(chosen) - 1
    return replace(
        parsed,
        name=f"{parsed.name} {split}",
        image_ids=parsed.image_ids[chosen],
        files=tuple(parsed.files[i] for i in np.flatnonzero(chosen)),
        sizes=parsed.sizes[chosen],
        boxes=boxes._replace(image=place_of[boxes.image]),
        describe_box=lambda place: parsed.describe_box(int(rows[place])),
        counts={f"{what}, in the whole file": count for what, count in parsed.counts.items()},
    )
