"""The recipes as files with headers, as they lie in recipes/: what each costs is counted here."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from resnext.errors import RequestError
from resnext.files import atomic_write, check_folder, report_write_errors
from resnext.model.complexity import Complexity, complexity
from resnext.paper.recipe_entry import DetectorRecipe, PaperRecipe, WrittenRecipe, yaml_of
from resnext.paper.recipes import detections, recipes

WIDTH = 120
FORWARD_AND_BACKWARD = 3  # a training step's multiply-adds over a forward pass's
MADE_BY = "Written by tools/write_recipes.py from src/resnext/paper/recipes.py; change it there."

# Section 5.1: seconds of a mini-batch of 256 on 8 M40, over the multiply-adds of its forward pass.
M40_RATES = {
    "plain": 8 * 0.70 / (256 * 7.801e9),
    "grouped": 8 * 0.95 / (256 * 7.970e9),
    "resnext101_64x4d": 8 * 1.7 / (256 * 15.46e9),
}


def cost_of(entry: PaperRecipe) -> Complexity:
    """The cost of the recipe's network for one training image of its size."""
    recipe = entry.recipe()
    side = recipe.augment.size or recipe.data.image_size
    return complexity(recipe.model.architecture(entry.classes, 3), side)


def images_seen(entry: PaperRecipe) -> int:
    """How many training images the whole run computes."""
    train, augment = entry.recipe().train, entry.recipe().augment
    if train.steps is not None:
        return train.steps * train.batch_size
    return (train.epochs or 0) * (entry.images // augment.repeated_augmentation) * augment.repeated_augmentation


def m40_hours(entry: PaperRecipe) -> float:
    """GPU-hours on the paper's M40, from its own timing of the nearest network, by multiply-adds."""
    a = entry.recipe().model.architecture(entry.classes, 3)
    kind = a.name if a.name in M40_RATES else "grouped" if a.cardinality > 1 else "plain"
    return images_seen(entry) * cost_of(entry).macs * M40_RATES[kind] / 3600


def text_of(entry: WrittenRecipe) -> str:
    """The whole file: header and settings."""
    return "\n".join([*_header(entry), yaml_of(entry.values)])


def write_recipes(folder: Path) -> list[Path]:
    """Every recipe as ``folder/paper/NAME.yaml`` or ``folder/modern/NAME.yaml``.

    Raises RequestError where nothing can be written there, or a file of such a name was not written by this function.
    """
    check_folder(folder)
    written = []
    for entry in [*recipes().values(), *detections().values()]:
        path = folder / entry.folder / f"{entry.name}.yaml"
        with report_write_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and MADE_BY not in path.read_text(encoding="utf-8", errors="replace"):
            raise RequestError(f"{path} is another file of that name; give another folder, or move it away")
        with atomic_write(path, "w") as file:
            file.write(text_of(entry))
        written.append(path)
    return written


def cost_line(entry: WrittenRecipe) -> str:
    """MACs and parameters in a sentence; of classification GPU-hours of the whole run too."""
    if isinstance(entry, DetectorRecipe):
        from resnext.planning.detector_cost import describe_detector_cost

        return describe_detector_cost(entry.recipe(), entry.classes)
    assert isinstance(entry, PaperRecipe)
    cost = cost_of(entry)
    size = entry.recipe().augment.size or entry.recipe().data.image_size or 32
    training = FORWARD_AND_BACKWARD * images_seen(entry) * cost.macs
    return (
        f"{cost.macs / 1e9:.2f} GMACs an image at {size} pixels (1 MAC = 2 FLOPs), "
        f"{cost.parameters_without_bn / 1e6:.1f} M parameters without BN; "
        f"{_big(training)}MACs for the {_length(entry)} (forward x {FORWARD_AND_BACKWARD}); "
        f"about {_round(m40_hours(entry)):,} GPU-hours on the paper's M40 (its timing, scaled by MACs)."
    )


def _header(entry: WrittenRecipe) -> Iterator[str]:
    yield from textwrap.wrap(f"{entry.title}.", WIDTH, initial_indent="# ", subsequent_indent="# ")
    yield from _said("Source:", entry.source)
    yield from _said("Expected:", f"{entry.expected} Not measured by us yet.")
    yield from _said("Cost:", cost_line(entry))
    for note in entry.notes:
        yield from _said("Note:", note)
    yield f"# {MADE_BY}"


def _said(word: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"# {word:<11}", subsequent_indent=f"# {'':<11}")


def _length(entry: PaperRecipe) -> str:
    train = entry.recipe().train
    return f"{train.steps:,} steps" if train.steps is not None else f"{train.epochs} epochs"


def _big(count: float) -> str:
    """``242.6 P``: a count with its prefix."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.3g} "


def _round(hours: float) -> int:
    """Two digits: more would claim what a scaled timing cannot know."""
    digits = max(0, len(str(round(hours))) - 2)
    return round(hours / 10**digits) * 10**digits
