"""Several processes compute the same as one: order, gradients, evaluation. And unusable device names."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resnext.cli import main
from resnext.device import pick_device
from resnext.errors import RequestError, WorkError
from resnext.model.network import create_model
from resnext.run_directory import RunDirectory
from resnext.training.distributed import _convert_peer_errors
from resnext.training.logbook import read_log
from resnext.weights.native import save
from tests.conftest import run_resnext

SEVERAL = Path(__file__).with_name("distributed_checks.py")
ONE_THREAD = ["--train.threads", "1"]


def torchrun(processes: int, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``torchrun WORDS`` on this machine."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    command = [sys.executable, *launcher, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload]


def train_by(processes: int, *arguments: object) -> None:
    """Run ``resnext train ARGUMENTS`` with so many processes."""
    done = torchrun(processes, "-m", "--", "resnext", "train", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "processes", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_what_processes_say_to_each_other_is_exact(processes: int) -> None:
    done = torchrun(processes, SEVERAL)
    assert done.returncode == 0, done.stderr


def test_two_processes_end_with_the_bytes_of_one_that_computes_the_same_parts(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    """Two parts are added up the same way here and there, and powers of two divide exactly: weights are bit-equal.

    Sample order, mixing, dropped paths, BN statistics and the average do not depend on the number of processes. The
    held-out loss does in its last digits: convolutions round differently for other batch sizes, and shards have others.
    """
    options = [*ONE_THREAD, "--train.bn_batch_size", "8", "--train.drop_path", "0.2", "--train.epochs"]
    assert main(["train", str(tiny_recipe), "--run", str(tmp_path / "one"), *options, "2"]) == 0
    train_by(2, tiny_recipe, "--run", tmp_path / "two", *options, "2", "--data.workers", "1")
    one, two = (read_log(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    assert [row | {"val_loss": 0} for row in one] == [row | {"val_loss": 0} for row in two]
    for ours, theirs in zip(one, two, strict=True):
        assert ours.get("val_loss", 0) == pytest.approx(theirs.get("val_loss", 0), rel=1e-5)
    for which in ("last", "best"):
        for path in (tmp_path / "one" / "checkpoints" / which).iterdir():
            assert path.read_bytes() == (tmp_path / "two" / "checkpoints" / which / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_two_processes_fine_tune_with_a_frozen_stage_and_synchronised_bn(tiny_recipe: Path, tmp_path: Path) -> None:
    model = create_model("resnext11_2x4d", base_channels=4, num_classes=10, in_channels=1, seed=7)
    save(model, tmp_path / "start.safetensors")
    options = ["--train.epochs", "1", *ONE_THREAD, "--init.freeze", "conv2", "--init.layer_decay", "0.5"]
    options += ["--train.sync_bn", "true"]
    train_by(2, tiny_recipe, "--run", tmp_path / "run", "--init", tmp_path / "start.safetensors", *options)
    start, end = model.state_dict(), load_file(RunDirectory(tmp_path / "run").weights("last"))
    for name, value in start.items():
        frozen = name.split(".")[0] in ("conv1", "bn1", "layer1")
        assert torch.equal(end[name], value) == frozen, name


@pytest.mark.slow
def test_synchronised_bn_trains_like_one_process_with_the_whole_batch(tiny_recipe: Path, tmp_path: Path) -> None:
    """To rounding: sums over the batch are taken in another order."""
    options = [*ONE_THREAD, "--train.epochs", "1", "--augment.mixup", "0"]
    run_resnext("train", tiny_recipe, "--run", tmp_path / "one", *options)
    train_by(2, tiny_recipe, "--run", tmp_path / "two", *options, "--train.sync_bn", "true")
    one, two = (load_file(RunDirectory(tmp_path / name).weights("last")) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-2, atol=1e-4, msg=name)


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_run_ends_with_the_same_bytes(tiny_recipe: Path, tmp_path: Path) -> None:
    """``torchrun --max-restarts`` runs the same command again: --continue resumes from the last checkpoint."""
    options = [*ONE_THREAD, "--train.epochs", "6", "--train.peer_timeout", "60"]
    train_by(2, tiny_recipe, "--run", tmp_path / "whole", *options)
    words = ["--nproc-per-node", "2", "--standalone", "--max-restarts", "2", "-m", "--", "resnext", "train"]
    words += [str(tiny_recipe), "--continue", str(tmp_path / "run"), *options]
    fresh = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # docs/scale-out.md
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    process = subprocess.Popen(command, **pipes, text=True, env=fresh)
    state = tmp_path / "run" / "checkpoints" / "last" / "model-00000008.safetensors"
    while process.poll() is None and not state.exists():
        time.sleep(0.005)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "resuming after step" in output
    for name in ("log.jsonl", "metrics.csv", "checkpoints/last/state.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def test_processes_with_different_recipes_are_told_where(tiny_recipe: Path, tmp_path: Path) -> None:
    script = tmp_path / "differ.py"
    script.write_text(
        "import os, sys\nfrom resnext.cli import main\n"
        f"sys.exit(main(['train', {str(tiny_recipe)!r}, '--run', {str(tmp_path / 'run')!r}, "
        "'--optimizer.lr', '0.' + os.environ['RANK'] + '1']))"
    )
    done = torchrun(2, script)
    assert done.returncode != 0
    assert "different recipes (main process -> process 1): optimizer.lr: 0.01 -> 0.11" in done.stderr


@pytest.mark.parametrize(
    "message",
    [
        "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:51234",
        "NCCL communicator was aborted on rank 1",
        "Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: SO_ERROR: Connection refused",
        "Timed out waiting 60000ms for recv operation to complete",
    ],
)
def test_a_lost_process_is_said_in_a_sentence_with_the_way_on(message: str) -> None:
    way_on = "--continue .* set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" if "refused" in message else "--continue"
    lost = pytest.raises(WorkError, match=rf"another process of this run is lost .* {way_on}")
    with lost, _convert_peer_errors():
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="shapes differ"), _convert_peer_errors():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cuda:128", "cuda:256", "cuda:-1", "cpu:7", "meta", "xpu"])
def test_a_device_that_cannot_be_used_is_named(name: str) -> None:
    with pytest.raises(RequestError, match=name):
        pick_device(name)


def test_auto_is_a_device_that_is_here() -> None:
    assert torch.zeros(1, device=pick_device("auto")).sum() == 0


@pytest.mark.slow
def test_two_processes_sample_stop_and_weight_as_one_does(tiny_recipe: Path, tmp_path: Path) -> None:
    """Balanced classes, patience and a time limit: all processes take the same steps, as one process does."""
    options = [*ONE_THREAD, "--train.bn_batch_size", "8", "--train.epochs", "30", "--train.patience", "1"]
    for number, balance in enumerate(("sampling", "class_weights")):
        words = [*options, f"--data.{balance}", "balanced", "--optimizer.lr", "0"]
        run_resnext("train", tiny_recipe, "--run", tmp_path / f"one{number}", *words)
        train_by(2, tiny_recipe, "--run", tmp_path / f"two{number}", *words)
        one, two = (read_log(tmp_path / f"{name}{number}" / "log.jsonl") for name in ("one", "two"))
        assert [row for row in one if row["kind"] == "step"] == [row for row in two if row["kind"] == "step"]
        assert one[-1] == two[-1]
        assert one[-1]["kind"] == "stop"
    train_by(
        2, tiny_recipe, "--run", tmp_path / "short", *ONE_THREAD, "--train.max_time", "6 s", "--train.epochs", "9999"
    )
    last = read_log(tmp_path / "short" / "log.jsonl")[-1]
    assert (last["kind"], "train.max_time 6 s is over" in last["reason"]) == ("stop", True)
    assert RunDirectory(tmp_path / "short").report.exists()
