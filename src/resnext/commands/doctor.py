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
    "wandb": "wandb",
    "mlflow": "mlflow",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def list_fast_paths() -> Iterator[tuple[str, str]]:
    """List whether each fast path is active, and if not why, without compiling or measuring anything."""
    import torch

    from resnext.data.decode.turbojpeg import find_libjpeg
    from resnext.speed import compiler, kernels
    from resnext.speed.tuning_cache import TuningCache

    found = compiler.find_compiler()
    off = "" if kernels.is_fast_enabled() else "RESNEXT_FAST=0"
    lacking = off or ("" if found else "no C++ compiler")
    yield "C++ compiler", found or "none (install g++ or clang++, or set CXX)"
    yield "fused kernels", describe_library("norm_act", lacking, "training", "plain PyTorch runs")
    lacking = lacking or ("" if find_libjpeg() else "Pillow's libjpeg-turbo library was not found")
    yield "fast JPEG decoder", describe_library("jpeg", lacking, "data.jpeg_decoder fast", "Pillow decodes")
    known = len(TuningCache.load(torch.device("cpu")).timings)
    yield "autotuned algorithms", f"inactive: {off}" if off else f"{known} measured (resnext bench tune --show)"
    is_glibc = platform.libc_ver()[0] == "glibc"
    allocator = "kept by the process" if is_glibc else "managed by the C library (try jemalloc or mimalloc)"
    yield "memory between steps", allocator


def describe_library(name: str, reason: str, user: str, instead: str) -> str:
    """Return the state of a compiled library: inactive for a ``reason``, active, or not compiled yet."""
    from resnext.speed.kernels import is_compiled

    if reason:
        return f"inactive, {instead} instead: {reason}"
    return "active: compiled" if is_compiled(name) else f"compiled when {user} first needs it"


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
