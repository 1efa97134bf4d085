"""Curves are drawn from any log, the empty one included."""

from pathlib import Path

import pytest
from PIL import Image

from resnext.training.plots import draw_curves


@pytest.mark.parametrize("epochs", [0, 1, 2, 30])
def test_curves_of_any_length_are_a_picture(tmp_path: Path, epochs: int) -> None:
    rows: list[dict[str, object]] = []
    for epoch in range(1, epochs + 1):
        rows.append({"kind": "step", "step": 2 * epoch, "epoch": epoch, "loss": 1.0, "lr": 0.1})
        held_out = {"val_loss": None, "top1_error": None} if epoch % 2 else {"val_loss": 1.0, "top1_error": 0.0}
        rows.append(
            {"kind": "epoch", "epoch": epoch, "step": 2 * epoch, "train_loss": 2.0, "train_error": None} | held_out
        )
    draw_curves(rows, tmp_path / "curves.png", "a $title")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 2 * picture.height
