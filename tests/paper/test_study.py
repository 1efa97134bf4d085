"""Tests of ``resnext paper study``: its networks, its runs, and the statistics of its results."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from resnext.cli import main
from resnext.errors import RequestError
from resnext.model.complexity import complexity
from resnext.model.design import design
from resnext.paper.study import SIZES, STUDIES, VARIED_SETTINGS, StudyNetwork, StudySize, list_runs
from resnext.paper.study_results import Difference, compare, describe_network, read_rows
from resnext.recipe import read_recipe
from resnext.run import open_run

TINY = shlex.split(
    "--data.source folder --data.path pictures --data.image_size 8 --train.epochs 1 "
    "--train.batch_size 20 --train.precision fp32 --model.base_channels 4 --schedule.warmup_epochs 0"
)


def write_pictures() -> None:
    """Write a folder of two classes of noise."""
    for split, count in (("train", 20), ("test", 10)):
        for name in ("one", "two"):
            folder = Path("pictures", split, name)
            folder.mkdir(parents=True)
            for number in range(count):
                Image.effect_noise((8, 8), 50).convert("RGB").save(folder / f"{number}.png")


def count_macs(size: StudySize, network: StudyNetwork) -> int:
    recipe = read_recipe(size.recipe, network.model)
    return complexity(recipe.model.architecture(10, 3), 32).macs


@pytest.fixture
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = tuple(replace(network, seeds=1) for network in SIZES["small"].networks)
    monkeypatch.setitem(SIZES, "small", replace(SIZES["small"], networks=networks))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_networks_of_equal_complexity_are_what_design_finds(size: StudySize) -> None:
    baseline = size.networks[0]
    macs, recipe = count_macs(size, baseline), read_recipe(size.recipe, baseline.model)
    base = recipe.model.architecture(10, 3)
    for network in size.networks:
        if network.study == "equal":
            assert count_macs(size, network) == pytest.approx(macs, rel=size.tolerance)
            found = design(
                base.depth,
                network.cardinality,
                macs=macs,
                stem="cifar",
                base_channels=base.base_channels,
                num_classes=10,
            )
            assert network.label == f"{found.cardinality}x{found.width}d"


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_networks_of_twice_the_complexity_have_it(size: StudySize) -> None:
    baseline = count_macs(size, size.networks[0])
    for network in size.networks:
        if network.study == "twice":
            assert count_macs(size, network) == pytest.approx(2 * baseline, rel=size.tolerance)


def test_runs_come_seed_by_seed_with_as_many_seeds_as_stated() -> None:
    runs = list_runs("small", ["cifar10"], ["equal"])
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert {label: sum(run.network.label == label for run in runs) for label in ("1x20d", "4x7d", "16x2d")} == {
        "1x20d": 5,
        "4x7d": 3,
        "16x2d": 5,
    }
    assert len({run.name for run in list_runs("small", SIZES["small"].data, STUDIES)}) == 34 + 19


def test_unknown_words_are_refused_with_the_nearest_choice() -> None:
    with pytest.raises(RequestError, match="cifar10"):
        list_runs("small", ["cifar"], ["equal"])
    with pytest.raises(RequestError, match="twice"):
        list_runs("small", ["cifar10"], ["twic"])
    with pytest.raises(RequestError, match="no twice on fashion-mnist"):
        list_runs("small", ["fashion-mnist"], ["twice"])


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    ours, theirs = np.array([7.1, 6.8, 7.4, 7.0, 6.9]), np.array([7.6, 7.1, 7.5, 7.6, 7.0])
    found = Difference("a", "b", tuple(ours - theirs))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(expected.low)
    assert found.mean + found.half_width == pytest.approx(expected.high)
    assert found.words.endswith("better")
    assert Difference("a", "b", (0.1,)).words == "+0.10 (one seed)"


@pytest.mark.usefixtures("one_seed")
def test_one_command_trains_reports_and_leaves_finished_runs_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures()
    words = ["paper", "study", "cardinality", "--on", "cifar10", "--study", "no-shortcut", "--jobs", "2", *TINY]
    assert main([*words, "--dry-run"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2
    assert all(line.startswith("resnext train small/cardinality --continue runs/study/cifar10-") for line in commands)
    assert main(words) == 0, [path.read_text() for path in Path("runs/study").glob("*.log")]
    rows = read_rows(Path("results/study-cardinality.csv"), SIZES["small"])
    assert [row["network"] for row in rows] == SIZES["small"].get_labels("no-shortcut")
    assert [row["command"] for row in rows] == commands
    assert all(0 <= float(row["test_error"]) <= 100 and int(row["macs"]) > 0 for row in rows)
    for row in rows:
        network = open_run(row["command"].split("--continue ")[1].split()[0]).load("last")
        assert int(row["parameters"]) == sum(parameter.numel() for parameter in network.parameters())
    assert re.search(r"16x2d no shortcut\s+1x20d no shortcut\s+[+-]\d+\.\d\d \(one seed\)", capsys.readouterr().out)
    assert Path("results/study-cardinality-cifar10.png").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in Path("runs/study").rglob("*")}
    assert main(words) == 0
    assert not Path("results/study-cardinality-cifar10-curves.png").exists(), "curves are of study equal"
    capsys.readouterr()
    for changed in (["--train.epochs", "2"], ["--report", "--optimizer.lr", "0.1"]):
        assert main([*words, *changed]) == 2
        assert "was trained with other settings (run -> requested)" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs/study").rglob("*")}
    assert read_rows(Path("results/study-cardinality.csv"), SIZES["small"]) == rows
    Path(rows[0]["command"].split("--continue ")[1].split()[0], "speed.csv").unlink()
    assert main([*words, "--report"]) == 0
    assert re.search(r"1x20d no shortcut .* 1 +– +–", capsys.readouterr().out)


@pytest.mark.usefixtures("one_seed")
def test_a_run_that_fails_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["paper", "study", "cardinality", "--on", "cifar10", "--study", "no-shortcut", "--data.source", "folder"]
    assert main([*words, "--data.path", "nowhere"]) == 1
    assert re.search(r"2 of the runs failed \(cifar10-1x20d-no-shortcut-seed0.*nowhere", capsys.readouterr().err)
    rows = read_rows(Path("results/study-cardinality.csv"), SIZES["small"])
    assert [(row["network"], row["test_error"]) for row in rows] == [
        ("1x20d no shortcut", ""),
        ("16x2d no shortcut", ""),
    ]
    assert all("nowhere" in row["failure"] for row in rows)
    assert compare(rows, SIZES["small"]) == []
    assert describe_network(rows, SIZES["small"].networks[-1]) is None


@pytest.mark.parametrize("jobs", ["0", "300"])
def test_a_senseless_number_of_runs_side_by_side_is_refused(jobs: str, tmp_path: Path) -> None:
    assert main(["paper", "study", "cardinality", "--runs", str(tmp_path), "--jobs", jobs]) == 2


@pytest.mark.parametrize("setting", [("train.seed", "1"), ("model.blocks", "[1, 1, 1]"), ("model.cardinality", "2")])
def test_what_the_study_varies_cannot_be_set(
    setting: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value = setting
    assert main(["paper", "study", "cardinality", "--runs", str(tmp_path), f"--{key}", value]) == 2
    assert f"--{key} is what the study varies" in capsys.readouterr().err


def test_every_setting_of_a_network_counts_as_varied() -> None:
    varied = {key for size in SIZES.values() for network in size.networks for key in network.model}
    assert varied <= set(VARIED_SETTINGS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"data,seed\ncifar10,0\n", r"line 2: not a run of this study"),
        (b"data,study,network,seed\ncifar10,equal,3x9d,0\n", r"line 2: not a run of this study \('3x9d'"),
        (b"\xff\xfe\x00", "is no CSV file"),
    ],
)
def test_a_damaged_table_is_refused_before_the_work(
    text: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "study-cardinality.csv"
    table.write_bytes(text)
    assert main(["paper", "study", "cardinality", "--runs", str(tmp_path / "r"), "--results", str(tmp_path)]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert table.read_bytes() == text
    assert not (tmp_path / "r").exists()


def test_a_training_error_that_was_not_measured_is_left_out() -> None:
    row = {"data": "cifar10", "network": "1x20d", "seed": "0", "test_error": "30.0", "train_error": "", "minutes": "",
           "images_per_second": "", "macs": "37777152", "parameters": "237858"}  # fmt: skip
    assert describe_network([row], SIZES["small"].networks[0]) == (
        "1x20d", "37.8 M", "0.24 M", "30.00", "–", "1", "–", "–",
    )  # fmt: skip
