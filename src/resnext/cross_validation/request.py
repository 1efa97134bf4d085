"""Decide what a cross-validation trains, in which directory, and whether it goes on with one that was begun."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from resnext.cross_validation.directory import CrossvalDirectory, FoldRun
from resnext.errors import RequestError
from resnext.planning.photos import plan_photos
from resnext.recipe import dump_recipe, make_absolute, parse_recipe, read_recipe, replace_places
from resnext.run_directory import is_run
from resnext.settings import MAX_FOLDS, Recipe
from resnext.settings_shared import DEFAULT_EPOCHS
from resnext.training.request import is_photo_folder
from resnext.training.resume import compare_with_begun

FOLDS = 5  # by default
VARIED = {
    "data.fold": "is what a cross-validation varies",
    "data.val_fraction": "has no use here: each fold is held out in turn",
    "data.max_val_images": "has no use here: every image of a fold is held out once",
    "data.on_bad_image": "cannot be skip: every image is held out once; resnext data check names those to mend",
    "train.patience": "stops by the held-out images, which would make the result look too good",
    "train.checkpoint_url": "has no use here: the folds are runs of their own",
}


@dataclass(frozen=True)
class CrossvalRequest:
    """A cross-validation to begin or to go on with."""

    directory: CrossvalDirectory
    recipe: Recipe  # of all folds
    folds: int
    what: str  # PHOTOS or RECIPE, as the user gave it
    is_planned: bool  # for PHOTOS; the plan has the cost

    @property
    def runs(self) -> list[FoldRun]:
        """The runs of all folds."""
        return [FoldRun(number, self.folds) for number in range(1, self.folds + 1)]


def resolve_crossval(
    what: Path | str | Recipe, out: Path | str | None, folds: int | None, given: Mapping[str, Any], console: Console
) -> CrossvalRequest:
    """Resolve a request for PHOTOS or a RECIPE. Prints the plan of a new cross-validation on photos.

    Args:
        what: A folder of photos, a recipe file, the name of a recipe of the package, or a recipe.
        out: The directory; ``runs/crossval-NAME`` by default. It is gone on with if it has been begun.
        folds: Number of folds; None is that of the directory, or 5.
        given: Settings that replace those of the recipe or of the plan.
        console: Where the plan is printed.

    Raises:
        RequestError: The number of folds, a setting or the directory cannot be used, or the directory was begun with
            another recipe.
        WorkError: Weights could not be downloaded.
    """
    check_folds(folds)
    for key, why in VARIED.items():
        if given.get(key) is not None:
            raise RequestError(f"--{key} {why}: leave it out")
    if not isinstance(what, Recipe) and is_run(Path(what)):
        raise RequestError(f"{what} is a run; a cross-validation takes a recipe, such as {Path(what) / 'recipe.yaml'}")
    photos = Path(what) if not isinstance(what, Recipe) and is_photo_folder(what) else None
    name = "recipe" if isinstance(what, Recipe) else (Path(os.path.abspath(what)).name if photos else Path(what).stem)
    directory = CrossvalDirectory(Path(out) if out is not None else Path("runs") / f"crossval-{name}")
    begun = directory.read_begun()
    if begun is None:
        directory.check_new()
        count = folds or FOLDS
        recipe = (
            _read_recipe(what, given) if photos is None else plan_photos(photos, given, console, folds=count).recipe
        )
        return CrossvalRequest(
            directory, make_base_recipe(recipe), count, _name_request(what, directory), photos is not None
        )
    if folds not in (None, begun.folds):
        raise RequestError(
            f"{directory.path} was begun with {begun.folds} folds, not {folds}; choose another --out for {folds} folds"
        )
    recipe = _check_same_recipe(directory, what, photos, given)
    return CrossvalRequest(directory, recipe, begun.folds, _name_request(what, directory), photos is not None)


def _read_recipe(what: Path | str | Recipe, given: Mapping[str, Any]) -> Recipe:
    if isinstance(what, Recipe):
        return parse_recipe(dump_recipe(what), "the recipe", given) if given else what
    return read_recipe(what, given)


def _name_request(what: Path | str | Recipe, directory: CrossvalDirectory) -> str:
    """Return what ``resnext train`` takes to train on all images."""
    return str(directory.recipe if isinstance(what, Recipe) else what)


def check_folds(folds: int | None) -> None:
    """Raise RequestError for a number of folds that makes no sense."""
    if folds is not None and not 2 <= folds <= MAX_FOLDS:
        raise RequestError(f"--folds {folds} must be from 2 to {MAX_FOLDS}")


def make_base_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of all folds: without a held-out share, and evaluated only at its end.

    So neither the length of training nor an epoch is chosen by the held-out images, and the last epoch is judged. An
    ``evaluate_every`` that is not the default stays.
    """
    data = replace(recipe.data, fold=None, val_fraction=None, max_val_images=None, on_bad_image="error")
    train = replace(recipe.train, patience=None, checkpoint_url=None)
    if train.evaluate_every == 1:
        train = replace(train, evaluate_every=train.steps or train.epochs or DEFAULT_EPOCHS)
    return replace_places(replace(recipe, data=data, train=train), make_absolute)


def _check_same_recipe(
    directory: CrossvalDirectory, what: Path | str | Recipe, photos: Path | None, given: Mapping[str, Any]
) -> Recipe:
    """Return the recipe to go on with. Raises RequestError if another one is asked for."""
    begun = directory.read_base_recipe()
    if photos is not None:
        path = str(photos.expanduser().absolute())
        if begun.data.source != "folder" or begun.data.path != path:
            raise RequestError(
                f"{directory.path} was begun on {begun.data.path or begun.data.source}, not on {path}; choose another "
                "--out"
            )
        asked = read_recipe(directory.recipe, given)
    else:
        asked = _read_recipe(what, given)
    asked = make_base_recipe(asked)
    if changed := compare_with_begun(begun, asked):
        raise RequestError(
            f"{directory.path} was begun with another recipe (begun -> requested): {'; '.join(changed)}; choose "
            "another --out, or leave these settings out"
        )
    return asked
