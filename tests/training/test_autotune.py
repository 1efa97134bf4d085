"""Autotuning of training: the choice is measured, saved with the run, and reproduced bit for bit on resume."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from resnext.cli import main
from resnext.model.network import create_model
from resnext.model.plan import Plan
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe, TrainSettings
from resnext.speed import kernels
from resnext.training import autotune
from resnext.training.autotune import Candidate, autotune_training, time_candidates
from tests.conftest import TINY_PLAIN as TINY
from tests.conftest import run_resnext
from tests.training.helpers import CPU, QUIET, cut_off_before, train
from tests.training.test_resume import assert_same_end


@pytest.fixture(autouse=True)
def enable_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast paths are off in other tests."""
    monkeypatch.setenv("RESNEXT_FAST", "1")


def small() -> torch.nn.Module:
    return create_model("resnext11_2x4d", base_channels=4, num_classes=3, stem="cifar", seed=0)


def tune(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], steps: int = 10**6, **train: str
) -> tuple[TrainSettings, Plan]:
    """Return what autotuning decides if candidates take the given seconds and tuning finds a known plan."""
    known = Plan({}, ("bn1",))
    monkeypatch.setattr(autotune, "time_candidates", lambda model, plans, *_: {arm: seconds[str(arm)] for arm in plans})
    monkeypatch.setattr(autotune, "tune_shared_plan", lambda *_: known)
    recipe = Recipe(train=TrainSettings(**train))  # type: ignore[arg-type]
    found, plan = autotune_training(recipe, small(), (4, 8), steps, CPU, QUIET)  # type: ignore[arg-type]
    return found.train, plan


@pytest.mark.parametrize(
    ("seconds", "train", "expected"),
    [
        ({"NCHW": 3, "NHWC": 2, "NHWC with fast paths": 1}, {}, ("yes", "yes")),
        ({"NCHW": 3, "NHWC": 2, "NHWC with fast paths": 1.99}, {}, ("yes", "no")),  # within the noise
        ({"NCHW": 1, "NHWC": 2, "NHWC with fast paths": 1.5}, {}, ("no", "no")),
        ({"NCHW": 1, "NHWC": 2}, {"fast": "no"}, ("no", "no")),
        ({"NCHW": 1, "NHWC": 2, "NHWC with fast paths": 3}, {"fast": "yes"}, ("yes", "yes")),
        ({"NCHW": 2, "NCHW with fast paths": 1}, {"channels_last": "no"}, ("no", "yes")),
        ({}, {"channels_last": "yes", "fast": "no"}, ("yes", "no")),
        ({"NCHW": 3, "NHWC": 2}, {"steps": 59}, ("yes", "no")),  # a short run is not worth measuring for
        ({"NCHW": 3, "NHWC": 2}, {"steps": 249}, ("yes", "no")),  # its steps are long, but tuning takes as long as many
        ({"NCHW": 3, "NHWC": 2, "NHWC with fast paths": 1}, {"steps": 250}, ("yes", "yes")),
    ],
)
def test_measured_seconds_decide_and_what_the_user_says_is_done(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], train: dict[str, Any], expected: tuple[str, str]
) -> None:
    found, plan = tune(monkeypatch, seconds, **train)
    assert (found.channels_last, found.fast) == expected
    assert plan == (Plan({}, ("bn1",)) if found.fast == "yes" else Plan())


@pytest.mark.parametrize(
    ("precision", "instructions", "fp32", "advised"),
    [
        ("bf16", False, 1.0, True),
        ("bf16", False, 1.99, False),  # within the noise
        ("bf16", True, 1.0, False),
        ("fp32", False, 1.0, False),
    ],
)
def test_a_processor_that_emulates_bf16_is_told_of_fp32(
    monkeypatch: pytest.MonkeyPatch, precision: str, instructions: bool, fp32: float, advised: bool
) -> None:
    seconds = {"fp32": fp32, precision: 2.0}
    monkeypatch.setattr(autotune, "has_bf16", lambda: instructions)
    monkeypatch.setattr(
        autotune, "time_candidates", lambda _, plans, *rest: dict.fromkeys(plans, seconds[rest[-1].precision])
    )
    console = Console(file=io.StringIO(), width=200)
    recipe = Recipe(train=TrainSettings(precision=precision, fast="no"))  # type: ignore[arg-type]
    autotune_training(recipe, small(), (4, 8), 10**6, CPU, console)  # type: ignore[arg-type]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("bf16 is slower than fp32 on this processor: --train.precision fp32 would take 1000 ms" in said) == advised


