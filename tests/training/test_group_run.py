"""A run with ``data.group`` keeps its split: evaluation sees it whatever comes into the folder, resuming checks it."""

import csv
import json
import shutil
from pathlib import Path

import pytest

import resnext
from resnext.cli import main
from resnext.errors import RequestError
from resnext.run_directory import read_run_recipe
from tests.data.sources.test_group_split import make_patients
from tests.data.sources.test_image_folder import write_image

RECIPE = """
model: {name: resnext11_2x4d, base_channels: 4}
data: {source: folder, path: photos, val_fraction: 0.25, group: groups.csv, image_size: 32, workers: 0}
train: {epochs: 1, batch_size: 8, channels_last: "no", fast: "no"}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos``, ``run``, a finished run on them, and ``elsewhere.csv``, the moved file of groups."""
    root = tmp_path_factory.mktemp("groups")
    make_patients(root / "photos")
    rows = [f"{path.relative_to(root / 'photos')},{path.name[:9]}\n" for path in (root / "photos").rglob("*.png")]
    (root / "groups.csv").write_text("".join(["file,group\n", *rows]))
    recipe = RECIPE.replace("photos", str(root / "photos")).replace("groups.csv", str(root / "groups.csv"))
    (root / "recipe.yaml").write_text(recipe)
    assert main(["train", str(root / "recipe.yaml"), "--run", str(root / "run")]) == 0
    shutil.move(root / "groups.csv", root / "elsewhere.csv")
    return root


def read_evaluated(folder: Path) -> set[str]:
    with (folder / "images.csv").open() as file:
        return {row["path"] for row in csv.DictReader(file)}


def test_a_run_is_resumed_with_its_groups_wherever_they_lie_and_with_no_others(trained: Path) -> None:
    recipe, run = trained / "run/recipe.yaml", trained / "run"
    with pytest.raises(RequestError, match=r"groups\.csv does not exist"):
        resnext.train(recipe, run, resume=True)
    resnext.train(recipe, run, resume=True, overrides={"data.group": str(trained / "elsewhere.csv")})
    with pytest.raises(RequestError, match="a run can be resumed only with the same data"):
        resnext.train(recipe, run, resume=True, overrides={"data.group": "(patient.*)[.]"})


def test_the_split_of_a_run_outlives_its_groups_file_and_new_pictures(trained: Path) -> None:
    with (trained / "run/split.csv").open() as file:
        side = {row["file"]: row["split"] for row in csv.DictReader(file)}
    held_out = {name for name, split in side.items() if split == "val"}
    assert read_evaluated(trained / "run/evaluation") == held_out
    metrics = json.loads((trained / "run/evaluation/metrics.json").read_text())
    assert "2 with 12 are held out" in metrics["protocol"]["split"]

    for number in range(20):
        write_image(trained / f"photos/a/new{number}.png", number)
    run, again = shutil.copytree(trained / "run", trained / "moved"), trained / "again"
    assert main(["evaluate", str(run), "--out", str(again)]) == 0
    assert read_evaluated(again) == held_out
    assert main(["evaluate", str(run), "--split", "train", "--out", str(again)]) == 0
    assert read_evaluated(again) == set(side) - held_out
    assert read_run_recipe(run).data.group == str(run / "split.csv")
    for new in trained.glob("photos/a/new*"):
        new.unlink()
