"""``resnext doctor``: show what this machine supports for training and inference."""

import argparse
import platform
from collections.abc import Iterator
from importlib.util import find_spec

SENTENCE = "Show what this machine supports: processor, threads, compilers, CUDA, optional packages."

OPTIONAL = {  # package -> the extra that installs it
    "timm": "modern",
    "datasets": "hub-data",
    "s3fs": "remote",
    "imagecorruptions": "corruptions",
    "pycocotools": "detect",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "nncf": "openvino",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def fast_paths() -> Iterator[tuple[str, str]]:
    """List the state of the fast paths of training, without compiling or measuring anything."""
    import torch

    from resnext.speed import build, kernels
    from resnext.speed.choices import Choices

    yield "C++ compiler", build.compiler() or "none: fused operators run as plain PyTorch (install g++ or clang++)"
    if not kernels.switched_on():
        yield "fast paths", "off (RESNEXT_FAST=0)"
        return
    known = len(Choices.here(torch.device("cpu")).measured)
    yield "fused kernels", "compiled" if kernels.compiled() else "compiled when training first needs them"
    yield "autotuned algorithms", f"{known} measured (resnext bench tune --show)"
    glibc = platform.libc_ver()[0] == "glibc"
    yield (
        "memory between steps",
        "kept by the process" if glibc else "managed by the C library (try jemalloc or mimalloc)",
    )


def run(_: argparse.Namespace) -> int:
    """Print a table of facts."""
    import torch
    from rich.table import Table

    from resnext.environment import environment
    from resnext.screen import screen

    facts = environment("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    table.add_row("bf16 in hardware", "yes" if {"avx512_bf16", "amx_bf16"} & set(facts["isa"]) else "no or unknown")
    for name, said in fast_paths():
        table.add_row(name, said)
    for package, extra in OPTIONAL.items():
        table.add_row(package, "installed" if find_spec(package) else f"not installed (pip install 'resnext[{extra}]')")
    screen().print(table)
    return 0
