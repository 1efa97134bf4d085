"""Time the parts of a training step of this package: forward, backward, optimizer, averaged weights, the rest.

    python tools/time_training_parts.py small/cifar10-fast --data.source folder --data.path cifar

Trains a few steps by the recipe in a temporary directory, with progress on standard error, and prints the share of
each part in the time of a step, as JSON. Clocks are read around the calls; a CPU computes each call before it returns.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from resnext.commands.train import add_setting_options, collect_settings
from resnext.model.network import Network
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.screen import make_screen
from resnext.training.classification import Classification
from resnext.training.ema import Ema
from resnext.training.loop import run_training

STEPS, WARM_STEPS = 60, 10


def main() -> None:
    """Train, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N")
    add_setting_options(parser)
    args = parser.parse_args()
    changes = collect_settings(args) | {"train.epochs": None, "train.steps": args.steps, "data.max_val_images": 16}
    recipe = read_recipe(args.recipe, changes | {"schedule.warmup_epochs": 0})
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(time_parts(recipe, RunDirectory(Path(folder) / "run"))))


def time_parts(recipe: Any, run: RunDirectory) -> dict[str, float]:
    """Train by ``recipe`` and return the share of each part in the steps after the first WARM_STEPS."""
    seconds: defaultdict[str, float] = defaultdict(float)
    steps = 0

    def time_calls(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = function(*args, **options)
            seconds[part] += time.perf_counter() - start
            return found

        return call

    step = time_calls("step", Classification.step)

    def count_step(*args: Any, **options: Any) -> Any:
        nonlocal steps
        if steps <= WARM_STEPS:
            seconds.clear()
        steps += 1
        return step(*args, **options)

    def evaluate(*_: object) -> dict[str, float]:
        return dict.fromkeys(Classification.evaluation_columns, 0.0)

    optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[recipe.optimizer.name]
    timed = (
        ("forward", Network, "forward"),
        ("backward", torch.Tensor, "backward"),
        ("optimizer", optimizer, "step"),
        ("averaged weights", Ema, "update"),
    )
    with ExitStack() as stack:
        for part, owner, name in timed:
            stack.enter_context(patch.object(owner, name, time_calls(part, getattr(owner, name))))
        stack.enter_context(patch.object(Classification, "step", count_step))
        stack.enter_context(patch.object(Classification, "evaluate", evaluate))
        stack.enter_context(patch.object(Classification, "on_finish", lambda *_: None))
        run_training(Classification, recipe, run, console=make_screen(stderr=True))
    whole = seconds.pop("step")
    shares = {part: seconds[part] / whole for part, *_ in timed}
    return shares | {"normalisation, loss, metrics": 1 - sum(shares.values())}


if __name__ == "__main__":
    main()
