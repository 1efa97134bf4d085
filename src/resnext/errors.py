"""The two ways a request can end badly, and the sentence that helps."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1200  # characters of a message


class ResnextError(Exception):
    """Base of every error whose message is meant for the user as it stands: one line that any terminal can show.

    Files put names into messages, and names can hold anything: control characters, halves of letters, megabytes.
    """

    def __str__(self) -> str:
        said = super().__str__()
        if len(said) > LONGEST:
            said = f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"
        return printable(said)


class RequestError(ResnextError, ValueError):
    """The request was wrong (exit status 2): a name, key, value or path that cannot be used."""


class WorkError(ResnextError, RuntimeError):
    """The work failed (exit status 1): bad data met on the way, a full disk, a loss that is not finite."""


def printable(text: str) -> str:
    """``text`` with what no terminal should be sent (control characters, halves of letters) spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def nearest(word: str, choices: Iterable[str]) -> str:
    """A clause such as ``; did you mean 'cifar10'?`` for the closest choices, else the list of them all."""
    names = list(dict.fromkeys(map(str, choices)))
    close = get_close_matches(str(word)[:LONGEST], names, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    if 0 < len(names) <= 24:
        return "; choose from " + ", ".join(names)
    return ""
