"""Recipes: writing and reading are inverse, and errors name what is wrong."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError
from resnext.recipe import (
    dump_recipe,
    find_recipe,
    infer_kind,
    iterate_settings,
    list_differences,
    list_recipes,
    make_absolute,
    parse_command_line_value,
    parse_recipe,
    read_recipe,
    read_recipe_kind,
    replace_places,
    to_dict,
)
from resnext.settings import Recipe, TrainSettings
from resnext.settings_fields import Bounds, FieldSpec, list_fields, list_sections
from resnext.settings_shared import ModelSettings, RecipeBase

RECIPES = list_recipes()


def kind_of(name: str) -> type[Recipe | DetectRecipe]:
    return DetectRecipe if "coco" in name or "bccd" in name else Recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_is_of_its_task_and_refused_by_the_other(name: str) -> None:
    kind = kind_of(name)
    read_recipe(name, kind=kind)
    assert read_recipe_kind(name) == ("detection" if kind is DetectRecipe else "classification")
    with pytest.raises(RequestError, match=r"is a \w+ recipe, not a \w+ recipe; use resnext (detect )?train"):
        read_recipe(name, kind=Recipe if kind is DetectRecipe else DetectRecipe)


def test_a_recipe_is_found_by_its_name_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small" / "digits").mkdir(parents=True)
    assert find_recipe("small/digits") == find_recipe("digits") == RECIPES["small/digits"]
    assert len({path.stem for path in RECIPES.values()}) == len(RECIPES), "so that the family can be left out"
    (tmp_path / "small" / "bccd").write_text("train: {epochs: 7}")
    assert read_recipe("small/bccd").train.epochs == 7
    with pytest.raises(RequestError, match=r"no recipe recipes/small/digits\.yaml; did you mean 'small/digits'"):
        read_recipe("recipes/small/digits.yaml")
    with pytest.raises(RequestError, match="no recipe and no folder digit; did you mean 'digits'"):
        read_recipe("digit")
    with pytest.raises(RequestError, match="no recipe and no folder paper/_imagenet; did you mean"):
        read_recipe("paper/_imagenet")
    with pytest.raises(RequestError, match=r"^small/digits: train\.epochs must be a whole number"):
        read_recipe("digits", {"train.epochs": "many"})


def test_a_recipe_extends_others_setting_by_setting(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text(
        "extends: paper/cifar10-resnet29\ntrain: {epochs: 5, seed: 3}\ninit:\n"
    )
    (tmp_path / "mine.yaml").write_text("train: {epochs: null, steps: 9}\nextends: below/base\naugment:\n")
    found, shipped = read_recipe(tmp_path / "mine.yaml"), read_recipe("paper/cifar10-resnet29")
    assert list_differences(shipped, found) == [
        "train.epochs: 300 -> None",
        "train.steps: None -> 9",
        "train.seed: 0 -> 3",
    ]
    assert read_recipe_kind(tmp_path / "mine.yaml") == "classification"
    assert parse_recipe("extends: paper/cifar10-resnet29") == shipped
    (tmp_path / "detects.yaml").write_text("extends: modern/coco-fpn-1x-resnet50\ndata: {path: x}")
    assert read_recipe_kind(tmp_path / "detects.yaml") == "detection"


@pytest.mark.parametrize(
    ("extends", "says"),
    [
        ("mine", "mine.yaml: extends leads back to "),
        ("loop", "loop.yaml: extends leads back to "),
        ("../mine", "mine.yaml: extends '../mine' must name a recipe beside or below this file"),
        ("/etc/passwd", "mine.yaml: extends '/etc/passwd' must name a recipe beside or below this file"),
        (
            "paper/imagenet-resnet5",
            "mine.yaml: extends 'paper/imagenet-resnet5' is not a recipe; did you mean 'paper/im",
        ),
        ("[a, b]", "mine.yaml: extends must be the name of a recipe, not a list"),
        ("", "mine.yaml: extends must be the name of a recipe, not None"),
        ("broken", "broken.yaml is not valid YAML"),
        ("a" * 5000, "is not a recipe"),
    ],
)
def test_a_recipe_that_cannot_be_extended_is_one_sentence(tmp_path: Path, extends: str, says: str) -> None:
    (tmp_path / "loop.yaml").write_text("extends: mine")
    (tmp_path / "broken.yaml").write_text("{")
    (tmp_path / "mine.yaml").write_text(f"extends: {extends}\ntrain: {{epochs: 3}}")
    with pytest.raises(RequestError) as caught:
        read_recipe(tmp_path / "mine.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (to_dict(Recipe()), "classification"),
        (to_dict(DetectRecipe()), "detection"),
        ({"detector": None}, "detection"),
        ({"data": {"source": "voc"}}, "detection"),
        ({"data": {"source": "folder"}}, "classification"),
        ({"data": {"source": "folder"}, "train": {"stage": "rpn", "proposals": "x"}}, "detection"),
        ({"data": {"min_size": 3}, "train": {"stgae": "rpn"}}, "detection"),  # a slip of the pen beside it
        ({"train": {"epochs": 3}, "model": "resnext50_32x4d", "data": {"source": ["voc"]}}, None),
        ({}, None),
    ],
)
def test_the_task_of_a_recipe_is_that_whose_settings_it_has(values: dict[str, object], kind: str | None) -> None:
    assert infer_kind(values) == kind


def test_what_cannot_be_read_is_of_no_task(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("{")
    assert read_recipe_kind(tmp_path / "r.yaml") is read_recipe_kind(tmp_path / "none.yaml") is None


@pytest.mark.parametrize(
    ("name", "parameters"),  # the paper's Table 7, in millions, without BN
    [("cifar10-resnext29-8x64d", 34.4), ("cifar10-resnext29-16x64d", 68.1), ("cifar100-resnext29-8x64d", 34.4)],
)
def test_the_papers_recipes_train_the_papers_networks(name: str, parameters: float) -> None:
    from resnext.model.complexity import complexity

    recipe = read_recipe(f"paper/{name}")
    cost = complexity(recipe.model.architecture(10, 3))
    assert round(cost.parameters_without_bn / 1e6, 1) == parameters
    optimizer = recipe.optimizer
    assert (optimizer.weight_decay, optimizer.weight_decay_on, optimizer.nesterov) == (5e-4, "all", True)
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.schedule.milestones) == (300, 128, (150, 225))


def values_of(spec: FieldSpec) -> st.SearchStrategy[object]:
    """Draw values that a setting allows."""
    bounds = spec.bounds or Bounds(-1e6)
    low, high = bounds.low, 1e6 if bounds.high is None else bounds.high
    scalars: dict[type, st.SearchStrategy[object]] = {
        bool: st.booleans(),
        int: st.integers(int(low), int(high)),
        float: st.floats(low, high),
        str: st.sampled_from(spec.choices) if spec.choices else st.text(max_size=20),
    }
    one = scalars[spec.type]
    return (st.lists(one, max_size=3) if spec.is_list else one) | (st.none() if spec.is_optional else st.nothing())


@pytest.mark.parametrize("kind", [Recipe, DetectRecipe])
@given(data=st.data())
def test_any_recipe_survives_the_round_trip(kind: type[RecipeBase], data: st.DataObject) -> None:
    specs = {
        f"{name}.{key}": spec for name, cls in list_sections(kind).items() for key, spec in list_fields(cls).items()
    }
    keys = data.draw(st.lists(st.sampled_from(sorted(specs)), max_size=3, unique=True))
    try:
        recipe = parse_recipe("{}", "test", {key: data.draw(values_of(specs[key])) for key in keys}, kind)
    except RequestError:
        assume(False)  # these settings contradict each other
    assert parse_recipe(dump_recipe(recipe), kind=kind) == recipe


@pytest.mark.parametrize(
    ("key", "value", "absolute"),
    [
        ("data.path", "photos", "HERE/photos"),
        ("data.path", "./a/train-{000..127}.tar", "HERE/a/train-{000..127}.tar"),
        ("data.path", "/a/b", "/a/b"),
        ("data.path", "~/photos", "HOME/photos"),
        ("data.val_path", "s3://bucket/val-*.tar", "s3://bucket/val-*.tar"),
        ("data.classes", "imagenet", "imagenet"),
        ("data.classes", "names.txt", "HERE/names.txt"),
        ("init.weights", "hf://owner/name", "hf://owner/name"),
        ("init.weights", "runs/a", "HERE/runs/a"),
        ("train.checkpoint_url", "copies", "HERE/copies"),
        ("train.tuning_plan", "p.json", "HERE/p.json"),
        ("train.proposals", "runs/rpn", "HERE/runs/rpn"),
    ],
)
def test_places_become_absolute_and_names_of_something_elsewhere_stay(
    key: str, value: str, absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    kind = DetectRecipe if key == "train.proposals" else Recipe
    more = {"data.source": "webdataset"} if key.startswith("data.") else {}
    more |= {"train.stage": "fast_rcnn"} if kind is DetectRecipe else {}
    recipe = parse_recipe("{}", "test", {key: value, **more}, kind)
    changed = replace_places(recipe, make_absolute)
    absolute = absolute.replace("HERE", str(Path.cwd())).replace("HOME", "/home/me")
    assert dict(iterate_settings(changed))[key] == absolute
    assert {line.partition(":")[0] for line in list_differences(recipe, changed)} <= {key, "data.path"}
    assert replace_places(changed, make_absolute) == changed


def test_a_pattern_of_groups_is_no_path_and_a_file_of_groups_is() -> None:
    for group, expected in ((r"^a/b(\d+)", r"^a/b(\d+)"), ("groups.csv", "/there/groups.csv")):
        recipe = parse_recipe("", overrides={"data.source": "folder", "data.path": "x", "data.group": group})
        assert replace_places(recipe, lambda key, place: f"/there/{place}").data.group == expected


def test_every_setting_that_is_a_path_says_so() -> None:
    places = {
        f"{name}.{spec.name}"
        for kind in (Recipe, DetectRecipe)
        for name, section in list_sections(kind).items()
        for spec in list_fields(section).values()
        if spec.is_place
    }
    assert places == {
        *("init.weights", "distill.weights", "data.path", "data.val_path", "data.classes"),
        "data.group",  # unless it is a pattern
        *("train.checkpoint_url", "train.tuning_plan", "train.proposals"),
    }  # data.train, data.val and their images lie below data.path


@pytest.mark.parametrize("path", ["a\x85b", "a\u2028b", "Fotos/Grüße", "写真"])
def test_a_path_with_any_letter_survives_the_round_trip(path: str) -> None:
    recipe = parse_recipe("{}", "test", {"data.path": path})
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert (path in dump_recipe(recipe)) == path.isprintable()


@given(st.text(max_size=200))
def test_no_text_ends_in_anything_but_a_recipe_or_one_clear_error(text: str) -> None:
    try:
        assert isinstance(parse_recipe(text), Recipe)
    except RequestError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {epoch: 3}", "unknown setting train.epoch; did you mean 'epochs'"),
        ("trian: {epochs: 3}", "unknown setting trian; did you mean 'train'"),
        ("train: {lr: 0.1}", "did you mean optimizer.lr"),
        ("train: {epochs: many}", "train.epochs must be a whole number, not 'many'"),
        ("train: {epochs: true}", "train.epochs must be a whole number"),
        ("train: {epochs: 0}", "train.epochs must be at least 1, not 0"),
        ("optimizer: {nesterov: 1}", "optimizer.nesterov must be true or false"),
        ("optimizer: {lr: .nan}", "optimizer.lr must be a finite number"),
        ("optimizer: {name: sdg}", "optimizer.name 'sdg' is unknown; did you mean 'sgd'"),
        ("schedule: {milestones: 30}", "schedule.milestones must be a list"),
        ("schedule: {milestones: [60, 30]}", "must increase"),
        ("schedule: {name: cosine, milestones: [30]}", "belong to schedule.name step"),
        ("train: {epochs: 2, epochs: 3}", "'epochs' is given twice"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("train: [1]", "train must hold settings, not a list"),
        ("- 1", "must hold sections"),
        ("train: {batch_size: 10, bn_batch_size: 3}", "train.bn_batch_size 3 does not divide train.batch_size 10"),
        (
            "train: {batch_size: 16, bn_batch_size: 8, sync_bn: true}",
            "so it cannot be combined with train.bn_batch_size",
        ),
        ("train: {epochs: 2, steps: 9}", "train.epochs 2 and train.steps 9 both set the length of the run: give one"),
        ("train: {bce_threshold: 0.2}", "train.bce_threshold belongs to train.loss bce"),
        ("train: {ema_steps: 32}", "train.ema_steps 32 needs an average"),
        ("train: {grad_clip_norm: 0}", "train.grad_clip_norm 0 sets all gradients to 0"),
        ("train: {ema_decay: 1}", "train.ema_decay 1 never changes the average"),
        ("augment: {trivial_augment: true, rand_augment: rand-m7}", "exclude each other: give one"),
        ("data: {val_path: x}", "data.val_path belongs to data.source imagenet, "),
        ("data: {source: imagenet, classes: names.txt}", "data.classes belongs to data.source webdataset, parquet"),
        ("data: {mean: [0.5]}", "data.mean and data.std must be given together"),
        ("data: {val_fraction: 0.2}", "digits has its own held-out images"),
        ("init: {freeze: conv3}", "init.freeze conv3 is about loaded weights"),
        ("init: {frozen_bn: true}", "init.frozen_bn true is about loaded weights"),
        ("init: {weights: w.pth, layer_decay: 0}", "init.layer_decay must be from 0.0001 to 1, not 0"),
        ("extend: digits", "unknown setting extend; did you mean 'extends'"),
        ("optimizer: {lr: null}", "optimizer.lr needs a finite number, not an empty value"),
        ("optimizer: {betas: [0.9, many]}", "optimizer.betas must be a finite number, not 'many'"),
        ("optimizer: {name: no}", "optimizer.name must be a word, not False"),
        ("{", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_one_sentence_that_names_the_key(text: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_recipe(text, "my.yaml")
    assert says in str(caught.value)
    assert str(caught.value).startswith("my.yaml")


def test_detection_measures_nothing_at_the_start() -> None:
    with pytest.raises(RequestError, match=r"train\.fast 'auto' is unknown; choose from yes, no"):
        parse_recipe("train: {fast: auto}", kind=DetectRecipe)


def test_a_recipe_without_a_network_or_weights_is_told_what_to_give() -> None:
    with pytest.raises(RequestError, match=r"give model\.name, such as resnext50_32x4d, or .*init\.weights"):
        parse_recipe("model: {base_channels: 16}").model.architecture(10, 3)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("schedule.milestones", "30,60,90", (30.0, 60.0, 90.0)),
        ("schedule.milestones", "[30, 60]", (30.0, 60.0)),
        ("schedule.milestones", "30", (30.0,)),
        ("model.blocks", "1,2,1", (1, 2, 1)),
        ("data.path", "2024", "2024"),
        ("data.path", "null", None),
        ("init.weights", "2024", "2024"),
        ("init.weights", "hf://owner/name@main", "hf://owner/name@main"),
        ("train.channels_last", "yes", "yes"),
        ("optimizer.lr", "1e-3", 0.001),
        ("optimizer.lr", "1", 1.0),
        ("optimizer.nesterov", "false", False),
    ],
)
def test_values_on_the_command_line(key: str, text: str, value: object) -> None:
    recipe = parse_recipe("{}", "test", {key: parse_command_line_value(key, text)})
    assert dict(iterate_settings(recipe))[key] == value


@pytest.mark.parametrize("kind", [Recipe, DetectRecipe])
def test_every_section_and_setting_has_a_sentence(kind: type[RecipeBase]) -> None:
    for section in fields(kind):
        assert section.metadata["help"].endswith("."), section.name
        assert f"\n{section.name}: " in inspect.cleandoc(str(kind.__doc__))
        for spec in list_fields(list_sections(kind)[section.name]).values():
            assert spec.help.endswith("."), f"{section.name}.{spec.name}"


def test_an_annotation_says_type_choices_and_bounds() -> None:
    specs = list_fields(TrainSettings)
    assert (specs["epochs"].type, specs["epochs"].bounds, specs["epochs"].is_optional) == (int, Bounds(1), True)
    assert specs["batch_size"].bounds == Bounds(2), "its own, not RunSettings'"
    assert specs["drop_path"].bounds == Bounds(0, 0.99)
    assert (specs["fast"].choices, specs["fast"].default) == (("auto", "yes", "no"), "auto")
    blocks = list_fields(ModelSettings)["blocks"]
    assert (blocks.type, blocks.is_list, blocks.is_optional) == (int, True, True)


@pytest.mark.parametrize(("word", "said"), [("yes", "yes"), ("no", "no"), ("'no'", "no"), ("true", "yes")])
def test_yes_and_no_need_no_quotes_and_mean_the_same_in_both_kinds_of_recipe(word: str, said: str) -> None:
    text = f"train: {{fast: {word}, channels_last: {word}}}"
    for kind in (Recipe, DetectRecipe):
        train = parse_recipe(text, kind=kind).train
        assert train.fast == train.channels_last == said


def test_a_missing_recipe_names_its_neighbour(tiny_recipe: Path) -> None:
    with pytest.raises(RequestError, match=r"tiny\.yaml"):
        read_recipe(tiny_recipe.with_name("tinny.yaml"))
