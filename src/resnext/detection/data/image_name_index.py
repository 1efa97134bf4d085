"""Find the image of a data set that a path means: paths are compared from their end, folder by folder."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from resnext.errors import RequestError


class ImageNameIndex:
    """An index of the image names in the annotation file ``said_by``."""

    def __init__(self, names: Sequence[str], said_by: str) -> None:
        self.names, self.said_by = names, said_by
        self._places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            self._places.setdefault(_split_path(name)[-1], []).append(place)

    def find(self, path: str) -> int | None:
        """Find the index of the image whose name ends like ``path``, with the most equal folders; None without one.

        Either may have further folders in front. Raises RequestError where several match equally.
        """
        parts = _split_path(path)
        fitting = [
            place for place in self._places.get(parts[-1], []) if _have_same_end(parts, _split_path(self.names[place]))
        ]
        lengths = [min(len(parts), len(_split_path(self.names[place]))) for place in fitting]
        best = [place for place, length in zip(fitting, lengths, strict=True) if length == max(lengths)]
        if len(best) > 1:
            raise RequestError(
                f"{path} fits {self.names[best[0]]} and {self.names[best[1]]} of {self.said_by}: give more of its path"
            )
        return best[0] if best else None

    def can_be(self, path: str, place: int) -> bool:
        """Return whether ``path`` can be the image at ``place``."""
        return _have_same_end(_split_path(path), _split_path(self.names[place]))


def _split_path(path: str) -> tuple[str, ...]:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return tuple(part for part in parts if part not in ("/", "//")) or ("",)


def _have_same_end(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]
