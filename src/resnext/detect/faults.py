"""Files of a data set that cannot be used, told all at once instead of one at a time."""

from collections.abc import Sequence
from pathlib import Path

from resnext.errors import RequestError

SHOWN = 20  # files that a message names
ROOM = 800  # characters for them: a message is cut in its middle where it is much longer


class Faults(RequestError):
    """Several files are wrong: ``faults`` has each with its sentence, the message the first of them and how many."""

    def __init__(self, said_by: str, what: str, faults: Sequence[tuple[Path, str]]) -> None:
        self.faults = tuple(faults)
        first = faults[0][1]
        if len(faults) == 1:
            super().__init__(first)
            return
        shown = _take_fitting([sentence for _, sentence in faults[:SHOWN]])
        hidden = len(faults) - len(shown)
        others = f"; and {hidden} more (resnext data check lists them all)" if hidden else ""
        super().__init__(f"{said_by}: {len(faults)} {what} cannot be used: {'; '.join(shown)}{others}")


def _take_fitting(sentences: Sequence[str]) -> list[str]:
    """The first of them that fit into ROOM, one at least."""
    shown, left = [sentences[0][:ROOM]], ROOM - len(sentences[0])
    for sentence in sentences[1:]:
        left -= len(sentence)
        if left < 0:
            break
        shown.append(sentence)
    return shown
