"""The command line: a table of verbs. Heavy modules are imported only when a verb runs, not for --help.

Exit status 0: done; 1: the work failed; 2: the request was wrong.
"""

import argparse
import atexit
import gc
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from resnext.errors import RequestError, ResnextError, did_you_mean, escape_unprintable
from resnext.streams import describe_loss, use_lenient_streams
from resnext.version import __version__

VERBS = {
    "models": "list the paper's networks and their sizes",
    "info": "show a network's stages and costs, as the paper's Table 1 does",
    "design": "find the width d (or cardinality C) that meets a budget",
    "data": "check a data set before training, or write it as shards",
    "recipes": "list the recipes that come with the package, or print one",
    "train": "train a network on a folder of photos or by a recipe, or resume a run",
    "crossval": "cross-validate on a folder of photos or by a recipe, and find labels that look wrong",
    "evaluate": "evaluate a run or a weights file on labelled images",
    "predict": "classify images",
    "detect": "train, evaluate and run object detectors (Faster R-CNN)",
    "paper": "show the paper's tables and figures beside measured results; run what is missing",
    "serve": "serve models over HTTP, with a page to try them",
    "bench": "measure speed and memory on this machine, beside other libraries",
    "prune": "take the least useful paths out of a trained network",
    "grow": "add paths to a network that it can learn to use",
    "convert": "convert weights between formats",
    "export": "write a network for ONNX Runtime or OpenVINO, verified",
    "doctor": "show what this machine supports",
}

INVALID_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")  # argparse's message
WORD_PATTERN = r"[^\s',]+"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    if arguments is None:  # a process of its own: at its end Python need not search PyTorch for garbage, for a second
        atexit.register(gc.freeze)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with use_lenient_streams() as output:
        status = _run_and_explain(arguments)
        lost = describe_loss(output)
        if lost is not None:
            print(f"resnext: standard output could not be written: {lost}", file=sys.stderr)
        return status or int(lost is not None)


def _run_and_explain(arguments: list[str]) -> int:
    """Run one command; print an error as one sentence on standard error."""
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    try:
        return _run(arguments)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        print(f"resnext: {_explain_error(error)}", file=sys.stderr)
        return 2 if isinstance(error, RequestError) else 1


def _explain_error(error: Exception | KeyboardInterrupt) -> str:
    """Describe an error in one line."""
    if isinstance(error, ResnextError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    said = escape_unprintable(f"{type(error).__name__}: {error}")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        said = escape_unprintable(f"{error.filename}: {error.strerror}")
    elif isinstance(error, UnicodeEncodeError) and not sys.getfilesystemencoding().startswith("utf"):
        said += f"; file names are encoded as {sys.getfilesystemencoding()} here: set PYTHONUTF8=1"
    return f"{said} (--debug shows where)"


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_format_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(__version__)
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        if not os.path.isdir(verb):
            folder = f"; nor is there a folder {verb!r} to train on" if re.search(r"[^\w-]", verb) else ""
            raise RequestError(f"unknown verb {verb!r}{did_you_mean(verb, VERBS)}{folder}")
        print(escape_unprintable(f"resnext train {shlex.join(arguments)}"), flush=True)
        verb, rest = "train", arguments
    command = import_module(f"resnext.commands.{verb}")
    parser = Parser(prog=f"resnext {verb}", description=command.SUMMARY)
    command.add_arguments(parser)
    parser.epilog = "--debug shows where an error came from."
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        raise RequestError(_explain_unknown(unknown[0], parser, command, args))
    return int(command.run(args))


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises RequestError and accepts no abbreviated options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | options)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise RequestError instead of printing the usage; main() returns exit status 2."""
        wrong = INVALID_CHOICE.search(message)
        if wrong:
            what, said, choices = message[: wrong.start()], wrong[1], re.findall(WORD_PATTERN, wrong[2])
            raise RequestError(f"{what.removeprefix('argument ')}invalid choice {said!r}{did_you_mean(said, choices)}")
        raise RequestError(f"{message}; {self.prog} --help says more")


def _explain_unknown(word: str, parser: argparse.ArgumentParser, command: ModuleType, args: argparse.Namespace) -> str:
    option = word.partition("=")[0]
    known = list(_list_options(parser, args))
    if option.startswith("-"):
        hint = did_you_mean(option, [name for name in known if len(name) > 2])
        return f"{parser.prog}: unknown option {option}{hint or f'; {parser.prog} --help lists them'}"
    return f"{parser.prog}: unexpected argument {word!r}; {command.SUMMARY}"


def _list_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[str]:
    """List the options of a verb and of its chosen action."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            yield from _list_options(action.choices[getattr(args, action.dest)], args)


def _format_overview() -> str:
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:<{width}}  {sentence}" for verb, sentence in VERBS.items())
    return (
        "resnext: train, evaluate and run ResNeXt networks (aggregated residual transformations)\n\n"
        "usage: resnext VERB ...\n"
        "       resnext PHOTOS   trains on a folder that has a folder of pictures for each class\n\n"
        f"{rows}\n\nresnext VERB --help says more; --version prints {__version__}"
    )
