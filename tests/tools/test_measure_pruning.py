"""tools/measure_pruning.py measures each network once, and goes on where it was stopped."""

import csv
from pathlib import Path

import pytest

import resnext
from tests.tools.load import load_tool

tool = load_tool("measure_pruning")


def measure(recipe: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Run the tool on the tiny recipe; return its rows."""
    changes = ("--set", "model.name=resnext11_4x4d", "--set", "train.epochs=2")
    places = ("--work", str(folder / "work"), "--out", str(folder / "pruning.csv"))
    words = [str(recipe), *changes, "--seeds", "0", "--keep", "0.5", "--engine", "onnxruntime", *places]
    monkeypatch.setattr("sys.argv", ["tools/measure_pruning.py", *words])
    tool.main()
    with (folder / "pruning.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("drawn_figures")
def test_a_network_is_pruned_tuned_and_trained_from_scratch_once(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "find_spec", lambda _: None)  # without Torch-Pruning
    monkeypatch.setattr(tool, "count_scratch_epochs", lambda *_: 3)  # it times steps
    rows = {row["method"]: row for row in measure(tiny_recipe, tmp_path, monkeypatch)}
    assert [*rows] == ["whole", "pruned", "fine-tuned", "scratch"]
    small = resnext.load(tmp_path / "work" / "0-pruned-0.5.safetensors")
    assert small.architecture.cardinalities == (2, 2, 2)
    for method in ("pruned", "fine-tuned", "scratch"):
        row = rows[method]
        assert row["network"] == small.architecture.name
        assert int(row["parameters"]) == sum(p.numel() for p in small.parameters()) < int(rows["whole"]["parameters"])
    assert [row["epochs"] for row in rows.values()] == ["2", "", "1", "3"]
    tuned = resnext.open_run(tmp_path / "work" / "0-pruned-0.5-tuned")
    whole = resnext.open_run(tmp_path / "work" / "0-whole")
    assert tuned.recipe.distill.weights == str(whole.weights("last").absolute())
    evaluation = resnext.evaluate(tuned.load("last"), resnext.open_data(tuned.recipe.data).val)
    assert rows["fine-tuned"]["top1_error"] == f"{evaluation.top1_error:.2f}"
    seconds = [float(rows[method]["train_seconds"]) for method in ("whole", "fine-tuned")]
    assert float(rows["fine-tuned"]["total_seconds"]) == pytest.approx(sum(seconds), abs=0.2)
    capsys.readouterr()
    assert {row["method"]: row for row in measure(tiny_recipe, tmp_path, monkeypatch)} == rows
    assert "training" not in capsys.readouterr().out
