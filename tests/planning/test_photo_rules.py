"""The rules that choose a run's settings for a folder of photos: tables, and properties over many folders."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity
from resnext.planning.photo_rules import (
    Processor,
    StartWeights,
    choose_settings,
    count_training_macs,
    estimate_cost,
    list_warnings,
)
from resnext.planning.photo_survey import PhotoSurvey
from resnext.recipe import parse_recipe
from resnext.settings import Recipe

TWO_CORES = Processor(threads=2, cores=2)
RESNEXT50 = StartWeights("hf://timm/resnext50", Architecture.parse("resnext50_32x4d"))


def survey(pictures: int = 410, classes: int = 4, side: int = 256, **changes: Any) -> PhotoSurvey:
    """A folder of ``pictures`` evenly spread over ``classes``."""
    counts = {f"class{number}": pictures // classes + (number < pictures % classes) for number in range(classes)}
    facts = {
        "folder": "photos", "classes": counts, "held_out_folder": "", "held_out": 0, "sampled": 64,
        "shorter_side": side, "megapixels": side * side * 1.5 / 1e6, "is_grey": False, "is_jpeg": True,
    }  # fmt: skip
    return PhotoSurvey(**facts | changes)


def choose(
    found: PhotoSurvey, weights: StartWeights | None = None, processor: Processor = TWO_CORES, **settings: Any
) -> dict[str, Any]:
    """The chosen settings by key; a keyword such as train__epochs gives train.epochs."""
    asked = {key.replace("__", "."): value for key, value in settings.items()}
    return {choice.key: choice.value for choice in choose_settings(found, processor, weights, asked)}


def make_recipe(chosen: dict[str, Any]) -> Recipe:
    return parse_recipe("", "the plan", chosen)


def estimate_minutes(found: PhotoSurvey, weights: StartWeights | None = None) -> float:
    recipe = make_recipe(choose(found, weights))
    architecture = weights.architecture if weights else recipe.model.architecture(len(found.classes), 3)
    return estimate_cost(recipe, found, TWO_CORES, architecture).seconds / 60


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (survey(410), {"data.val_fraction": 0.2, "train.batch_size": 32, "model.stem": "imagenet"}),
        (survey(60), {"data.image_size": 128, "train.epochs": 100, "train.batch_size": 8}),
        (survey(5_000), {"data.val_fraction": 0.1, "data.image_size": 64, "train.batch_size": 64}),
        (survey(30_000), {"data.val_fraction": 0.05, "train.epochs": 12}),
        (survey(410, side=32), {"model.name": "resnext20_4x8d", "data.image_size": 32, "augment.crop": "pad"}),
        (survey(410, side=20), {"data.image_size": 16}),
        (survey(410, side=8), {"data.image_size": 16}),
        (survey(410, side=3000), {"data.jpeg_decoder": "fast"}),
        (survey(410, is_grey=True), {"data.channels": 1}),
    ],
)
def test_the_choices_follow_the_folder(found: PhotoSurvey, expected: dict[str, Any]) -> None:
    chosen = choose(found)
    assert {key: chosen.get(key) for key in expected} == expected
    make_recipe(chosen)


def test_a_folder_with_splits_gets_no_share() -> None:
    chosen = choose(survey(held_out_folder="val", held_out=80))
    assert "data.val_fraction" not in chosen


@pytest.mark.parametrize(
    ("names", "flip"),
    [(("left turn", "Right turn"), 0.0), (("a", "b", "7"), 0.0), (("a", "bee"), 0.5), (("cat", "dog"), 0.5)],
)
def test_pictures_are_mirrored_unless_class_names_speak_against_it(names: tuple[str, ...], flip: float) -> None:
    assert choose(replace(survey(), classes=dict.fromkeys(names, 50)))["augment.flip"] == flip


@given(
    pictures=st.integers(60, 5_000),
    classes=st.integers(2, 20),
    side=st.sampled_from((24, 40, 70, 100, 150, 256, 500)),
)
def test_a_run_from_scratch_takes_about_four_minutes_at_most(pictures: int, classes: int, side: int) -> None:
    assert estimate_minutes(survey(pictures, classes, side)) < 4.5


def test_more_pictures_get_fewer_epochs_and_longer_runs() -> None:
    many = [survey(count) for count in (410, 2_000, 5_000, 20_000, 50_000)]
    minutes = [estimate_minutes(found) for found in many]
    assert minutes[-1] > minutes[-2] > minutes[-3]
    assert choose(many[-1])["train.epochs"] < choose(many[0])["train.epochs"]


@given(
    pictures=st.integers(4, 2_000_000),
    classes=st.integers(2, 50),
    side=st.integers(1, 5_000),
    grey=st.booleans(),
    jpeg=st.booleans(),
    weights=st.sampled_from((None, RESNEXT50)),
    threads=st.integers(1, 64),
    gpu=st.booleans(),
)
def test_every_plan_is_a_valid_recipe(
    pictures: int,
    classes: int,
    side: int,
    grey: bool,
    jpeg: bool,
    weights: StartWeights | None,
    threads: int,
    gpu: bool,
) -> None:
    found = survey(max(pictures, 2 * classes), classes, side, is_grey=grey, is_jpeg=jpeg)
    recipe = make_recipe(choose(found, weights, Processor(threads, threads, gpu)))
    train_images = found.pictures * (1 - recipe.data.val_fraction)
    assert recipe.train.batch_size <= max(8, train_images)
    assert recipe.data.channels == (1 if grey else None)
    assert grey <= (recipe.augment.color_jitter == 0)  # grey images have no colours to change
    assert (recipe.model.name is None) == (weights is not None)


def test_weights_are_fine_tuned_with_frozen_stages_on_a_cpu_and_whole_on_a_gpu() -> None:
    on_cpu = choose(survey(410), RESNEXT50)
    on_gpu = choose(survey(410), RESNEXT50, Processor(8, 8, gpu=True))
    assert (on_cpu["init.weights"], on_cpu["init.freeze"]) == ("hf://timm/resnext50", "conv4")
    assert on_cpu["data.image_size"] < on_gpu["data.image_size"] == 224
    assert "init.freeze" not in on_gpu
    assert (on_gpu["init.layer_decay"], on_gpu["train.precision"]) == (0.8, "bf16")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"train__epochs": 3}, {"train.epochs": 3}),
        ({"train__epochs": 1}, {"schedule.warmup_epochs": None}),
        ({"train__steps": 50}, {"train.epochs": None, "train.steps": 50}),
        ({"data__image_size": 80}, {"data.image_size": 80}),
        ({"model__name": "resnext29_8x64d"}, {"model.name": "resnext29_8x64d", "model.blocks": None}),
        ({"optimizer__name": "adamw"}, {"optimizer.lr": 0.001}),
        ({"train__batch_size": 64}, {"optimizer.lr": 0.1}),
        ({"augment__crop": "pad"}, {"augment.min_area": None}),
        ({"train__seed": 7}, {"train.seed": 7}),
        ({"data__val_fraction": 0.4}, {"data.val_fraction": 0.4}),
    ],
)
def test_given_settings_win_and_the_others_follow_them(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    chosen = choose(survey(410), **asked)
    assert {key: chosen.get(key) for key in expected} == expected
    make_recipe(chosen)


def test_training_costs_three_forward_passes_less_the_backward_ones_of_frozen_stages() -> None:
    network = Architecture.parse("resnext50_32x4d", num_classes=10)
    forward = complexity(network, 224).macs
    assert count_training_macs(network, 224, None) == 3 * forward
    head = 2048 * 10
    assert count_training_macs(network, 224, "features") == forward + 2 * head
    assert (
        forward < count_training_macs(network, 224, "conv4") < count_training_macs(network, 224, "stem") < 3 * forward
    )


def test_classes_of_very_unequal_size_are_shown_equally_often() -> None:
    uneven = replace(survey(), classes={"cat": 500, "dog": 50, "bee": 70})
    assert choose(uneven)["data.sampling"] == "balanced"
    (choice,) = [one for one in choose_settings(uneven, TWO_CORES, None, {}) if one.key == "data.sampling"]
    assert choice.reason == "all classes are shown equally often, or the model would rarely answer dog"
    assert "data.sampling" not in choose(replace(survey(), classes={"cat": 500, "dog": 51}))
    assert choose(uneven, data__sampling="uniform")["data.sampling"] == "uniform"
    weighted = choose(uneven, data__class_weights="balanced")
    assert "data.sampling" not in weighted
    make_recipe(choose(uneven))
    make_recipe(weighted)


def test_the_time_that_is_given_is_what_the_plan_fills() -> None:
    """Longer: larger images or more epochs; shorter: fewer epochs."""
    short, long = (choose(survey(2_000), train__max_time=time) for time in ("60 s", "2 h"))
    usual = choose(survey(2_000))

    def work(chosen: dict[str, Any]) -> int:
        return int(chosen["data.image_size"]) ** 2 * int(chosen["train.epochs"])

    assert work(short) <= work(usual) < work(long)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"cat": 500, "dog": 20}, "cat has 500 pictures, dog only 20"),
        ({"cat": 30, "dog": 12}, "dog has only 12 pictures"),
        ({"cat": 80, "dog": 60}, None),
    ],
)
def test_few_and_uneven_pictures_are_named(counts: dict[str, int], says: str | None) -> None:
    warnings = list(list_warnings(replace(survey(), classes=counts)))
    assert says in warnings[0] if says else not warnings
