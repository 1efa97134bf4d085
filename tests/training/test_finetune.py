"""Fine-tuning: what is loaded, what is frozen, and that a resumed run no longer needs the initial weights."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from rich.console import Console
from torch import nn

from resnext.cli import main
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, WorkError
from resnext.model.network import Network, create_model
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory, open_run_directory, read_last_step
from resnext.settings_shared import InitSettings, ModelSettings, OptimizerSettings
from resnext.training.checkpoint import write_checkpoint
from resnext.training.classification import Classification, State
from resnext.training.finetune import (
    check_architecture,
    freeze,
    group_modules_by_stage,
    lr_multipliers,
    set_training_mode,
)
from resnext.training.optimizer import build_optimizer, set_learning_rate
from resnext.training.outputs import evaluate_held_out
from resnext.training.state import SavedState
from resnext.weights import load
from resnext.weights.native import save
from tests.training.helpers import build_task, cut_off_before, read_changed, train, write_photos
from tests.training.test_resume import assert_same_end

Begin = Callable[..., tuple[Classification, State]]
THEIRS = Preprocessing(image_size=24, resize=28, interpolation="bilinear", mean=(0.4,), std=(0.3,), channels=1)


def make_tiny_network(**changes: Any) -> Network:
    """A network with the statistics and classes of one that was trained on digits."""
    fields = {"base_channels": 4, "num_classes": 10, "in_channels": 1} | changes
    model = create_model("resnext11_2x4d", seed=7, **fields)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    model.classes, model.preprocessing = tuple("0123456789"), THEIRS
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save(make_tiny_network(), tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


@pytest.fixture
def begin(tiny_recipe: Path, weights: Path, tmp_path: Path) -> Begin:
    """Build the task and state of the tiny recipe from the weights, with changes such as ``init__freeze="conv2"``."""

    def prepared(**changes: Any) -> tuple[Classification, State]:
        return build_task(tiny_recipe, tmp_path / "run", **{"init__weights": str(weights), **changes})

    return prepared


def train_steps(task: Classification, state: State, count: int = 2, lr: float = 0.05) -> list[float]:
    batches = state.loader.batches(0)
    return [task.step(state, next(batches), lr).loss for _ in range(count)]


def copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed_names(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def is_below(name: str, *parts: str) -> bool:
    return name.split(".")[0] in parts


# What starts from the weights


def test_a_network_the_recipe_does_not_name_is_that_of_the_weights(
    begin: Begin, weights: Path, tiny_recipe: Path
) -> None:
    text = tiny_recipe.read_text().replace("model: {name: resnext11_2x4d, base_channels: 4}\n", "")
    tiny_recipe.write_text(text)
    _, state = begin()
    assert state.model.architecture == make_tiny_network().architecture
    assert changed_names(state.model, load(weights).state_dict()) == set()
    assert changed_names(state.ema.model, load(weights).state_dict()) == set()


def test_another_form_starts_as_the_same_function(begin: Begin, weights: Path) -> None:
    _, state = begin(model__form="branched", model__initialisation="zero_gamma")
    images = torch.randn(2, 1, 8, 8)
    assert state.model.architecture.form == "branched"
    torch.testing.assert_close(state.model.eval()(images), load(weights)(images), rtol=1e-4, atol=1e-5)


def test_colours_and_filter_follow_the_weights_unless_said(begin: Begin) -> None:
    p = begin(data__interpolation="bicubic")[1].model.preprocessing
    assert (p.mean, p.std, p.interpolation, p.image_size) == (THEIRS.mean, THEIRS.std, "bicubic", 8)


def test_weights_of_pictures_that_were_not_turned_upright_are_noted(begin: Begin, weights: Path) -> None:
    model = make_tiny_network()
    model.preprocessing = replace(THEIRS, exif=False)
    save(model, weights)
    _, state = begin()
    assert state.model.preprocessing.exif
    assert "photographs are opened with data.exif True, no longer False" in state.model.provenance["init"]["notes"]


def test_a_folder_of_other_classes_and_colours_gets_a_new_head_and_stem(
    begin: Begin, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(model := make_tiny_network(), weights)
    folder = write_photos(tmp_path / "photos", "3", "9", "ten", count=8)
    changes = {"data__source": "folder", "data__path": str(folder), "data__val_fraction": 0.3, "train__batch_size": 4}
    task, state = begin(console=Console(width=200), **changes)
    fc = state.model.fc
    assert state.model.classes == ("3", "9", "ten")
    assert torch.equal(fc.weight[:2], model.fc.weight[[3, 9]])
    assert tuple(state.model.conv1.weight.shape) == (4, 3, 3, 3)
    p = state.model.preprocessing
    assert (p.image_size, p.resize, p.interpolation, p.mean) == (24, 28, "bilinear", (0.4,) * 3)
    notes = state.model.provenance["init"]["notes"]
    assert any("head" in note for note in notes)
    said = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(f"{weights}: {note}".split()) in said for note in notes)
    train_steps(task, state, 1)


def test_a_foreign_file_is_as_good_a_start_as_our_own(begin: Begin, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(num_classes=6)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    network = {"model__name": None, "model__base_channels": None, "data__image_size": 32}
    task, state = begin(init__weights=str(tmp_path / "resnet18.pth"), init__freeze="conv5", **network)
    assert state.model.architecture.name == "resnet18"
    ours, given = state.model.state_dict(), theirs.state_dict()
    assert torch.equal(ours["conv1.weight"], given["conv1.weight"].sum(1, keepdim=True))
    assert all(torch.equal(ours[name], given[name]) for name in given if not is_below(name, "conv1", "fc"))
    assert tuple(ours["fc.weight"].shape) == (10, 512)
    train_steps(task, state, 1)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"cardinality": 4}, "model.cardinality 4 contradicts W, resnext11_2x4d .*, which has 2"),
        ({"depth": 20}, "model.depth 20 contradicts W, .* which has 11"),
        ({"stem": "imagenet"}, "model.stem imagenet contradicts W, .* which has cifar"),
        ({"pre_activation": True}, "model.pre_activation true contradicts W, .* which has false"),
        ({"blocks": (1, 2, 1)}, r"model.blocks \[1, 2, 1\] contradicts W, .* which has \[1, 1, 1\]"),
        ({"stage_cardinalities": (2, 1, 2)}, r"model.stage_cardinalities \[2, 1, 2\] contradicts W, .* \[2, 2, 2\]"),
        ({"name": "resnext11_2-1-2x4d"}, r"model.stage_cardinalities \[2, 1, 2\] \(by model.name .*\) contradicts W"),
        ({"name": "resnext11_4x4d"}, r"model.cardinality 4 \(by model.name resnext11_4x4d\) contradicts W"),
        ({"name": "resnext50_32x4d"}, r"model.depth 50 \(by model.name resnext50_32x4d\) contradicts W"),
        ({"name": "resnext11_2x4d", "base_channels": 8}, "model.base_channels 8 contradicts W, .* which has 4"),
        ({"name": "resnext11_2x5d"}, "model.width 5 .by model.name.*, or give --model.name null"),
    ],
)
def test_a_setting_that_contradicts_the_weights_is_named_with_both_values(said: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_architecture(ModelSettings(**said), make_tiny_network().architecture, "W")


def test_a_name_with_one_cardinality_contradicts_weights_with_several() -> None:
    weights = make_tiny_network(stage_cardinalities=(2, 1, 2)).architecture
    check_architecture(ModelSettings(name="resnext11_2-1-2x4d"), weights, "W")
    with pytest.raises(RequestError, match=r"model.stage_cardinalities \[2, 2, 2\] \(by .*\) contradicts W"):
        check_architecture(ModelSettings(name="resnext11_2x4d"), weights, "W")


@pytest.mark.parametrize(
    "said",
    [
        {}, {"name": "resnext11_2x4d"}, {"cardinality": 2, "width": 4}, {"blocks": (1, 1, 1)}, {"form": "branched"},
        {"name": "resnext11_2x4d", "base_channels": 4, "initialisation": "zero_gamma"},
        {"name": "resnext20_2x4d", "blocks": (1, 1, 1)}, {"stage_cardinalities": (2, 2, 2)},
    ],
)  # fmt: skip
def test_settings_that_agree_with_the_weights_may_be_said(said: dict[str, Any]) -> None:
    check_architecture(ModelSettings(**said), make_tiny_network().architecture, "W")


# What stays as loaded


@pytest.mark.parametrize(
    ("stage", "frozen"),
    [
        ("stem", ("conv1", "bn1")),
        ("conv2", ("conv1", "bn1", "layer1")),
        ("conv4", ("conv1", "bn1", "layer1", "layer2", "layer3")),
        ("features", ("conv1", "bn1", "layer1", "layer2", "layer3")),
    ],
)
def test_everything_up_to_the_frozen_stage_stays_as_loaded_and_all_else_trains(
    begin: Begin, stage: str, frozen: tuple[str, ...]
) -> None:
    task, state = begin(init__freeze=stage)
    before = copy_state(state.model)
    train_steps(task, state)
    evaluate_held_out(state, state.model, task.source.val)
    train_steps(task, state)
    assert changed_names(state.model, before) == {name for name in before if not is_below(name, *frozen)}
    averaged = changed_names(state.ema.model, before)
    assert not {name for name in averaged if is_below(name, *frozen)}
    assert {name for name in averaged if is_below(name, "fc")}


def test_frozen_bn_stays_as_loaded_in_every_layer_while_convolutions_train(begin: Begin) -> None:
    task, state = begin(init__frozen_bn=True)
    before = copy_state(state.model)
    norms = {name for name, module in state.model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    train_steps(task, state)
    evaluate_held_out(state, state.model, task.source.val)
    train_steps(task, state)
    assert changed_names(state.model, before) == {name for name in before if name.rpartition(".")[0] not in norms}


def test_frozen_layers_are_in_evaluation_mode_at_the_start_after_an_evaluation_and_after_a_resume(
    begin: Begin, weights: Path
) -> None:
    def modes(state: State) -> dict[str, bool]:
        modules = state.model.named_modules()
        return {name: module.training for name, module in modules if isinstance(module, nn.BatchNorm2d)}

    task, state = begin(init__freeze="conv2")
    wanted = {name: not is_below(name, "bn1", "layer1") for name in modes(state)}
    assert modes(state) == wanted
    evaluate_held_out(state, state.eval_model, task.source.val)
    evaluate_held_out(state, state.model, task.source.val)
    assert modes(state) == wanted
    parts = (state.model, state.ema, state.optimizer)
    write_checkpoint(state.run, "last", SavedState(state.position, facts=state.facts), *parts, task.serialize_model)
    task.on_start(state)
    weights.unlink()
    assert modes(begin(resume=True, init__freeze="conv2")[1]) == wanted


def test_with_pre_activation_the_last_norm_belongs_to_the_features() -> None:
    model = make_tiny_network(pre_activation=True)
    assert [part for parts in group_modules_by_stage(model).values() for part in parts] == [
        name for name, module in model.named_children() if list(module.parameters())
    ], "every part that holds parameters stands in one stage"
    freeze(model, InitSettings(weights="W", freeze="features"))
    set_training_mode(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    assert not model.bn.training


def test_a_stage_the_network_lacks_is_refused() -> None:
    with pytest.raises(RequestError, match=r"init.freeze conv5: .* choose from stem, conv2, conv3, conv4, features"):
        freeze(make_tiny_network(), InitSettings(weights="W", freeze="conv5"))


# Rates by stage


def test_each_stage_has_the_rate_of_the_next_times_the_decay() -> None:
    model = make_tiny_network()
    freeze(model, InitSettings(weights="W", freeze="stem"))
    settings = OptimizerSettings(weight_decay_on="weights", weight_decay=0.1)
    optimizer = build_optimizer(model, settings, lr_multipliers(model, 0.5))
    set_learning_rate(optimizer, 0.8)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == sum(len(group["params"]) for group in optimizer.param_groups), "each parameter once"
    wanted = {"fc": 0.8, "layer3": 0.4, "layer2": 0.2, "layer1": 0.1}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        if part in ("conv1", "bn1"):
            assert id(parameter) not in rates
        else:
            assert rates[id(parameter)] == (pytest.approx(wanted[part]), 0.1 if parameter.ndim > 1 else 0.0), name


def test_a_step_moves_each_stage_by_its_own_rate_times_the_gradient(begin: Begin) -> None:
    plain = {"optimizer__momentum": 0, "optimizer__nesterov": False, "optimizer__weight_decay": 0}
    task, state = begin(init__layer_decay=0.5, **plain)
    gradients: dict[str, torch.Tensor] = {}
    for name, parameter in state.model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients.__setitem__(name, gradient.clone()))
    before = copy_state(state.model)
    train_steps(task, state, 1, lr=0.8)
    wanted = {"fc": 0.8, "layer3": 0.4, "layer2": 0.2, "layer1": 0.1, "bn1": 0.05, "conv1": 0.05}
    for name, parameter in state.model.named_parameters():
        moved = before[name] - wanted[name.split(".")[0]] * gradients[name]
        torch.testing.assert_close(parameter.detach(), moved, msg=name)


# Resuming


@pytest.mark.parametrize(
    "options",
    [
        {"init__freeze": "conv2", "init__layer_decay": 0.5},
        {"init__frozen_bn": True, "optimizer__name": "adamw", "train__ema_decay": 0},
        {"init__freeze": "features", "model__form": "concatenated"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_run_cut_off_goes_on_to_the_same_bytes_without_the_weights_it_began_with(
    tiny_recipe: Path, weights: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    recipe = read_changed(tiny_recipe, {"init__weights": str(weights), "train__epochs": 2, **options})
    whole, cut = train(recipe, tmp_path / "whole"), RunDirectory(tmp_path / "cut")
    with cut_off_before(9):
        train(recipe, cut.path)
    weights.unlink()
    assert read_last_step(cut) == 8
    train(read_recipe(cut.recipe), cut.path, resume=True)
    assert_same_end(cut.path, whole.path)
    model = load(cut.path)
    assert model.provenance["init"]["weights"] == str(weights)
    assert model.preprocessing == replace(THEIRS, image_size=8, resize=8)


def test_the_command_line_starts_from_weights_and_says_what_trains(
    tiny_recipe: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["train", str(tiny_recipe), "--run", str(run), "--train.epochs", "1"]
    assert main([*words, "--init", str(weights), "--init.freeze", "conv3"]) == 0
    sizes = {name: parameter.numel() for name, parameter in make_tiny_network().named_parameters()}
    trained = sum(size for name, size in sizes.items() if is_below(name, "layer3", "fc"))
    said = f"from {weights}: {trained:,} parameters train, {sum(sizes.values()) - trained:,} are frozen"
    assert said in capsys.readouterr().out
    assert open_run_directory(run).state("last")["position"]["epoch"] == 1
    assert read_recipe(run / "recipe.yaml").init == InitSettings(weights=str(weights), freeze="conv3")
    weights.unlink()
    assert main(["train", "--resume", str(run), "--init", "other.safetensors"]) == 2
    assert f"init.weights: '{weights}' -> 'other.safetensors'" in capsys.readouterr().err
    assert main(["train", "--resume", str(run)]) == 0


def test_weights_that_are_not_there_are_named_before_anything_is_written(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(tiny_recipe), "--run", str(tmp_path / "run")]
    assert main([*words, "--init", str(tmp_path / "none.pth")]) == 2
    assert f"there is no weights file or run directory {tmp_path / 'none.pth'}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# FIELD.md 35: frozen BN without eps makes ResNeXt explode, because its checkpoints have tiny running variances


def make_network_with_dead_channels(variance: float) -> Network:
    """Make weights like released ones, where some channels never fire and have a running variance of (almost) 0."""
    model = make_tiny_network()
    block = model.layer1[0]
    with torch.no_grad():
        block.conv2.weight[:4] = 0
        block.bn2.running_mean[:4] = 0
        block.bn2.running_var[:4] = variance
        block.bn2.bias[:4] = 0.1  # so they are alive to gradients
    return model


def remove_eps(model: Network) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0


@pytest.mark.parametrize("variance", [1e-12, 1e-20, 0.0])
def test_a_frozen_norm_of_tiny_variance_keeps_outputs_and_gradients_finite_only_by_its_eps(variance: float) -> None:
    def gradient(model: Network) -> float:
        freeze(model, InitSettings(weights="W", frozen_bn=True))
        set_training_mode(model)
        model(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))).square().mean().backward()
        return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))

    healthy, tiny_variance, exploding = (make_network_with_dead_channels(value) for value in (1.0, variance, variance))
    remove_eps(exploding)
    assert gradient(tiny_variance) < 1000 * gradient(healthy), "at most 1 / sqrt(eps) = 316 times"
    assert not gradient(exploding) < 1000 * gradient(tiny_variance), "not a number, or out of all proportion"


@pytest.mark.parametrize("variance", [1e-12, 0.0])
def test_training_over_a_frozen_norm_of_tiny_variance_stays_finite_and_without_eps_explodes(
    begin: Begin, weights: Path, variance: float
) -> None:
    save(make_network_with_dead_channels(variance), weights)
    task, state = begin(init__frozen_bn=True)
    before = state.model.state_dict()["layer1.0.bn2.running_var"].clone()
    assert max(train_steps(task, state, 6, lr=0.001)) < 5, "ln 10 = 2.3 is a guess at ten classes"
    assert torch.equal(state.model.state_dict()["layer1.0.bn2.running_var"], before)

    state.model.load_state_dict(load(weights).state_dict())
    state.optimizer.state.clear()
    remove_eps(state.model)
    with pytest.raises(WorkError, match="the loss became nan"):
        train_steps(task, state, 6, lr=0.001)
