"""``resnext bench train``: time and memory of a training step, compared with torchvision and timm in the same process.

Ours is the network of ``create_model`` with the plan of ``tune``. A step is forward (autocast for bf16), cross-entropy,
backward and SGD with momentum, on one fixed batch of noise. All candidates start from the same weights, and their
outputs are compared before the first round.
"""

import argparse
import os
import shlex
import subprocess
import sys

from resnext.bench.results import (
    add_out_option,
    collect_protocol,
    make_csv_path,
    make_out_folder,
    make_timing_rows,
    print_timings,
    read_rows,
    write_rows,
)
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext bench train``."""
    parser.add_argument("model", nargs="?", default="resnext50_32x4d", metavar="MODEL", help="(default: %(default)s)")
    add_batch_options(parser, 32, 224)
    parser.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="timed steps of each candidate [%(default)s]"
    )
    add_peers_option(parser)
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), default="bf16", help="of the fastest candidates [%(default)s]"
    )
    parser.add_argument("--without-resnet", action="store_true", help="leave out the ResNet of the same depth")
    parser.add_argument("--without-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument(
        "--recompute",
        nargs="*",
        choices=RECOMPUTE_LEVELS,
        default=[],
        help="also measure ours with these levels of recomputation",
        metavar="LEVEL",
    )
    parser.add_argument(
        "--isa", choices=tuple(ISA_CAPS), help="limit the instruction set, as on a machine without wider instructions"
    )
    add_out_option(parser)


def add_batch_options(parser: argparse.ArgumentParser, batch: int, size: int) -> None:
    """Add ``--batch`` and ``--size``, which the training benchmarks share."""
    parser.add_argument("--batch", type=int, default=batch, metavar="N", help="images per step [%(default)s]")
    parser.add_argument("--size", type=int, default=size, metavar="PIXELS", help="side of the images [%(default)s]")


def add_peers_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--peers``, which the training benchmarks share."""
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME",
        help="torchvision, timm, plain (ours without fast paths) or none (default: torchvision, timm if possible)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; exit status 0. Raises WorkError if a candidate computes something different."""
    from resnext.bench.peers import choose_peers
    from resnext.model.stage_table import parse_paper_architecture

    architecture = parse_paper_architecture(args.model)
    check_numbers(args)
    architecture.check_image_size(args.size, args.size)
    peers = choose_peers(args.peers, architecture)
    path = make_csv_path(make_out_folder(args), "train")
    read_rows(path)
    if args.isa and not _is_isa_capped(args.isa):
        return _run_with_isa_cap(args)

    from resnext.bench.candidates import TrainWorkload, list_candidates, measure_candidates
    from resnext.screen import make_screen

    console = make_screen()
    task = TrainWorkload(args.batch, args.size)
    entries = list_candidates(architecture, peers, args.precision, args.recompute, resnet=not args.without_resnet)
    found = measure_candidates(entries, task, args.rounds, console, memory=not args.without_memory)
    title = f"A training step of {architecture.name}, batch {args.batch} at {args.size}x{args.size}"
    shown = {name: {"peak MiB": values["peak_mib"]} for name, values in found.columns.items()}
    write_rows(path, make_timing_rows(found.timings, entries[0].name, found.columns), collect_protocol(args.command))
    print_timings(console, title, found.timings, entries[0].name, {} if args.without_memory else shown)
    console.print(str(path))
    return 0


def check_numbers(args: argparse.Namespace) -> None:
    """Check ``--batch``, ``--rounds`` and ``--size``. Raises RequestError if one is too small."""
    if args.batch < 2:
        raise RequestError(
            f"--batch {args.batch} must be at least 2: batch norm computes its statistics over the batch"
        )
    for option in ("rounds", "size"):
        if getattr(args, option) < 1:
            raise RequestError(f"--{option} {getattr(args, option)} must be at least 1")


def _is_isa_capped(isa: str) -> bool:
    return all(os.environ.get(name) == value for name, value in ISA_CAPS[isa].items())


def _run_with_isa_cap(args: argparse.Namespace) -> int:
    """Run the same command in a fresh process: the libraries read the limits only when they are loaded."""
    words = shlex.split(args.command)[1:]
    out = ["--out", args.out] if args.out else []
    paths = os.pathsep.join(path or "." for path in sys.path)
    variables = os.environ | ISA_CAPS[args.isa] | {"PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-m", "resnext", *words, *out], env=variables, check=False).returncode
