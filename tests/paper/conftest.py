"""Run directories of the paper's recipes, made without training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext.detection.settings import DetectRecipe
from resnext.paper.row_recipes import read_row_recipe
from resnext.recipe import dump_recipe
from resnext.settings import Recipe

MakeRun = Callable[..., Path]


def write_run(run: Path, recipe: Recipe | DetectRecipe, position: dict[str, int | None], rows: list[str]) -> Path:
    """Write a run directory with a last checkpoint at ``position`` and the lines ``rows`` of metrics.csv."""
    (run / "checkpoints" / "last").mkdir(parents=True)
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    state = {"format": "resnext-checkpoint", "version": 2, "position": position}
    (run / "checkpoints" / "last" / "state.json").write_text(json.dumps(state))
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    (run / "log.jsonl").write_text("")
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return ``make_run(recipe, epoch=, error=, ...)``, which writes a run directory below ``tmp_path/runs``."""

    def make(recipe: str, epoch: int = 100, error: float = 22.4, name: str | None = None, **changes: Any) -> Path:
        begun = read_row_recipe(recipe, changes)
        begun = replace(begun, train=replace(begun.train, channels_last="yes"))  # as a run stores what it measured
        rows = ["epoch,step,lr,train_loss,train_error,val_loss,top1_error,top5_error,bad_images"]
        for e in range(1, epoch + 1):
            off = 0.0 if e == epoch else 30 / e
            rows.append(f"{e},{e * 5005},0.1,2.0,{error + 1 + off:.3f},1.0,{error + off:.3f},{6 + off:.3f},0")
        position = {"step": begun.train.steps or epoch * 5005, "epoch": epoch}
        return write_run(tmp_path / "runs" / (name or recipe), begun, position, rows)

    return make
