"""Fixtures and helpers that tests of several packages share."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("RESNEXT_FAST", "0")  # the fastest algorithm can differ from run to run; tests of speed set 1

import torch
from hypothesis import HealthCheck, settings

from resnext.deploy.signal_stack import SignalStack, preserve_signal_stack
from resnext.device import pick_device
from tests.sample_files import PHOTOGRAPH_SETS, SHARED, read_photographs

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
THREADS = torch.get_num_threads()
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
LONG = ("tests/training/", "tests/detection/training/", "tests/deploy/", "tests/bench/", "tests/docs/")
TINY = """
model: {name: resnext11_2x4d, base_channels: 4}
data: {source: digits, max_train_images: 100, max_val_images: 30, workers: 0}
augment: {crop: pad, pad: 1, mixup: 0.2}
optimizer: {lr: 0.05}
schedule: {name: cosine, warmup_epochs: 0.5}
train: {epochs: 3, batch_size: 16, ema_decay: 0.9, channels_last: "no", checkpoint_steps: 2, seed: 3}
"""


TINY_PLAIN = TINY  # says nothing of fast paths
if os.environ["RESNEXT_FAST"] == "1":  # the second pass of `make test-all`: even these short runs use fast paths
    TINY = TINY.replace("seed: 3", 'seed: 3, fast: "yes"')


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage in modules and collected tests, which stay: that took a third of the collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(5_000, 20, 20)
        gc.enable()


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """A recipe file whose training takes seconds: 3 epochs of 6 steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def list_devices() -> list[str]:
    """List the devices of tests with the mark ``device``: those of RESNEXT_TEST_DEVICES, else the CPU and any CUDA."""
    given = os.environ.get("RESNEXT_TEST_DEVICES", "")
    return given.split(",") if given else ["cpu", *["cuda"] * torch.cuda.is_available()]


@pytest.fixture(params=list_devices())
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; a device that was named but is not there is an error, so that nothing passes unseen."""
    return pick_device(request.param)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests on the team's large data where it is not beside this checkout: small files stand for it.

    The folders of long tests come first, so that several processes end at about the same time.
    """
    if not SHARED.is_dir():
        large = [item for item in items if "shared_data" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))  # with ``--dist loadfile --no-loadscope-reorder``


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium that finds no other machine, one for each file of tests; they are skipped without."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as manager:
        browser = manager.chromium.launch(executable_path=chromium, args=["--no-sandbox", NO_NETWORK])
        yield browser
        browser.close()


@pytest.fixture
def shared_data() -> Path:
    """The team's folder of large real data beside the checkout; without it, tests that name it are left out."""
    return SHARED


@pytest.fixture(params=PHOTOGRAPH_SETS)
def photographs(request: pytest.FixtureRequest) -> list[bytes]:
    """JPEG files of real photographs."""
    return read_photographs(request.param)


@pytest.fixture(autouse=True)
def threads_kept() -> Iterator[None]:
    """Restore PyTorch's threads, which a run in this process can set (``train.threads``): they change last bits."""
    if torch.get_num_threads() != THREADS:  # a module fixture may have changed them
        torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def signal_stack_kept() -> Iterator[None]:
    """Fail a test that leaves another alternate signal stack: the next signal with a handler would kill the process.

    Compile OpenVINO models within ``preserve_signal_stack``.
    """
    before = SignalStack.read()
    with preserve_signal_stack():
        yield
        after = SignalStack.read()
    assert not after.address or after.address == before.address, "this test leaves another alternate signal stack"


@pytest.fixture
def one_thread() -> None:
    """Use one thread, for networks so small that threads only wait for each other; ``threads_kept`` restores them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def blank_figures() -> Iterator[None]:
    """Leave the pictures of runs in this process blank, for tests of anything else: they take most of a short run."""
    from tests.figures import leave_figures_blank

    with leave_figures_blank():
        yield


@pytest.fixture
def drawn_figures(blank_figures: None) -> Iterator[None]:  # noqa: ARG001 - blank first, whatever is asked for before
    """Draw the pictures in this test, where others of its file leave them blank."""
    from tests.figures import draw_figures

    with draw_figures():
        yield


def run_resnext(
    *arguments: object, script: Path | None = None, exits: int = 0, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run ``resnext ARGUMENTS`` in a process of its own, through ``script`` if given, and check its exit status."""
    start = ["-m", "resnext"] if script is None else [str(script)]
    command = [sys.executable, *start, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == exits, (command, done.returncode, done.stderr)
    return done
