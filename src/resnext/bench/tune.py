"""``resnext bench tune``: measure the algorithms of each layer in training, or show the tuning cache."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.choices import Precision
from resnext.errors import RequestError
from resnext.files import atomic_write, check_file

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.model.plan import Plan
    from resnext.speed.tuning_cache import TuningCache

PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``resnext bench tune``."""

    model: str
    batch: int  # images per step
    size: int  # pixels
    precision: Precision
    save: str | None
    show: bool
    forget: bool


def run(options: Options) -> int:
    """Run the command; exit status 0. Raises RequestError for an invalid network or size, or a FILE that exists."""
    import torch

    from resnext.screen import make_screen
    from resnext.speed.tuning_cache import TuningCache

    choices, console = TuningCache.load(torch.device("cpu")), make_screen()
    if options.forget:
        choices.clear()
        console.print(f"deleted: measurements of {choices.machine}")
    elif options.show:
        _print_choices(choices, console)
    else:
        if options.save:
            if Path(options.save).exists():
                raise RequestError(f"--save {options.save} exists already; give another name")
            check_file(Path(options.save), "--save")
        plan, norms = _measure(options, choices, console)
        if options.save:
            with atomic_write(Path(options.save), "w") as file:
                json.dump(plan.to_dict(), file, indent=1)
        _print_plan(plan, norms, console)
    return 0


def _measure(options: Options, choices: "TuningCache", console: "Console") -> tuple["Plan", int]:
    """Find the plan and count the norms of the network; a status line names the work that is being measured."""
    import torch

    from resnext.model.network import create_model
    from resnext.model.plan import autotune
    from resnext.speed import kernels

    if options.batch < 2:
        why = "batch norm computes its statistics over the batch"
        raise RequestError(f"--batch {options.batch} must be at least 2: {why}")
    model = create_model(options.model, seed=0).train().to(memory_format=torch.channels_last)
    model.architecture.check_image_size(options.size, options.size)
    images = torch.zeros(options.batch, model.architecture.in_channels, options.size, options.size)
    images = images.contiguous(memory_format=torch.channels_last)
    if not kernels.is_fast_enabled():
        console.print("RESNEXT_FAST=0: all fast paths are off, so there is nothing to measure")
    with console.status("measuring") as status:
        plan = autotune(model, images, options.precision, cache=choices, progress=status.update)
    return plan, sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())


def _print_plan(plan: "Plan", norms: int, console: "Console") -> None:
    """Print the algorithms of each convolution, and how many norms are fused."""
    for name, ways in plan.convolutions.items():
        said = f"{ways.forward}, {ways.input_gradient}, {ways.weight_gradient}"
        console.print(f"{name:<24} forward, input gradient, weight gradient: {said}")
    console.print(f"fused: {len(plan.norms)} of {norms} norms")


def _print_choices(choices: "TuningCache", console: "Console") -> None:
    """Print the tuning cache: the milliseconds of each algorithm for each piece of work, the chosen one in bold."""
    from rich.table import Table
    from rich.text import Text

    from resnext.errors import escape_unprintable
    from resnext.speed.tuning_cache import select_fastest

    table = Table(box=None, header_style="bold", title=Text(choices.machine), title_justify="left")
    table.add_column("work", overflow="fold")
    table.add_column("ms of each algorithm", overflow="fold")
    for work, seconds in sorted(choices.timings.items()):
        chosen = select_fastest(seconds, "plain")
        ways = sorted(seconds.items(), key=lambda item: item[1])
        said = (
            Text(f"{escape_unprintable(way)} {value * 1e3:.3g}", "bold" if way == chosen else "") for way, value in ways
        )
        table.add_row(escape_unprintable(work), Text("  ").join(said))
    if choices.timings:
        console.print(table)
    else:
        console.print(f"nothing has been measured yet on {choices.machine}")
    console.print(f"stored in {choices.path}")