def test_the_switch_leaves_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_FAST", "0")
    found, plan = tune(monkeypatch, {})  # a time that is asked for is a KeyError
    assert (found.channels_last, found.fast, plan) == ("no", "no", Plan())


def test_only_some_images_of_a_large_micro_batch_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = create_model("resnext50_32x4d", seed=0), []

    def time_step(_: torch.nn.Module, images: torch.Tensor, *_rest: object) -> float:
        seen.append(len(images))
        return 0.5

    monkeypatch.setattr(autotune, "_time_step", time_step)
    arm = Candidate(True)
    (seconds,) = time_candidates(model, {arm: Plan()}, (64, 224), CPU, TrainSettings()).values()
    assert set(seen) == {3}  # 14.4 M outputs of convolutions each
    assert seconds == pytest.approx(0.5 * 64 / 3)


def test_a_run_too_short_for_timing_takes_nhwc_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    for steps, expected in ((79, ("yes", "no")), (80, ("no", "no"))):  # 8 steps are timed
        found, _ = tune(monkeypatch, {"NCHW": 1e-9, "NHWC": 2e-9}, steps)
        assert (found.channels_last, found.fast) == expected


def test_measuring_changes_nothing() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    plans = {Candidate(False): Plan(), Candidate(True): Plan()}
    seconds = time_candidates(model, plans, (4, 16), CPU, TrainSettings())  # type: ignore[arg-type]
    assert seconds.keys() == plans.keys()
    assert all(value > 0 for value in seconds.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_plan_found_is_one_the_network_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels, "load", lambda: False)  # the cache is empty: nothing is compiled for this
    model = small()
    recipe = Recipe(train=TrainSettings(fast="yes", channels_last="yes"))
    found, plan = autotune_training(recipe, model, (4, 8), 10, CPU, QUIET)  # type: ignore[arg-type]
    assert found.train.fast == "yes"
    plan.apply(model)


FAST = TINY.replace('channels_last: "no"', 'channels_last: "yes", fast: "yes", activation_checkpointing: activations')


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_run_goes_on_bit_for_bit_with_fast_paths_and_a_cold_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Stop half-way and resume in a new process whose tuning cache would choose another plan."""
    if not kernels.load():
        pytest.skip("no C++ compiler here: the fused operator runs as plain PyTorch")
    recipe = tmp_path / "fast.yaml"
    recipe.write_text(FAST.replace("seed: 3", f"seed: 3, precision: {precision}"))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(["train", str(recipe), "--run", str(whole)]) == 0
    state = RunDirectory(whole).state("last")
    plan = Plan.from_dict(state["facts"]["plan"])
    assert plan.norms
    # the same run, begun with this plan, ends without a word after its checkpoint of step 8
    with cut_off_before(8), monkeypatch.context() as patch:
        patch.setattr(autotune, "tune_shared_plan", lambda *_: plan)
        train(read_recipe(recipe), stopped)
    run_resnext("train", "--resume", stopped, env=os.environ | {"RESNEXT_CACHE": str(tmp_path / "cold")})
    assert (tmp_path / "cold" / "lib").is_dir()  # the kernels were compiled anew
    assert_same_end(stopped, whole)


def test_recomputing_is_another_run_only_in_memory(tmp_path: Path) -> None:
    """The recipe with ``activation_checkpointing blocks`` logs the same losses as without, bit for bit."""
    logs = []
    for level in ("no", "blocks"):
        recipe = tmp_path / f"{level}.yaml"
        recipe.write_text(TINY.replace("epochs: 3", f'epochs: 1, activation_checkpointing: "{level}", fast: "no"'))
        assert main(["train", str(recipe), "--run", str(tmp_path / level)]) == 0
        logs.append((tmp_path / level / "log.jsonl").read_bytes())
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_compiled_run_learns_what_an_eager_one_learns(tmp_path: Path) -> None:
    losses = []
    for how in ("no", "yes"):
        recipe = tmp_path / f"{how}.yaml"
        recipe.write_text(TINY.replace("epochs: 3", f'epochs: 1, compile: "{how}", fast: "no"'))
        run_resnext("train", recipe, "--run", tmp_path / how)
        rows = map(json.loads, (tmp_path / how / "log.jsonl").read_text().splitlines())
        losses.append([row["loss"] for row in rows if row["kind"] == "step"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_recompute_without_kernels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "fast.yaml"
    recipe.write_text(FAST)
    monkeypatch.setenv("RESNEXT_FAST", "0")
    assert main(["train", str(recipe), "--run", str(tmp_path / "run")]) == 2
    assert "train.activation_checkpointing activations" in capsys.readouterr().err
