"""An error that reports all unusable files of a data set at once."""

from collections.abc import Sequence
from pathlib import Path

from resnext.errors import RequestError

MAX_SHOWN = 20  # files named in the message
MAX_MESSAGE_CHARS = 800  # characters for their sentences; much longer messages are shortened in the middle


class FaultyFilesError(RequestError):
    """Files cannot be used. ``faults`` has every file with its error; the message has the first ones and the count."""

    def __init__(self, said_by: str, what: str, faults: Sequence[tuple[Path, str]]) -> None:
        self.faults = tuple(faults)
        first = faults[0][1]
        if len(faults) == 1:
            super().__init__(first)
            return
        shown = _take_while_fitting([sentence for _, sentence in faults[:MAX_SHOWN]])
        hidden = len(faults) - len(shown)
        others = f"; and {hidden} more (resnext data check lists them all)" if hidden else ""
        super().__init__(f"{said_by}: {len(faults)} {what} cannot be used: {'; '.join(shown)}{others}")


def _take_while_fitting(sentences: Sequence[str]) -> list[str]:
    """Take the first sentences that fit into MAX_MESSAGE_CHARS, at least one."""
    shown, left = [sentences[0][:MAX_MESSAGE_CHARS]], MAX_MESSAGE_CHARS - len(sentences[0])
    for sentence in sentences[1:]:
        left -= len(sentence)
        if left < 0:
            break
        shown.append(sentence)
    return shown
