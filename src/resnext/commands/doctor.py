"""``resnext doctor``: show what this machine supports for training and inference."""

import argparse
import platform
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnext.speed.compiler import Library

SUMMARY = "Show what this machine supports: processor, threads, compilers, CUDA, optional packages."

OPTIONAL_PACKAGES = {  # package -> the extra that installs it
    "timm": "modern",
    "datasets": "hub-data",
    "s3fs": "remote",
    "zstandard": "remote",
    "imagecorruptions": "corruptions",
    "pycocotools": "detect",
    "onnxruntime": "onnx",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "openvino": "openvino",
    "nncf": "openvino",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "fastapi": "serve",
    "uvicorn": "serve",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def list_fast_paths() -> Iterator[tuple[str, str]]:
    """List whether each fast path is active, and if not why, without compiling or measuring anything."""
    import torch

    from resnext.data.decode.turbojpeg import describe_jpeg_library, find_libjpeg
    from resnext.speed import compiler, kernels
    from resnext.speed.tuning_cache import TuningCache

    off = "" if kernels.is_fast_enabled() else "RESNEXT_FAST=0"
    yield "C++ compiler", compiler.find_compiler() or "none (install g++ or clang++, or set CXX)"
    norm_act = off or kernels.describe_norm_act_library()
    yield "fused kernels", describe_library(norm_act, "training", "plain PyTorch runs")
    turbo = find_libjpeg()
    jpeg = describe_jpeg_library(turbo) if turbo else "Pillow's libjpeg-turbo library was not found"
    yield "fast JPEG decoder", describe_library(off or jpeg, "data.jpeg_decoder fast", "Pillow decodes")
    known = len(TuningCache.load(torch.device("cpu")).timings)
    yield "autotuned algorithms", f"inactive: {off}" if off else f"{known} measured (resnext bench tune --show)"
    is_glibc = platform.libc_ver()[0] == "glibc"
    allocator = "kept by the process" if is_glibc else "managed by the C library (try jemalloc or mimalloc)"
    yield "memory between steps", allocator


def describe_library(library: "Library | str", user: str, instead: str) -> str:
    """Return the state of a compiled library: prebuilt or built here, with its file, to be built, or inactive.

    Instead of a library, a reason for which it is inactive can be given.
    """
    from resnext.speed.compiler import find_built_library, find_compiler
    from resnext.speed.prebuilt import find_prebuilt_library

    if not isinstance(library, str):
        if path := find_prebuilt_library(library):
            return f"active: prebuilt, {path}"
        if path := find_built_library(library):
            return f"active: built here, {path}"
        if find_compiler():
            return f"compiled when {user} first needs it"
        library = "no C++ compiler"
    return f"inactive, {instead} instead: {library}"


def run(_: argparse.Namespace) -> int:
    """Print a table of facts."""
    import torch
    from rich.table import Table

    from resnext.environment import describe_environment, has_bf16
    from resnext.screen import make_screen

    facts = describe_environment("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    table.add_row("bf16 in hardware", "yes" if has_bf16() else "no or unknown")
    for name, said in list_fast_paths():
        table.add_row(name, said)
    for package, extra in OPTIONAL_PACKAGES.items():
        table.add_row(package, "installed" if find_spec(package) else f"not installed (pip install 'resnext[{extra}]')")
    make_screen().print(table)
    return 0
