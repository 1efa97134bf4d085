"""The directory of a cross-validation: its files, and the record of what it was begun with. No torch here."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from resnext.errors import RequestError
from resnext.files import atomic_write, read_result, report_write_errors
from resnext.recipe import dump_recipe, read_recipe
from resnext.run_directory import OWNER_FILE, RunDirectory, is_run
from resnext.settings import Recipe

FORMAT = "resnext-crossval"


@dataclass(frozen=True)
class Begun:
    """What a cross-validation was begun with, besides its recipe."""

    folds: int
    images: int
    listing: str  # digest of the images' names and labels


@dataclass(frozen=True)
class FoldRun:
    """The training run of one fold."""

    number: int  # from 1
    folds: int

    @property
    def name(self) -> str:
        """The name of its run directory."""
        return f"fold-{self.number}"

    @property
    def setting(self) -> str:
        """The value of ``data.fold``."""
        return f"{self.number}/{self.folds}"


class CrossvalDirectory(RunDirectory):
    """The paths of the files; those that a training run has too have the same names, but for the recipe."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.recipe = path / "folds.yaml"  # the recipe of all folds; not recipe.yaml, which makes a directory a run
        self.begun = path / "crossval.json"
        self.predictions = path / "predictions.csv"
        self.labels_page = path / "labels-to-look-at.html"
        self.labels_table = path / "labels-to-look-at.csv"
        self.summary = path / "summary.json"

    def fold(self, run: FoldRun) -> Path:
        """Return the run directory of a fold."""
        return self.path / run.name

    def fold_outputs(self, run: FoldRun) -> Path:
        """Return the file with what a fold's network says of the images that it has not seen."""
        return self.fold(run) / "held-out.npz"

    def read_begun(self) -> Begun | None:
        """Read what the cross-validation was begun with; None before its start. Raises RequestError."""
        if not self.begun.exists():
            return None
        values = read_result(self.begun, FORMAT) or {}
        folds, images, listing = (values.get(key) for key in ("folds", "images", "listing"))
        if isinstance(folds, int) and isinstance(images, int) and isinstance(listing, str) and self.recipe.is_file():
            return Begun(folds, images, listing)
        raise RequestError(f"{self.begun} is damaged; choose another --out, or remove {self.path}")

    def read_base_recipe(self) -> Recipe:
        """Read the recipe of all folds. Raises RequestError."""
        return read_recipe(self.recipe)

    def begin(self, recipe: Recipe, begun: Begun) -> None:
        """Write recipe and record of a new cross-validation, the record last. Raises WorkError."""
        with report_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.recipe, "w") as file:
            file.write(dump_recipe(recipe))
        with atomic_write(self.begun, "w") as file:
            json.dump({"format": FORMAT, "version": 1, **asdict(begun)}, file, indent=1)

    def check_new(self) -> None:
        """Raise RequestError if the directory holds anything but the rest of a start that was killed."""
        try:
            names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise RequestError(f"{self.path} cannot be used: {error.strerror or error}") from None
        rest = {name for name in names if not name.endswith(".part") and name not in (self.recipe.name, OWNER_FILE)}
        if rest:
            what = "is a run" if is_run(self.path) else "is not empty"
            raise RequestError(f"{self.path} {what}; choose another --out for the cross-validation")
