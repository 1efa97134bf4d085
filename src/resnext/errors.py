"""Errors whose message is one sentence for the user."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

MAX_MESSAGE_LENGTH = 1200  # characters of a message


class ResnextError(Exception):
    """Base of all errors whose message is shown to the user as one printable line.

    Messages can contain names from files, so they are shortened, and unprintable characters are escaped.
    """

    def __str__(self) -> str:
        said = super().__str__()
        if len(said) > MAX_MESSAGE_LENGTH:
            said = f"{said[: MAX_MESSAGE_LENGTH // 2]} ... {said[-MAX_MESSAGE_LENGTH // 2 :]}"
        return escape_unprintable(said)


class RequestError(ResnextError, ValueError):
    """The request is wrong (exit status 2): a name, key, value or path cannot be used."""


class WorkError(ResnextError, RuntimeError):
    """The work failed (exit status 1): bad data, a full disk, a loss that is not finite."""


@contextmanager
def prefix_errors(origin: object) -> Iterator[None]:
    """Let each RequestError of the ``with`` block begin with ``origin``, such as the path of the file at fault."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{origin}: {error}") from None


def escape_unprintable(text: str) -> str:
    """Escape the characters that cannot be printed, such as control characters and lone surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return a clause such as ``; did you mean 'cifar10'?`` with the closest choices, else a list of all choices.

    The word itself is never suggested: it may be a valid choice that was refused for another reason.
    """
    names = [name for name in dict.fromkeys(map(str, choices)) if name != str(word)]
    close = get_close_matches(str(word)[:MAX_MESSAGE_LENGTH], names, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    if 0 < len(names) <= 24:
        return "; choose from " + ", ".join(names)
    return ""
