"""What several rooms' tests share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault(
    "RESNEXT_FAST", "0"
)  # what is fastest here would differ from run to run; speed's tests switch it on

import torch

THREADS = torch.get_num_threads()
TINY = """
model: {name: resnext11_2x4d, base_channels: 4}
data: {source: digits, limit_train: 100, limit_val: 30, workers: 0}
augment: {crop: pad, pad: 1, mixup: 0.2}
optimizer: {lr: 0.05}
schedule: {name: cosine, warmup_epochs: 0.5}
train: {epochs: 3, batch_size: 16, ema_decay: 0.9, channels_last: "no", checkpoint_steps: 2, seed: 3}
"""


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """A recipe file whose run takes seconds: 3 epochs of 6 steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data that lies beside a checkout of the team; tests that need it skip without."""
    path = Path(__file__).parents[1].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the team's shared data is not beside this checkout")
    return path


@pytest.fixture(autouse=True)
def threads_kept() -> Iterator[None]:
    """A run in this process sets PyTorch's threads (``train.threads``), and their number changes last bits."""
    if torch.get_num_threads() != THREADS:  # a fixture of a whole file may have run before
        torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For networks so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_resnext(*arguments: object, script: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """``resnext ARGUMENTS`` in a process of its own, by way of ``script`` where one is given."""
    start = ["-m", "resnext"] if script is None else [str(script)]
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
