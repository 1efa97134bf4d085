"""Measurements of a recipe are read correctly from runs and results, whatever else is in the folders."""

import json
import os
import time
from pathlib import Path

import pytest

from resnext.paper.measurements import MeasuredValue, collect_measurement
from resnext.paper.numbers import Column, get_table
from tests.paper.conftest import MakeRun

X50 = "imagenet-resnext50-32x4d"
TOP1 = get_table("table3").columns[0]


def measured(folder: Path, column: Column = TOP1) -> MeasuredValue:
    """Return the measured value of the recipe X50 from the runs below ``folder``."""
    value = collect_measurement(X50, folder / "runs").value(column)
    assert value is not None
    return value


def test_without_runs_a_row_is_missing(tmp_path: Path) -> None:
    found = collect_measurement(X50, tmp_path / "nowhere", tmp_path / "nowhere")
    assert (found.state, found.value(TOP1), found.damaged) == ("missing", None, ())


def test_a_finished_run_gives_its_last_epochs_error_and_never_the_best(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(X50, error=22.41)
    lines = (run / "metrics.csv").read_text().splitlines()
    lines[50] = lines[50].replace(lines[50].split(",")[6], "20.0")  # a lucky epoch
    (run / "metrics.csv").write_text("\n".join(lines))
    assert collect_measurement(X50, tmp_path / "runs").state == "finished"
    value = measured(tmp_path)
    assert (value.mean, value.deviation, value.count, value.text(1)) == (22.41, None, 1, "22.4")


def test_seeds_are_a_mean_and_a_deviation(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(X50, error=22.2)
    make_run(X50, error=22.4, name=f"{X50}-seed1", **{"train.seed": 1})
    make_run(X50, error=22.6, name=f"{X50}-seed2", **{"train.seed": 2})
    make_run("imagenet-resnext50-2x40d", error=50.0)
    value = measured(tmp_path)
    assert (round(value.mean, 6), round(value.deviation or 0, 6), value.count) == (22.4, 0.2, 3)
    assert value.text(1) == "22.4 ± 0.2 (3)"


def test_a_run_under_way_is_running_while_it_writes_and_stopped_after(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(X50, epoch=43)
    found = collect_measurement(X50, tmp_path / "runs")
    assert (found.state, found.runs[0].progress) == ("running", "epoch 43 of 100")
    assert found.value(TOP1) is None
    later = collect_measurement(X50, tmp_path / "runs", now=time.time() + 7200)
    assert later.state == "stopped"
    assert 7100 < later.runs[0].silent_seconds < 7300


def test_a_run_that_stopped_early_is_finished_and_marked(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(X50, epoch=43)
    state = json.loads((run / "checkpoints/last/state.json").read_text())
    state["position"]["stopped"] = "after 43 of 100 epochs: no better for 5 epochs"
    (run / "checkpoints/last/state.json").write_text(json.dumps(state))
    found = collect_measurement(X50, tmp_path / "runs")
    assert found.state == "finished"
    assert found.runs[0].differences == ("stopped after 43 of 100 epochs: no better for 5 epochs",)
    assert measured(tmp_path).text(1).endswith("≠")


def test_a_run_counted_in_steps_is_over_when_they_are_done(tmp_path: Path, make_run: MakeRun) -> None:
    name = "imagenet5k-resnet50"
    run = make_run(name, epoch=20)
    assert collect_measurement(name, tmp_path / "runs").state == "finished"
    state = json.loads((run / "checkpoints/last/state.json").read_text())
    state["position"]["step"] = 529_199
    (run / "checkpoints/last/state.json").write_text(json.dumps(state))
    assert collect_measurement(name, tmp_path / "runs").runs[0].progress == "step 529,199 of 529,200"


def test_a_run_with_other_settings_is_marked_and_gives_way_to_one_without(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(X50, error=20.0, name=f"{X50}-seed1", **{"train.precision": "bf16", "train.seed": 1})
    (run,) = collect_measurement(X50, tmp_path / "runs").runs
    assert run.differences == ("train.precision: 'fp32' -> 'bf16'",)
    assert measured(tmp_path).text(1) == "20.0 ≠"
    make_run(X50, error=22.4)
    assert measured(tmp_path).text(1) == "22.4"


def test_where_data_lies_and_how_it_is_loaded_is_no_difference(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(X50, **{"data.path": "/data", "data.workers": 7, "train.checkpoint_steps": 10})
    assert collect_measurement(X50, tmp_path / "runs").runs[0].differences == ()


def test_a_folder_of_a_run_that_never_began_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs" / X50).mkdir(parents=True)
    found = collect_measurement(X50, tmp_path / "runs")
    assert (found.state, found.damaged) == ("missing", ())


def test_toy_runs_and_other_names_are_not_runs_of_a_row(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(X50, name=f"{X50}-toy")
    make_run(X50, name=f"{X50}-mine")
    assert collect_measurement(X50, tmp_path / "runs").runs == ()


def test_the_released_schedule_is_a_run_of_its_own(tmp_path: Path, make_run: MakeRun) -> None:
    name = "cifar10-resnext29-8x64d"
    make_run(name, epoch=300, name=f"{name}-released", **{"schedule.milestones": [147, 222]})
    assert collect_measurement(name, tmp_path / "runs").runs[0].differences == ()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("recipe.yaml", "model: [", "not valid YAML"),
        ("recipe.yaml", None, "no recipe.yaml"),
        ("checkpoints/last/state.json", "{", "is damaged"),
        ("checkpoints/last/state.json", None, "no checkpoint"),
        ("checkpoints/last/state.json", '{"format": "resnext-checkpoint", "position": {"step": -1}}', "at which step"),
        ("checkpoints/last/state.json", '{"format": "resnext-checkpoint", "position": [1]}', "at which step"),
        ("metrics.csv", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_damaged_run_is_named_and_left_out(
    tmp_path: Path, make_run: MakeRun, file: str, content: str | bytes | None, says: str
) -> None:
    run = make_run(X50)
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = collect_measurement(X50, tmp_path / "runs")
    assert found.runs == ()
    assert len(found.damaged) == 1
    assert says in found.damaged[0]
    assert str(run) in found.damaged[0]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "101", "1e999", "", "twenty", "1" * 5000])
def test_a_number_that_no_error_can_be_is_none(tmp_path: Path, make_run: MakeRun, value: str) -> None:
    run = make_run(X50)
    lines = (run / "metrics.csv").read_text().splitlines()
    cells = lines[-1].split(",")
    cells[6] = value
    (run / "metrics.csv").write_text("\n".join([*lines[:-1], ",".join(cells)]))
    assert collect_measurement(X50, tmp_path / "runs").value(TOP1) is None


def test_a_huge_table_is_not_read(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(X50)
    os.truncate(run / "metrics.csv", 1 << 30)  # sparse
    assert "not a file of at most" in collect_measurement(X50, tmp_path / "runs").damaged[0]


def test_another_view_is_read_from_an_evaluation_of_the_last_checkpoint_alone(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run = make_run(X50)
    at_320 = get_table("table5").columns[2]
    assert at_320.view == {"image_size": 320}

    def evaluate(folder: str, error: float, **about: object) -> None:
        (run / folder).mkdir()
        protocol = {"image_size": 320, "checkpoint": "last", "view": "center", **about}
        values = {"format": "resnext-evaluation", "top1_error": error, "protocol": protocol}
        (run / folder / "metrics.json").write_text(json.dumps(values))

    evaluate("evaluation", 1.0, checkpoint="best")
    evaluate("evaluation-224", 2.0, image_size=224)
    evaluate("evaluation-ten", 3.0, view="ten-crop")
    evaluate("evaluation-c", 4.0, corruption="fog")
    evaluate("evaluation-e", 5.0, ensemble=[{}])
    assert collect_measurement(X50, tmp_path / "runs").value(at_320) is None
    (run / "broken").mkdir()
    (run / "broken" / "metrics.json").write_text("[" * 100_000)
    evaluate("evaluation-320", 21.3)
    assert measured(tmp_path, at_320).mean == 21.3


def test_a_stated_epoch_is_the_one_that_is_read(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(X50, error=22.0)
    column = Column("val", "validation", "%", 2, "top1_error", epoch=95)
    assert measured(tmp_path, column).mean == pytest.approx(22.0 + 30 / 95, abs=1e-3)


def test_noted_results_count_where_their_recipe_is_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "a.csv").write_text(
        "recipe,seed,changes,top1_error_last\n"
        f"recipes/paper/{X50}.yaml,0,none,22.3\nrecipes/paper/{X50}.yaml,1,,22.5\n"
        f"recipes/paper/{X50}.yaml,2,4 epochs,80\nrecipes/paper/other.yaml,0,none,1\n"
    )
    (folder / "b.csv").write_bytes(b"\xff\xff")
    found = collect_measurement(X50, tmp_path / "runs", folder)
    value = found.value(TOP1)
    assert found.state == "finished"
    assert value is not None
    assert (value.mean, value.count) == (pytest.approx(22.4), 2)
