"""The rows' recipes: networks and schedules are the paper's, steps run at toy size, devices do not matter."""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from resnext.data.dataset import ArrayDataset
from resnext.data.loader import TrainLoader
from resnext.data.transforms.crops import to_tensor
from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError
from resnext.paper.numbers import Row, get_table, load_tables
from resnext.paper.row_recipes import list_table_recipes, read_row_recipe
from resnext.paper.run import make_toy_overrides
from resnext.recipe import list_recipes
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe
from resnext.sources import SOURCES
from resnext.training.classification import Classification, State
from resnext.training.distributed import init_distributed
from resnext.training.loop import run_training
from resnext.training.schedule import compute_learning_rate
from resnext.training.step import count_micro_batches

EVERY = [
    path.stem
    for name, path in list_recipes().items()
    if not name.startswith("small/") and "/coco-" not in name and name != "modern/finetune"
]
each_recipe = pytest.mark.parametrize("name", EVERY)


def read(name: str, overrides: Mapping[str, Any] | None = None, schedule: str = "printed") -> Recipe:
    recipe = read_row_recipe(name, overrides, schedule)
    assert isinstance(recipe, Recipe)
    return recipe


@pytest.fixture(autouse=True)
def _threads_as_they_were() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_row_that_can_be_trained_has_a_recipe() -> None:
    for name in (*(f"table{n}" for n in (1, 3, 4, 5, 6, 7, 8)), "figure5", "figure6", "figure7", "residual"):
        for row in get_table(name).rows:
            assert row.recipe is not None or row.family, f"{name} {row.key}"
    used = {r.recipe for t in load_tables().values() for r in t.rows if r.recipe}
    assert set(EVERY) == {name for name in used if not name.startswith("coco-")}


@pytest.mark.parametrize(("name", "row"), [(t.name, r) for t in load_tables().values() for r in t.rows if r.recipe])
def test_a_recipe_trains_its_rows_network(name: str, row: Row) -> None:
    recipe, architecture = read_row_recipe(str(row.recipe)), row.architecture()
    assert architecture is not None
    classes = (
        architecture.num_classes if isinstance(recipe, DetectRecipe) else SOURCES[recipe.data.source].facts.classes
    )
    assert recipe.model.architecture(classes, 3) == architecture.change(num_classes=classes), name


def test_imagenet_recipes_are_the_releases() -> None:
    r = read("imagenet-resnext101-64x4d")
    assert (r.train.epochs, r.train.batch_size, r.train.bn_batch_size, r.train.drop_last) == (100, 256, 32, False)
    assert (r.optimizer.lr, r.optimizer.weight_decay, r.optimizer.weight_decay_on) == (0.1, 1e-4, "all")
    assert (r.optimizer.nesterov, r.optimizer.momentum, r.train.label_smoothing) == (True, 0.9, 0.0)
    assert r.schedule.milestones == (30, 60, 90)
    a = r.augment
    assert (a.crop, a.color_jitter, a.lighting, a.flip) == ("paper_imagenet", 0.4, 0.1, 0.5)
    rates = [compute_learning_rate(r.schedule, 0.1, 500_500, 5005, 5005 * epoch) for epoch in (0, 29, 30, 60, 90, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4, 1e-4])


def test_imagenet5k_counts_mini_batches_as_figure_6_does() -> None:
    r = read("imagenet5k-resnet50")
    assert (r.train.steps, r.train.epochs, r.schedule.milestone_unit) == (529_200, None, "steps")
    for step, rate in ((158_759, 0.1), (158_760, 0.01), (317_520, 1e-3), (476_280, 1e-4), (529_199, 1e-4)):
        assert compute_learning_rate(r.schedule, 0.1, 529_200, 26_461, step) == pytest.approx(rate)


def test_cifar_has_the_printed_schedule_and_the_released_one() -> None:
    assert read("cifar10-resnext29-8x64d").schedule.milestones == (150, 225)
    released = read("cifar10-resnext29-8x64d", schedule="released")
    steps = 391  # a pass over 50,000 images
    for epoch in range(1, 301):  # the release's train.lua: 0.1^(2, 1 or 0) by epoch / 300 > 0.74, > 0.49
        decay = 2 if epoch / 300 > 0.74 else 1 if epoch / 300 > 0.49 else 0
        rate = compute_learning_rate(released.schedule, 0.1, 300 * steps, steps, (epoch - 1) * steps)
        assert rate == pytest.approx(0.1 * 0.1**decay), epoch
    with pytest.raises(RequestError, match="one schedule"):
        read("imagenet-resnet50", schedule="released")
    with pytest.raises(RequestError, match="one schedule"):
        read("cifar10-wrn28-10", schedule="released")


def test_torchvisions_average_is_as_fast_as_its_train_py_makes_it() -> None:
    for name in ("torchvision-resnext50-32x4d", "torchvision-resnext101-64x4d"):
        r = read(name)
        adjust = 8 * 128 * 32 / 600  # world size, batch of a GPU, steps between updates, epochs
        assert r.train.ema_decay == pytest.approx(1 - min(1.0, (1 - 0.99998) * adjust), abs=5e-7)
        assert (r.train.ema_steps, r.optimizer.lr, r.augment.size) == (32, 0.5, 176)
        assert compute_learning_rate(r.schedule, 0.5, 600 * 1252, 1252, 0) == pytest.approx(0.005)


