"""``resnext bench ACTION``: how fast this machine trains, runs and feeds networks, beside other libraries."""

import argparse
import shlex
from importlib import import_module
from typing import Any

SENTENCE = "Measure speed and memory here, beside other libraries, in turn in one process."

ACTIONS = {  # each is add_arguments(parser) and run(args) of resnext.bench.ACTION
    "train": "a training step, beside torchvision and timm",
    "infer": "prediction by each engine, beside theirs",
    "detect": "a detector's training step and prediction, beside torchvision's own Faster R-CNN",
    "data": "from files to batches, beside torchvision's ImageFolder",
    "tune": "measure the ways to compute each layer, or show what was measured",
    "cardinality": "speed over cardinality at equal complexity",
    "growth": "a step's time and memory as batch, image size and depth grow",
    "startup": "how long resnext --help and import resnext take",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action a bench; its module is imported when it is asked for."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, sentence in ACTIONS.items():
        about = f"Measures: {sentence}."
        _fill_when_used(actions.add_parser(name, help=sentence, description=about, allow_abbrev=False), name)


def run(args: argparse.Namespace) -> int:
    """Exit status 0. Raises RequestError and WorkError."""
    return int(_module(args.action).run(args))


def _fill_when_used(parser: argparse.ArgumentParser, name: str) -> None:
    """Give ``parser`` its arguments when it parses; ``args.command`` is then the line that repeats the measurement."""
    parse = parser.parse_known_args

    def parse_known_args(words: Any = None, namespace: Any = None) -> Any:
        _module(name).add_arguments(parser)
        args, unknown = parse(words, namespace)
        args.command = shlex.join(["resnext", "bench", name, *_without_out(list(words))])
        return args, unknown

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


def _module(name: str) -> Any:
    return import_module(f"resnext.bench.{name}")


def _without_out(words: list[str]) -> list[str]:
    """Where the results go is no part of a measurement."""
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    return [word for word in words if not word.startswith("--out=")]
