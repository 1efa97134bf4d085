"""``resnext doctor``: show what this machine supports for training and inference."""

import argparse
import platform
from collections.abc import Iterator
from importlib.util import find_spec

SUMMARY = "Show what this machine supports: processor, threads, compilers, CUDA, optional packages."

OPTIONAL_PACKAGES = {  # package -> the extra that installs it
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


def list_fast_paths() -> Iterator[tuple[str, str]]:
    """List the state of the fast paths of training, without compiling or measuring anything."""
    import torch

    from resnext.speed import compiler, kernels
    from resnext.speed.tuning_cache import TuningCache

    yield (
        "C++ compiler",
        compiler.find_compiler() or "none: fused operators run as plain PyTorch (install g++ or clang++)",
    )
    if not kernels.is_fast_enabled():
        yield "fast paths", "off (RESNEXT_FAST=0)"
        return
    known = len(TuningCache.load(torch.device("cpu")).timings)
    yield "fused kernels", "compiled" if kernels.is_compiled() else "compiled when training first needs them"
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

    from resnext.environment import describe_environment
    from resnext.screen import make_screen

    facts = describe_environment("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    table.add_row("bf16 in hardware", "yes" if {"avx512_bf16", "amx_bf16"} & set(facts["isa"]) else "no or unknown")
    for name, said in list_fast_paths():
        table.add_row(name, said)
    for package, extra in OPTIONAL_PACKAGES.items():
        table.add_row(package, "installed" if find_spec(package) else f"not installed (pip install 'resnext[{extra}]')")
    make_screen().print(table)
    return 0
