"""Checkpoints are complete or refused, and a full disk loses nothing that was saved."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from resnext.errors import RequestError, WorkError
from resnext.model.network import Network, create_model
from resnext.run_directory import RunDirectory
from resnext.settings_shared import OptimizerSettings
from resnext.training.checkpoint import read_checkpoint, restore_checkpoint, write_checkpoint
from resnext.training.ema import Ema
from resnext.training.optimizer import build_optimizer
from resnext.training.state import EpochSums, Position, RunFacts, SavedState
from resnext.weights import load
from resnext.weights.native import serialize_network
from tests.training.helpers import create_run


def saved_at(step: int) -> SavedState:
    position = Position(step, epoch=1, best={"epoch": 1, "step": 3, "top1_error": 2.5}, bad_images=4)
    sums = EpochSums(1.5, {"loss_box_reg": 0.25}, wrong=2, images=9)
    return SavedState(position, sums, RunFacts({"classes": ["a"]}, {"norms": []}), {"scale": 2.0})


class Trained:
    """A network after one step, with everything a checkpoint needs."""

    def __init__(self, folder: Path, seed: int = 0, optimizer: str = "sgd") -> None:
        self.run = create_run(folder)
        self.model: Network = create_model("resnext11_2x4d", base_channels=4, num_classes=3, seed=seed)
        self.ema = Ema(self.model, 0.9, warmup=False)
        self.optimizer = build_optimizer(self.model, OptimizerSettings(name=optimizer))
        self.step()

    def step(self) -> None:
        torch.manual_seed(0)
        self.model(torch.randn(4, 3, 16, 16)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model, 0)

    def write(self, step: int) -> None:
        parts = (self.model, self.ema, self.optimizer)
        write_checkpoint(self.run, "last", saved_at(step), *parts, serialize_network)

    def read(self, run: RunDirectory | None = None) -> SavedState:
        run = run or self.run
        return restore_checkpoint(read_checkpoint(run), run, self.model, self.ema, self.optimizer)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb"])
def test_what_is_read_goes_on_exactly_like_what_was_written(tmp_path: Path, optimizer: str) -> None:
    a = Trained(tmp_path / "a", optimizer=optimizer)
    a.write(7)
    b = Trained(tmp_path / "b", seed=1, optimizer=optimizer)
    assert b.read(a.run) == saved_at(7)
    for one in (a, b):
        one.step()
    for ours, theirs in ((a.model, b.model), (a.ema.model, b.ema.model)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_the_weights_in_use_open_as_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    a = Trained(tmp_path / "a")
    a.write(7)
    tensors = load_file(a.run.weights("last"))
    assert all(torch.equal(tensors[name], value) for name, value in a.ema.model.state_dict().items())
    assert load(a.run.weights("last")).architecture == a.model.architecture


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = Trained(tmp_path / "a")
    a.write(7)
    before = {p.name: p.read_bytes() for p in a.run.checkpoint("last").iterdir()}
    calls = iter(range(100))

    def full(_: int) -> None:
        if next(calls) >= 2:  # the first file goes through, with its folder; the second does not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match="No space left on device"):
        a.write(8)
    monkeypatch.undo()
    after = {p.name: p.read_bytes() for p in a.run.checkpoint("last").iterdir()}
    assert before.items() <= after.items()
    assert not [name for name in after if name.endswith(".part")]
    assert a.read().position.step == 7
    a.write(9)
    assert len(list(a.run.checkpoint("last").iterdir())) == 3, "leavings of the failed write are swept"


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path: Path) -> None:
    a = Trained(tmp_path / "a")
    a.write(7)
    with torch.no_grad():
        a.ema.model.fc.bias[0] = float("nan")
    with pytest.raises(WorkError, match=r"fc\.bias is not finite after step 8"):
        a.write(8)
    assert a.run.state("last")["position"]["step"] == 7


def change_state(section: str, **changes: object) -> Callable[[bytes], bytes]:
    """Change entries in a section of a state.json."""
    return lambda data: json.dumps((state := json.loads(data)) | {section: state[section] | changes}).encode()


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("training-*", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "training-00000007.safetensors is damaged"),
        ("model-*", lambda data: data[:-10], "model-00000007.safetensors is damaged"),
        ("model-*", None, "cannot be read"),
        ("state.json", None, "there is no checkpoint in"),
        ("state.json", lambda _: b'{"epoch": 3}', "is not the state of a resnext checkpoint"),
        ("state.json", lambda _: b'{"format": "resnext-check', "state.json is damaged"),
        ("state.json", change_state("files", model={"name": "../../etc/a.safetensors"}), "names no usable model file"),
        ("state.json", change_state("position", more=2), "has no valid training position"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_checkpoint_is_named(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None, says: str
) -> None:
    a = Trained(tmp_path / "a")
    a.write(7)
    (path,) = a.run.checkpoint("last").glob(name)
    data = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(data))
    with pytest.raises(RequestError) as caught:
        a.read()
    assert says in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    a = Trained(tmp_path / "a")
    a.write(7)
    other = create_model("resnext11_4x4d", base_channels=4, num_classes=3)
    with pytest.raises(RequestError, match="has shape"):
        restore_checkpoint(
            read_checkpoint(a.run), a.run, other, Ema(other, 0.9, False), build_optimizer(other, OptimizerSettings())
        )
