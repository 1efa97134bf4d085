"""``resnext bench ACTION``: measure how fast this machine trains, runs and loads data, beside other libraries."""

import argparse
import shlex
from dataclasses import fields
from importlib import import_module
from typing import Any

from resnext.commands.bench_arguments import ADD_ARGUMENTS

SUMMARY = "Measure speed and memory on this machine, alternating with other libraries in one process."

ACTIONS = {  # each has its arguments in bench_arguments, and Options and run(options) in resnext.bench.ACTION
    "all": "training and inference on one device (a GPU), beside torchvision and timm at their best",
    "train": "a training step, beside torchvision and timm",
    "infer": "inference with each engine, beside torchvision and timm",
    "detect": "training step and inference of a detector, beside torchvision's Faster R-CNN",
    "serve": "the server under load, beside the same network without a server",
    "data": "data loading from files to batches, beside torchvision's ImageFolder",
    "tune": "autotune each layer's algorithm, or show what was measured",
    "cardinality": "speed over cardinality at equal complexity",
    "growth": "time and memory of a training step over batch size, image size and depth",
    "startup": "time of resnext --help and of import resnext",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one action per benchmark; its module is imported only when it is used."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, sentence in ACTIONS.items():
        about = f"Measures: {sentence}."
        _add_arguments_lazily(actions.add_parser(name, help=sentence, description=about, allow_abbrev=False), name)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and return its exit status."""
    action = import_module(f"resnext.bench.{args.action}")
    options = {field.name: getattr(args, field.name) for field in fields(action.Options)}
    return int(action.run(action.Options(**options)))


def _add_arguments_lazily(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the arguments only when ``parser`` parses; set ``args.command`` to the command that repeats the benchmark."""
    parse = parser.parse_known_args

    def parse_known_args(words: Any = None, namespace: Any = None) -> Any:
        ADD_ARGUMENTS[name](parser)
        args, unknown = parse(words, namespace)
        args.command = shlex.join(["resnext", "bench", name, *_remove_out_option(list(words))])
        return args, unknown

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


def _remove_out_option(words: list[str]) -> list[str]:
    """Remove --out: where results go is not part of the benchmark."""
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    return [word for word in words if not word.startswith("--out=")]
