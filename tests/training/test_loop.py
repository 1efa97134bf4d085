"""The training loop: the files of a run, where it stops, and what it refuses."""

import csv
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

import resnext
from resnext.cli import main
from resnext.errors import RequestError, WorkError
from resnext.recipe import read_recipe
from resnext.run_directory import OWNER_FILE, RunDirectory, read_last_step
from resnext.training import loop
from resnext.training.callbacks import EpochResult
from resnext.training.classification import Classification, State
from resnext.training.distributed import World
from resnext.training.logbook import METRICS_COLUMNS, read_log
from resnext.training.state import EpochSums
from resnext.training.step import StepResult
from resnext.weights import load
from tests.training.helpers import create_run, cut_off_before, read_changed, train, write_photos
from tests.training.test_resume import assert_same_end

FILES = (
    "recipe.yaml", "environment.json", "log.jsonl", "metrics.csv", "speed.csv", "curves.png", "samples.png",
    "report.html", "checkpoints/last/state.json", "checkpoints/best/state.json", "evaluation/metrics.json",
)  # fmt: skip


def run_tiny(recipe: Path, folder: Path, **changes: object) -> RunDirectory:
    return train(read_changed(recipe, changes), folder)


def rows(run: RunDirectory, kind: str) -> list[dict[str, object]]:
    return [row for row in map(json.loads, run.log.read_text().splitlines()) if row["kind"] == kind]


@pytest.mark.usefixtures("drawn_figures")
def test_a_run_leaves_everything_a_user_keeps(tiny_recipe: Path, tmp_path: Path) -> None:
    run = run_tiny(tiny_recipe, tmp_path / "run")
    for name in FILES:
        assert (run.path / name).stat().st_size > 0, name
    assert list(run.path.glob("events.out.tfevents.*"))
    assert not list(run.path.rglob("*.pkl")) + list(run.path.rglob("*.pt"))
    with open(run.metrics) as file:
        table = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in table] == [1, 2, 3]
    errors = [float(row["top1_error"]) for row in table]
    assert run.state("best")["position"]["best"]["top1_error"] == min(errors)
    model = load(run.path)
    assert model.classes == tuple("0123456789")
    assert model.preprocessing is not None
    assert model.preprocessing.image_size == 8


def test_the_loss_of_a_run_falls(tiny_recipe: Path, tmp_path: Path) -> None:
    run = run_tiny(tiny_recipe, tmp_path / "run", train__epochs=12, augment__mixup=0, data__max_train_images=300)
    losses = [row["train_loss"] for row in rows(run, "epoch")]
    assert losses[-1] < 0.5 * losses[0]  # type: ignore[operator]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny_recipe: Path, tmp_path: Path) -> None:
    logs = []
    for number, seed in enumerate((5, 5, 6)):
        run = run_tiny(tiny_recipe, tmp_path / str(number), train__epochs=1, train__seed=seed)
        logs.append(run.log.read_bytes())
    assert logs[0] == logs[1] != logs[2]


