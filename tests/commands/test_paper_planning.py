"""``resnext paper cost`` and ``resnext paper feed``, called through their own parsers."""

import argparse
import csv
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from resnext.cli import Parser
from resnext.commands import paper_cost, paper_feed
from resnext.errors import RequestError
from resnext.paper.numbers import load_tables
from resnext.paper.row_recipes import list_table_recipes
from resnext.planning.cost import estimate_cost
from resnext.planning.machines import parse_cluster

CIFAR = "paper/cifar10-resnext29-8x64d"


def parsed(command: ModuleType, *words: str) -> argparse.Namespace:
    parser = Parser(prog="resnext paper", allow_abbrev=False)
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_cost_prints_a_line_for_each_run_and_says_how_sure_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    args = parsed(paper_cost, "--network", "resnet50", "--recipe", CIFAR, "--machine", "8xH100", "--image-size", "32")
    assert paper_cost.run(args) == 0
    said = capsys.readouterr().out
    assert "resnet50" in said
    assert "cifar10-re" in said
    assert "38%" in said
    assert "extrapolated: the fit has no training speed of H100" in said


def test_a_table_is_its_rows_recipes() -> None:
    runs = paper_cost.collect_jobs(parsed(paper_cost, "table7"))
    assert [one.name for one in runs][:2] == ["wrn/c10", "8x64d/c10"]
    assert runs[1].images == 300 * 50_000
    assert runs[1].architecture.num_classes == 10
    assert (runs[1].image_size, runs[1].precision) == (32, "fp32")


@pytest.mark.parametrize("table", [name for name in load_tables() if list_table_recipes(name)])
def test_every_row_of_the_paper_has_a_cost(table: str) -> None:
    runs = paper_cost.collect_jobs(parsed(paper_cost, table))
    assert [one.name for one in runs] == [name for name, _ in list_table_recipes(table)]
    assert all(paper_cost.estimate_job(one, parse_cluster("8xA100"), None, 0.0).gpu_hours > 0 for one in runs)


def test_a_run_of_steps_is_counted_in_steps(tmp_path: Path) -> None:
    path = tmp_path / "steps.yaml"
    path.write_text(
        "model: {name: resnext50_32x4d}\ndata: {source: imagenet5k, path: x}\ntrain: {steps: 500, batch_size: 64}\n"
        "augment: {size: 176}\n"
    )
    (one,) = paper_cost.collect_jobs(parsed(paper_cost, "--recipe", str(path)))
    assert (one.images, one.image_size, one.architecture.num_classes) == (500 * 64, 176, 5000)


def test_a_network_is_trained_as_the_paper_trains_it() -> None:
    words = ("--network", "resnext101_64x4d", "--machine", "8xA100")
    (one,) = paper_cost.collect_jobs(parsed(paper_cost, *words))
    assert (one.images, one.batch_size) == (128_116_700, 256)
    found = paper_cost.estimate_job(one, parse_cluster("8xA100"), None, 0.0)
    assert found == estimate_cost("resnext101_64x4d", 224, 128_116_700, parse_cluster("8xA100"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "nothing to estimate"),
        (("--network", "resnet50", "--machine", "8xH10"), "H100"),
        (("--network", "resnet50", "--cores", "0"), "--cores 0 must be above 0"),
        (("--network", "resnet50", "--decode-ms", "nan"), "--decode-ms"),
        (("--network", "resnet50", "--epochs", "-1"), "--epochs"),
        (("--network", "resnet50", "--machine", "7xA100"), "is not divisible"),
        (("--network", "resnet51x",), "resnet51x"),
        (("--recipe", "nowhere.yaml"), "nowhere.yaml"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_estimated_are_refused(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        paper_cost.run(parsed(paper_cost, *words))


def test_a_recipe_for_a_folder_needs_the_number_of_images(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("model: {name: resnet50}\ndata: {source: folder, path: x}\n")
    with pytest.raises(RequestError, match="give --images"):
        paper_cost.run(parsed(paper_cost, "--recipe", str(path)))
    (one,) = paper_cost.collect_jobs(parsed(paper_cost, "--recipe", str(path), "--images", "900"))
    assert one.images == 100 * 900


def test_feed_answers_and_writes_a_picture_with_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--machine", "2xV100", "--cores", "3", "--bandwidth", "1GB/s", "--out", str(tmp_path / "new" / "feed"))
    assert paper_feed.run(parsed(paper_feed, *words)) == 0
    said = capsys.readouterr().out
    for word in ("cores", "storage", "shards", "with 3 cores per host"):
        assert word in said
    stem = tmp_path / "new" / "feed" / "2xV100-resnext50_32x4d"
    with Image.open(f"{stem}.png") as picture:
        assert picture.width > 600
    with Path(f"{stem}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    speeds = [float(row["images_per_second"]) for row in rows]
    assert speeds[0] < speeds[-1] <= float(rows[0]["demand_images_per_second"]) + 0.1
    assert "3" in [row["cores_a_host"] for row in rows]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--bandwidth", "fast"), "not a bandwidth"),
        (("--bandwidth", "1MB/s"), "cannot feed"),
        (("--latency-ms", "-1"), "--latency-ms"),
        (("--machine", "0xV100"), "0 devices"),
        (("--image-kb", "0"), "--image-kb"),
    ],
)  # fmt: skip
def test_feeds_that_cannot_be_are_refused(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=says):
        paper_feed.run(parsed(paper_feed, *words, "--out", str(tmp_path)))
    assert not list(tmp_path.iterdir())