def test_rsb_warms_up_from_1e_4_and_ends_at_1e_6() -> None:
    for name, peak in (("a1", 5e-3), ("a3", 8e-3)):
        r = read(f"rsb-{name}-resnext50-32x4d")
        total = (r.train.epochs or 0) * 625
        assert compute_learning_rate(r.schedule, peak, total, 625, 0) == pytest.approx(1e-4)
        assert compute_learning_rate(r.schedule, peak, total, 625, 5 * 625) == pytest.approx(peak)
        assert compute_learning_rate(r.schedule, peak, total, 625, total) == pytest.approx(1e-6)


def test_rows_with_recipes_are_listed_for_cost() -> None:
    assert [key for key, _ in list_table_recipes("table4")] == [row.key for row in get_table("table4").rows]
    assert list_table_recipes("table8") == []


# ---------------------------------------------------------------------------------------------------------------------
# Any number of devices


@each_recipe
def test_rate_and_batches_are_the_same_on_any_number_of_devices(name: str) -> None:
    """The indices of all devices together are the order of one device, so steps and learning rates agree too."""
    r = read(name)
    left = (SOURCES[r.data.source].facts.train_images or 0) % r.train.batch_size
    images = np.zeros((2 * r.train.batch_size + left, 1, 1, 3), dtype=np.uint8)
    data = ArrayDataset("black", ("a", "b"), 3, images, np.zeros(len(images), dtype=np.int64))

    def seen(world: int) -> list[list[int]]:
        loaders = [
            TrainLoader(
                data, to_tensor, seed=0, batch_size=r.train.batch_size, drop_last=r.train.drop_last,
                repeats=r.augment.repeated_augmentation, workers=0, rank=rank, world_size=world,
            )
            for rank in range(world)
        ]  # fmt: skip
        parts = zip(*(loader.batches(0) for loader in loaders), strict=True)
        return [[index for part in together for index in part.indices.tolist()] for together in parts]

    alone = seen(1)
    assert all(len(batch) == r.train.batch_size for batch in alone[:2])
    for world in (2, 4, 8):
        assert seen(world) == alone
        share = r.train.batch_size // world
        assert share % (r.train.bn_batch_size or share) == 0, "BN's parts fit a device's share"
        assert count_micro_batches(r, world) * world == count_micro_batches(r, 1) or r.train.bn_batch_size is None
    assert math.isclose(rate(r, len(alone)), rate(r, len(seen(8))))


def rate(r: Recipe, steps_per_epoch: int) -> float:
    total = r.train.total_steps(steps_per_epoch)
    return compute_learning_rate(r.schedule, r.optimizer.lr, total, steps_per_epoch, total // 2)


# ---------------------------------------------------------------------------------------------------------------------
# Toy size


@each_recipe
def test_two_steps_of_every_recipe_run_at_toy_size(name: str, tmp_path: Path) -> None:
    full = read(name)
    small = read(name, make_toy_overrides(full, tmp_path, {}))
    assert small.model.architecture(4, 3).blocks == full.model.architecture(4, 3).blocks
    assert small.model.architecture(4, 3).cardinality == full.model.architecture(4, 3).cardinality
    assert (small.optimizer.name, small.train.loss, small.schedule.name) == (
        full.optimizer.name, full.train.loss, full.schedule.name,
    )  # fmt: skip
    task, state = begun(small, tmp_path / "run")
    batches = state.loader.batches(0)
    before = [p.detach().clone() for p in state.model.parameters()]
    losses = [task.step(state, next(batches), state.learning_rate_at(state.position.step)).loss for _ in range(2)]
    assert state.position.step == 2
    assert all(math.isfinite(loss) for loss in losses)
    moved = [not torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True)]
    assert all(moved) if name.startswith("imagenet") else any(moved)


def begun(recipe: Recipe, path: Path) -> tuple[Classification, State]:
    run = RunDirectory(path)
    run.path.mkdir()
    task = Classification(recipe)
    with init_distributed("cpu") as world:
        return task, task.build(recipe, run, world, False, Console(file=io.StringIO()))


@pytest.mark.slow
@each_recipe
def test_every_recipe_trains_to_its_end_at_toy_size(name: str, tmp_path: Path) -> None:
    recipe, run = read(name, make_toy_overrides(read(name), tmp_path, {})), RunDirectory(tmp_path / "run")
    run.path.mkdir()
    position = run_training(Classification, recipe, run, console=Console(file=io.StringIO()))
    assert position.step == 4
    assert run.report.exists()


def test_what_is_given_by_hand_wins_over_toy_size(tmp_path: Path) -> None:
    small = make_toy_overrides(read("imagenet-resnet50"), tmp_path, {"train.steps": 2, "data.path": "/mine"})
    assert (small["train.steps"], small["data.path"]) == (2, "/mine")
    assert "data.source" not in small, "one's own data is read by the recipe's source"
    assert not (tmp_path / "toy-images").exists()
