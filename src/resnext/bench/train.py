"""``resnext bench train``: time and memory of a training step, compared with torchvision and timm in the same process.

Ours is the network of ``create_model`` with the plan of ``tune``. A step is forward (autocast for bf16), cross-entropy,
backward and SGD with momentum, on one fixed batch of noise. All candidates start from the same weights, and their
outputs are compared before the first round.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from resnext.bench import results
from resnext.bench.measure import make_child_variables
from resnext.choices import Precision
from resnext.errors import RequestError

RECOMPUTE_LEVELS = ("activations", "expansions", "blocks")
ISA_CAPS = {  # environment variables that limit the instructions of PyTorch, oneDNN, MKL and our kernels
    "avx2": {
        "RESNEXT_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "portable": {
        "RESNEXT_ISA": "portable",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench train``."""

    model: str
    batch: int
    size: int
    rounds: int
    peers: Sequence[str] | None
    precision: Precision
    without_resnet: bool
    without_memory: bool
    recompute: Sequence[str]
    isa: str | None


def run(options: Options) -> int:
    """Run the benchmark; exit status 0. Raises WorkError if a candidate computes something different."""
    from resnext.bench.peers import choose_peers
    from resnext.model.stage_table import parse_paper_architecture

    architecture = parse_paper_architecture(options.model)
    check_numbers(options.batch, options.rounds, options.size)
    architecture.check_image_size(options.size, options.size)
    peers = choose_peers(options.peers, architecture)
    path = results.prepare_csv(options.out, "train")
    if options.isa and not _is_isa_capped(options.isa):
        return _run_with_isa_cap(options, options.isa)

    from resnext.bench.candidates import TrainWorkload, list_candidates, measure_candidates
    from resnext.screen import make_screen

    console = make_screen()
    task = TrainWorkload(options.batch, options.size)
    entries = list_candidates(
        architecture, peers, options.precision, options.recompute, resnet=not options.without_resnet
    )
    found = measure_candidates(entries, task, options.rounds, console, memory=not options.without_memory)
    title = f"A training step of {architecture.name}, batch {options.batch} at {options.size}x{options.size}"
    shown = {name: {"peak MiB": values["peak_mib"]} for name, values in found.columns.items()}
    results.write_rows(
        path,
        results.make_timing_rows(found.timings, entries[0].name, found.columns),
        results.collect_protocol(options.command),
    )
    results.print_timings(console, title, found.timings, entries[0].name, {} if options.without_memory else shown)
    console.print(str(path))
    return 0


def check_numbers(batch: int, rounds: int, size: int) -> None:
    """Check ``--batch``, ``--rounds`` and ``--size``. Raises RequestError if one is too small."""
    if batch < 2:
        raise RequestError(f"--batch {batch} must be at least 2: batch norm computes its statistics over the batch")
    for option, value in (("rounds", rounds), ("size", size)):
        if value < 1:
            raise RequestError(f"--{option} {value} must be at least 1")


def _is_isa_capped(isa: str) -> bool:
    return all(os.environ.get(name) == value for name, value in ISA_CAPS[isa].items())


def _run_with_isa_cap(options: Options, isa: str) -> int:
    """Run the same command in a fresh process: the libraries read the limits only when they are loaded."""
    words = shlex.split(options.command)[1:]
    out = ["--out", options.out] if options.out else []
    variables = make_child_variables() | ISA_CAPS[isa]
    return subprocess.run([sys.executable, "-m", "resnext", *words, *out], env=variables, check=False).returncode
