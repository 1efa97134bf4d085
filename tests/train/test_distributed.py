"""Several processes are one: the same order, the same gradients. And device names that cannot be used."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resnext.device import pick_device
from resnext.errors import RequestError
from resnext.model.network import create_model
from resnext.run_directory import RunDirectory
from resnext.weights.native import save
from tests.conftest import run_resnext


@pytest.mark.slow
def test_two_processes_train_like_one_that_accumulates_two_parts(tiny_recipe: Path, tmp_path: Path) -> None:
    """BN sees the same parts of eight images either way, so gradients agree to rounding.

    Running statistics do not (each process keeps its own), hence only parameters are compared.
    """
    options = ["--train.epochs", "1", "--augment.mixup", "0", "--train.ema_decay", "0", "--train.threads", "1"]
    alone = run_resnext("train", tiny_recipe, "--run", tmp_path / "one", *options, "--train.accumulate", "2")
    assert alone.returncode == 0, alone.stderr
    train_by_two(tiny_recipe, "--run", tmp_path / "two", *options)
    one, two = (load_file(RunDirectory(tmp_path / name).weights("last")) for name in ("one", "two"))
    for name, value in one.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_processes_fine_tune_with_a_frozen_stage(tiny_recipe: Path, tmp_path: Path) -> None:
    model = create_model("resnext11_2x4d", base_channels=4, num_classes=10, in_channels=1, seed=7)
    save(model, tmp_path / "start.safetensors")
    options = ["--train.epochs", "1", "--train.threads", "1", "--init.freeze", "conv2", "--init.layer_decay", "0.5"]
    train_by_two(tiny_recipe, "--run", tmp_path / "run", "--init", tmp_path / "start.safetensors", *options)
    start, end = model.state_dict(), load_file(RunDirectory(tmp_path / "run").weights("last"))
    for name, value in start.items():
        frozen = name.split(".")[0] in ("conv1", "bn1", "layer1")
        assert torch.equal(end[name], value) == frozen, name


def train_by_two(*arguments: object) -> None:
    """``resnext train ARGUMENTS`` by two processes."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "--"]
    words = [sys.executable, *torchrun, "resnext", "train", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "xpu"])
def test_a_device_that_cannot_be_used_is_named(name: str) -> None:
    with pytest.raises(RequestError, match=name):
        pick_device(name)


def test_auto_is_a_device_that_is_here() -> None:
    assert torch.zeros(1, device=pick_device("auto")).sum() == 0
