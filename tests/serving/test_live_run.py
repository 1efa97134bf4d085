"""A run that trains while ``resnext serve --runs`` shows it: its points appear while its epoch is under way."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY

pytest.importorskip("fastapi")
SECONDS = 120  # in which something must come on the busiest machine
SLOW = "{name: resnext11_2x4d, base_channels: 64}"  # a step takes long enough that an epoch does not fill 8 kB of log


@contextmanager
def start(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run ``resnext ARGUMENTS`` within the context."""
    command = [sys.executable, "-m", "resnext", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as it:
        try:
            yield it
        finally:
            it.terminate()


def poll(address: str, name: str) -> dict[str, Any]:
    """Ask for the log of a run; an empty one before it begins."""
    with urllib.request.urlopen(f"{address}/v1/runs", timeout=SECONDS) as answer:
        found = [run["id"] for run in json.load(answer)["runs"] if run["name"] == name]
    if not found:
        return {"steps": {"step": []}, "epochs": {}}
    with urllib.request.urlopen(f"{address}/v1/runs/{found[0]}/log", timeout=SECONDS) as answer:
        log: dict[str, Any] = json.load(answer)
    return log


def test_new_points_are_seen_long_before_the_epoch_ends(tmp_path: Path) -> None:
    recipe = tmp_path / "slow.yaml"
    changed = TINY.replace("{name: resnext11_2x4d, base_channels: 4}", SLOW).replace("checkpoint_steps: 2, ", "")
    recipe.write_text(changed.replace("max_train_images: 100", "max_train_images: 1000, image_size: 32"))
    assert SLOW in changed
    (tmp_path / "runs").mkdir()
    with start("serve", "--runs", tmp_path / "runs", "--port", 0) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        with start("train", recipe, "--run", tmp_path / "runs" / "live"):
            seen: set[int] = set()  # numbers of steps in the answers
            end = time.monotonic() + SECONDS
            while len(seen) < 2:
                assert time.monotonic() < end, f"only {seen} steps were seen"
                log = poll(address, "live")
                assert not log["epochs"].get("epoch"), f"the first epoch ended; only {seen} steps were seen before"
                if log["steps"]["step"]:
                    assert log["state"] == "running"
                    seen.add(len(log["steps"]["step"]))
                time.sleep(0.1)
