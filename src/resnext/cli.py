"""The command line: a table of verbs. Nothing heavy is imported before the verb is known, nor for its --help.

Exit status 0: done; 1: the work failed; 2: the request was wrong.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from resnext.errors import RequestError, ResnextError, nearest, printable
from resnext.streams import lenient_streams
from resnext.version import __version__

VERBS = {
    "models": "list the networks of the paper and their sizes",
    "info": "print a network as the paper's Table 1 does",
    "design": "solve for the width d (or cardinality C) that meets a budget",
    "data": "check a folder of images before training on it",
    "train": "train a network by a recipe, or go on with a run",
    "evaluate": "judge a run or weights on labelled images",
    "predict": "name what is in images",
    "detect": "train, judge and use a detector (Faster R-CNN) on these networks",
    "paper": "show the paper's tables and figures, measured and missing; run what is missing",
    "bench": "measure speed and memory here, beside other libraries",
    "convert": "move weights between formats",
    "doctor": "say what this machine offers",
}

INVALID = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")  # argparse's words
WORD = r"[^\s',]+"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with lenient_streams() as streams:
        status = _run_and_explain(arguments)
        lost = streams.lost()
        if lost is not None:
            print(f"resnext: standard output could not be written: {lost}", file=sys.stderr)
        return status or int(lost is not None)


def _run_and_explain(arguments: list[str]) -> int:
    """Run one command; what ends it early is told in one sentence on standard error."""
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    try:
        return _run(arguments)
    except ResnextError as error:
        if debug:
            raise
        print(f"resnext: {error}", file=sys.stderr)
        return 2 if isinstance(error, RequestError) else 1
    except KeyboardInterrupt:
        if debug:
            raise
        print("resnext: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            raise
        print(f"resnext: {_explained(error)} (--debug shows where)", file=sys.stderr)
        return 1


def _explained(error: Exception) -> str:
    """One line about an error that nobody expected."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return printable(f"{error.filename}: {error.strerror}")
    said = printable(f"{type(error).__name__}: {error}")
    if isinstance(error, UnicodeEncodeError) and not sys.getfilesystemencoding().startswith("utf"):
        return f"{said}; names of files are in {sys.getfilesystemencoding()} here: set PYTHONUTF8=1"
    return said


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(__version__)
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        raise RequestError(f"unknown verb {verb!r}{nearest(verb, VERBS)}")
    command = import_module(f"resnext.commands.{verb}")
    parser = Parser(prog=f"resnext {verb}", description=command.SENTENCE)
    command.add_arguments(parser)
    parser.epilog = "--debug shows where an error came from."
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        raise RequestError(_unknown(unknown[0], parser, command, args))
    return int(command.run(args))


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are our one-sentence errors; no option can be shortened, also not of an action."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | options)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise instead of printing the usage: main() turns it into exit status 2."""
        wrong = INVALID.search(message)
        if wrong:
            what, said, choices = message[: wrong.start()], wrong[1], re.findall(WORD, wrong[2])
            raise RequestError(f"{what.removeprefix('argument ')}invalid choice {said!r}{nearest(said, choices)}")
        raise RequestError(f"{message}; {self.prog} --help says more")


def _unknown(word: str, parser: argparse.ArgumentParser, command: ModuleType, args: argparse.Namespace) -> str:
    option = word.partition("=")[0]
    known = list(_options(parser, args))
    if option.startswith("-"):
        hint = nearest(option, [name for name in known if len(name) > 2])
        return f"{parser.prog}: unknown option {option}{hint or f'; {parser.prog} --help lists them'}"
    return f"{parser.prog}: {word!r} is one word too many; {command.SENTENCE}"


def _options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[str]:
    """The options of a verb and of the action that was asked for."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action.choices, dict):
            yield from _options(action.choices[getattr(args, action.dest)], args)


def _overview() -> str:
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:<{width}}  {sentence}" for verb, sentence in VERBS.items())
    return (
        "resnext: aggregated residual transformations, from the paper's tables to a trained network\n\n"
        f"usage: resnext VERB ...\n\n{rows}\n\nresnext VERB --help says more; --version prints {__version__}"
    )