def test_an_exploding_loss_names_the_step_and_keeps_the_last_good_checkpoint(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"the loss became (nan|inf) at step \d+ \(epoch 1|is not finite after step"):
        run_tiny(tiny_recipe, tmp_path / "run", optimizer__lr=1e30, schedule__name="constant")
    for value in load(tmp_path / "run", "last").state_dict().values():
        assert torch.isfinite(value.float()).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"train__ema_decay": 0.0},
        {"train__ema_decay": 0.9, "train__channels_last": "yes"},
        {"train__precision": "bf16", "train__channels_last": "yes", "train__threads": 1, "train__epochs": 1},
        {"train__precision": "bf16", "train__epochs": 1, "data__jpeg_decoder": "fast"},
        {"train__sync_bn": True, "train__fast": "yes", "train__channels_last": "yes"},
    ],
    ids=str,
)
def test_one_checkpoint_has_one_number(
    tiny_recipe: Path, tmp_path: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number in the log, at the end, and from another evaluation with other workers is the same to the bit."""
    if "train__fast" in changes:
        monkeypatch.setenv("RESNEXT_FAST", "1")
    run = run_tiny(tiny_recipe, tmp_path / "run", **changes)
    own = json.loads((run.evaluation / "metrics.json").read_text())
    best = run.state("best")["position"]["best"]
    (row,) = (row for row in rows(run, "epoch") if row["epoch"] == best["epoch"])
    assert (row["val_loss"], row["top1_error"], row["top5_error"]) == (
        own["loss"], own["top1_error"], own["top5_error"],
    )  # fmt: skip
    images = (run.evaluation / "images.csv").read_bytes()
    assert main(["evaluate", str(run.path), "--device", "cpu", "--workers", "1"]) == 0
    again = json.loads((run.evaluation / "metrics.json").read_text())
    assert again == own | {name: again[name] for name in ("protocol", "environment")}
    mine, theirs = ({k: v for k, v in one["protocol"].items() if k != "weights"} for one in (own, again))
    assert mine == theirs
    assert (run.evaluation / "images.csv").read_bytes() == images
    assert not list(run.path.glob("evaluation-*"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.batch_size": 128}, "128"),
        ({"data.image_size": 3}, "too small"),
        ({"model.name": "resnext12_2x4d"}, "not 9n+2"),
        ({"model.cardinality": 3, "model.stage_widths": [8, 16, 32]}, "cardinality 3 does not divide"),
        ({"augment.color_jitter": 0.4}, "jitter"),
        ({"train.device": "cuda:99"}, "cuda:99"),
        ({"train.device": "gpu"}, "gpu"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tiny_recipe: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    run = create_run(tmp_path / "run")
    with pytest.raises(RequestError) as caught:
        train(read_recipe(tiny_recipe, changes), run.path)
    assert says in str(caught.value)
    assert not list(run.path.iterdir()), "the place can be used for the next try"


@pytest.mark.parametrize("option", ["--run", "--continue"])
def test_a_directory_that_holds_anything_else_is_refused_and_left_alone(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    assert main(["train", str(tiny_recipe), option, str(tmp_path / "run")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("drawn_figures")
def test_a_start_that_fails_leaves_no_directory(
    tiny_recipe: Path, tmp_path: Path, photos_with_one_cut_short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "runs" / "a"
    command = ["train", str(tiny_recipe), "--train.batch_size", "128"]  # more than there are images
    for way in ("--run", "--continue"):
        assert main([*command, way, str(place)]) == 2
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    changes = {"data__path": str(photos_with_one_cut_short), **FOLDER, "train__batch_size": 17}
    with pytest.raises(WorkError, match=r"day/3\.jpg"):  # in the first batch, of which samples.png is drawn
        run_tiny(tiny_recipe, place, **changes)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("work", "says"),
    [
        ("build", "before the first step: run the command again"),
        ("evaluate", r"after step 6 \(epoch 1\); continue with: resnext train --resume"),
        ("on_finish", "while writing the results; all steps are done, so write them with: resnext train --resume"),
    ],
)
def test_a_signal_ends_what_can_be_repeated_at_once_and_the_run_goes_on_to_the_same_end(
    work: str, says: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("unreachable")

    recipe, run = read_recipe(tiny_recipe, {"train.epochs": 1}), RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(WorkError, match=f"stopped by SIGTERM {says}"):
        patch.setattr(Classification, work, interrupted)
        train(recipe, run.path, resume=None)
    assert run.path.exists() == (work in ("evaluate", "on_finish"))
    train(recipe, run.path, resume=None)
    assert_same_end(run.path, train(recipe, tmp_path / "whole").path)
    assert not (run.path / OWNER_FILE).exists()


def test_a_run_that_another_host_took_over_writes_nothing_more(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = Classification.step

    def taken(task: Classification, state: State, *arguments: Any) -> StepResult:
        (state.run.path / OWNER_FILE).write_text('{"token": "y", "host": "node8", "pid": 1, "since": "now"}')
        return take_step(task, state, *arguments)

    monkeypatch.setattr(Classification, "step", taken)
    with pytest.raises(WorkError, match=r"process 1 on node8, .* has taken over"):
        run_tiny(tiny_recipe, tmp_path / "run")
    assert read_last_step(RunDirectory(tmp_path / "run")) == 0


def test_a_place_that_cannot_be_written_is_named(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tiny_recipe), "--run", "/proc/nowhere/run"]) == 2
    assert "/proc/nowhere/run cannot be written" in capsys.readouterr().err


@pytest.fixture
def photos_with_one_cut_short(tmp_path: Path) -> Path:
    """Write two classes of ten images, one of them a truncated file."""
    folder = write_photos(tmp_path / "photos", "day", "night", count=10, suffix="jpg")
    os.truncate(folder / "day" / "3.jpg", 300)
    return folder


FOLDER = {
    "data__source": "folder", "data__val_fraction": 0.2, "data__image_size": 16, "data__max_train_images": None,
    "data__max_val_images": None, "train__batch_size": 6, "train__drop_last": False,
}  # fmt: skip


def test_a_bad_image_stops_training_and_is_named(
    tiny_recipe: Path, tmp_path: Path, photos_with_one_cut_short: Path
) -> None:
    path, run = str(photos_with_one_cut_short), RunDirectory(tmp_path / "run")
    with pytest.raises(WorkError, match=r"day/3\.jpg.*resnext data check.*--resume .*run; .*--data.on_bad_image skip"):
        run_tiny(tiny_recipe, run.path, data__path=path, **FOLDER)
    recipe = read_recipe(run.recipe, {"data.on_bad_image": "skip"})
    train(recipe, run.path, resume=True)
    changes = {"data__path": path, "data__on_bad_image": "skip", **FOLDER}
    whole = RunDirectory(tmp_path / "whole")
    loop.run_training(Classification, read_changed(tiny_recipe, changes), whole)
    ours, theirs = (load(one.path, "last").state_dict() for one in (run, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs), "as if it had been skipped from the start"


@pytest.mark.usefixtures("drawn_figures")
def test_a_held_out_image_that_cannot_be_read_is_left_out_and_counted(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos", "day", "night", count=10, suffix="jpg")
    changes = {"data__path": str(photos), "data__on_bad_image": "skip", **FOLDER}
    recipe = read_changed(tiny_recipe, changes)
    os.truncate(photos / resnext.open_data(recipe.data).val.image_path(1), 300)
    run = RunDirectory(tmp_path / "run")
    loop.run_training(Classification, recipe, run)
    out = capsys.readouterr().out
    assert out.count("% (1 unreadable image left out)") == 3, "a line an epoch"
    assert "of 2 held-out images right (1 unreadable image left out): top-1 error" in out
    metrics = json.loads((run.evaluation / "metrics.json").read_text())
    assert (metrics["n"], metrics["left_out"]) == (2, 1)
    assert metrics["protocol"]["split"].endswith("(1 unreadable image left out)")


@pytest.mark.usefixtures("drawn_figures")
def test_a_skipped_image_is_counted_once_an_epoch_and_named(
    tiny_recipe: Path, tmp_path: Path, photos_with_one_cut_short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"data__path": str(photos_with_one_cut_short), "data__on_bad_image": "skip", **FOLDER}
    run = RunDirectory(tmp_path / "run")
    loop.run_training(Classification, read_changed(tiny_recipe, changes), run)
    assert [row["bad_images"] for row in rows(run, "epoch")] == [1, 1, 1]
    assert "skipped: cannot use image" in capsys.readouterr().out


def test_data_that_changed_under_a_run_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    run = run_tiny(tiny_recipe, tmp_path / "run", train__epochs=1)
    recipe = read_recipe(run.recipe, {"data.max_train_images": 90})
    with pytest.raises(RequestError, match="was trained with 100 training images, but the data now has 90"):
        train(recipe, run.path, resume=True)


def test_mixed_images_have_no_training_error(tiny_recipe: Path) -> None:
    for mixup, cutmix, error in ((0, 0, 50.0), (0.2, 0, None), (0, 1.0, None)):
        recipe = read_recipe(tiny_recipe, {"augment.mixup": mixup, "augment.cutmix": cutmix})
        state = SimpleNamespace(sums=EpochSums(loss=6.0, wrong=2, images=4), recipe=recipe)
        assert Classification(recipe).train_metrics(state) == {"train_loss": 1.5, "train_error": error}


@pytest.mark.parametrize("split", ["train", "val"])
def test_as_many_images_of_other_names_or_labels_are_not_the_same_data(
    tiny_recipe: Path, tmp_path: Path, split: str
) -> None:
    for folder in ("train", "val"):
        write_photos(tmp_path / "photos" / folder, "a", "b", count=6)
    changes = FOLDER | {"data__val_fraction": None, "data__path": str(tmp_path / "photos"), "train__epochs": 1}
    run = run_tiny(tiny_recipe, tmp_path / "run", **changes)
    moved = (tmp_path / "photos").rename(tmp_path / "elsewhere")
    recipe = read_recipe(run.recipe, {"data.path": str(moved)})
    train(recipe, run.path, resume=True)  # the same data at another place
    first = min((moved / split / "a").iterdir())
    first.rename(first.with_name("z.png"))
    with pytest.raises(RequestError, match="the data now has 12, some with other names or labels"):
        train(recipe, run.path, resume=True)


def test_both_layouts_are_measured_where_the_recipe_says_auto(tiny_recipe: Path, tmp_path: Path) -> None:
    run = run_tiny(tiny_recipe, tmp_path / "run", train__epochs=1, train__channels_last="auto")
    assert read_recipe(run.recipe).train.channels_last in ("yes", "no")


@pytest.mark.usefixtures("drawn_figures")
def test_a_run_counted_in_steps_ends_there_in_the_middle_of_an_epoch(tiny_recipe: Path, tmp_path: Path) -> None:
    changes = {"train__epochs": None, "train__steps": 8, "train__checkpoint_steps": 3}
    run = run_tiny(tiny_recipe, tmp_path / "run", **changes)
    assert [row["step"] for row in rows(run, "step")] == list(range(1, 9))
    assert [(row["epoch"], row["step"]) for row in rows(run, "epoch")] == [(1, 6), (2, 8)]
    assert run.state("last")["position"]["step"] == 8
    before = run.log.read_bytes()
    train(read_recipe(run.recipe), run.path, resume=True)
    assert run.log.read_bytes() == before


def test_a_warm_up_longer_than_the_run_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"0\.5 \(3 steps\) must be shorter than the whole run \(3 steps\)"):
        run_tiny(tiny_recipe, tmp_path / "run", train__epochs=None, train__steps=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.name": "lamb", "optimizer.lr": 0.005, "train.loss": "bce", "train.bce_threshold": 0.2},
        {
            "train.drop_path": 0.3,
            "train.ema_steps": 2,
            "optimizer.weight_decay_on": "not_norms",
            "train.bn_batch_size": 8,
        },
    ],
)
def test_modern_settings_resume_to_the_same_bytes(
    tiny_recipe: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    recipe = read_recipe(tiny_recipe, {"train.epochs": 2, **changes})
    whole = train(recipe, tmp_path / "whole")
    with cut_off_before(9):
        train(recipe, tmp_path / "cut", resume=None)
    cut = train(recipe, tmp_path / "cut", resume=None)
    assert_same_end(cut.path, whole.path)


@pytest.mark.parametrize(("skew", "warned"), [(0.4, False), (62.0, True)])
def test_clocks_that_differ_are_said_before_they_cost_a_run(
    skew: float, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    class Skewed(World):
        def clock_skew(self) -> float:
            return skew

    loop.warn_about_clock_skew(Skewed(torch.device("cpu")), Console(width=400))
    assert ("clocks of this run's hosts differ by 62 s" in capsys.readouterr().out) == warned


def test_a_callback_gets_every_epoch_with_its_checkpoints_and_what_it_raises_ends_the_run(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    results: list[EpochResult] = []

    def keep(result: EpochResult) -> None:
        assert read_log(result.run.log)[-1]["epoch"] == result.epoch
        assert result.run.state("last")["position"]["epoch"] == result.epoch
        assert result.is_best == (result.run.state("best")["position"]["epoch"] == result.epoch)
        results.append(result)
        if result.epoch == 2 and len(results) == 2:
            raise WorkError("enough")

    recipe = read_recipe(tiny_recipe)
    with pytest.raises(WorkError, match="enough"):
        train(recipe, tmp_path / "run", on_epoch_end=keep)
    run = train(recipe, tmp_path / "run", resume=True, on_epoch_end=keep)
    assert [(result.epoch, result.step) for result in results] == [(1, 6), (2, 12), (3, 18)]
    for result, row in zip(results, rows(run, "epoch"), strict=True):
        assert result.metrics == {name: row[name] for name in METRICS_COLUMNS if name not in ("epoch", "step")}
