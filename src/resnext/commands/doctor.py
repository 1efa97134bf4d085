"""``resnext doctor``: what this machine offers to training and prediction."""

import argparse
import shutil
from importlib.util import find_spec

SENTENCE = "Say what this machine offers: processor, threads, compilers, CUDA, optional packages."

OPTIONAL = {  # package -> the extra that brings it
    "timm": "modern",
    "datasets": "hub-data",
    "s3fs": "remote",
    "imagecorruptions": "corruptions",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "nncf": "openvino",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(_: argparse.Namespace) -> int:
    """Print a table of facts."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from resnext.environment import environment

    facts = environment("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    table.add_row("bf16 in hardware", "yes" if {"avx512_bf16", "amx_bf16"} & set(facts["isa"]) else "no or unknown")
    table.add_row("C++ compiler", shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") or "none")
    for package, extra in OPTIONAL.items():
        table.add_row(package, "installed" if find_spec(package) else f"not installed (pip install 'resnext[{extra}]')")
    Console().print(table)
    return 0
