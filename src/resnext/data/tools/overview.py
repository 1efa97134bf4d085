"""What a data set of pictures holds: how many of each class, their sizes, channels and formats."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from resnext.data.decode.pillow import ImageInfo
from resnext.errors import escape_unprintable

BINS = 16  # of the histogram of sizes
LARGEST, SMALLEST = 40, 15  # classes that a terminal shows
CHANNELS = {"1": "black and white", "L": "grey", "LA": "grey", "CMYK": "CMYK"}  # other modes are colours


@dataclass(frozen=True)
class Overview:
    """Facts about the pictures that can be read."""

    sizes: np.ndarray  # width and height as they are used, int64 [N, 2]
    formats: dict[str, int]  # pictures of each format, the most frequent first
    channels: dict[str, int]  # colour, grey, ...

    @property
    def smallest(self) -> tuple[int, int]:
        """Width and height of the picture with the fewest pixels."""
        return self._pick(int(self.sizes.prod(axis=1).argmin()))

    @property
    def largest(self) -> tuple[int, int]:
        """Width and height of the picture with the most pixels."""
        return self._pick(int(self.sizes.prod(axis=1).argmax()))

    @property
    def median(self) -> tuple[int, int]:
        """Median width and median height."""
        return int(median(self.sizes[:, 0])), int(median(self.sizes[:, 1]))

    def _pick(self, index: int) -> tuple[int, int]:
        width, height = self.sizes[index].tolist()
        return width, height

    def count_sides(self) -> list[tuple[int, int, int]]:
        """Count the shorter sides in bins: the first side of a bin, the last one, and the pictures in it.

        Bins are equal on a logarithmic scale.
        """
        sides = self.sizes.min(axis=1)
        low, high = int(sides.min()), int(sides.max()) + 1
        edges = np.unique(np.geomspace(low, high, BINS + 1).round().astype(int))
        counts, _ = np.histogram(sides, edges)
        return [(int(a), int(b) - 1, int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]

    def list_facts(self) -> list[tuple[str, str]]:
        """List sizes, channels and formats as pairs of a heading and a text."""
        sizes = (f"smallest {_format_size(self.smallest)}", f"median {_format_size(self.median)}")
        same = self.smallest == self.largest and len(np.unique(self.sizes, axis=0)) == 1
        text = (
            f"all {_format_size(self.smallest)}"
            if same
            else ", ".join((*sizes, f"largest {_format_size(self.largest)}"))
        )
        return [
            ("size", f"{text} pixels"),
            ("channels", _format_counts(self.channels)),
            ("formats", _format_counts(self.formats)),
        ]


def summarize_pictures(pictures: Iterable[tuple[tuple[int, int], ImageInfo]]) -> Overview | None:
    """Summarize pictures, given by their size and the facts on their files; None if there are none."""
    sizes, formats, channels = [], Counter[str](), Counter[str]()
    for size, info in pictures:
        sizes.append(size)
        formats[info.format] += 1
        deep = info.mode.startswith(("I", "F"))
        channels["grey, 16 bits" if deep else CHANNELS.get(info.mode, "colour")] += 1
    if not sizes:
        return None
    return Overview(np.array(sizes, np.int64), dict(formats.most_common()), dict(channels.most_common()))


def list_class_rows(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, tuple[int, ...]]]:
    """List each class with its pictures in each split, the largest class first."""
    names = dict.fromkeys(name for of_split in counts.values() for name in of_split)
    rows = [(name, tuple(of_split.get(name, 0) for of_split in counts.values())) for name in names]
    return sorted(rows, key=lambda row: (-sum(row[1]), row[0]))


def format_class_table(counts: Mapping[str, Mapping[str, int]], bar: int = 0, mark: str = "█") -> Iterator[str]:
    """Format the pictures of each class as aligned lines, with bars of at most ``bar`` characters.

    With bars, which are for terminals, only the largest and the smallest of many classes are shown.
    """
    rows = [(escape_unprintable(name), numbers) for name, numbers in list_class_rows(counts)]
    splits = [split or "pictures" for split in counts]
    width = max([len("class"), *(len(name) for name, _ in rows)])
    widths = [max(len(split), len(f"{max(n[i] for _, n in rows):,}")) for i, split in enumerate(splits)] if rows else []
    most = max((sum(numbers) for _, numbers in rows), default=1)
    heads = "  ".join(split.rjust(size) for split, size in zip(splits, widths, strict=True))
    yield f"{'class'.ljust(width)}  {heads}"
    hidden = range(LARGEST, len(rows) - SMALLEST) if bar else range(0)
    for place, (name, numbers) in enumerate(rows):
        if place in hidden:
            if place == hidden.start:
                yield f"... {len(hidden):,} more classes ..."
            continue
        cells = "  ".join(f"{number:,}".rjust(size) for number, size in zip(numbers, widths, strict=True))
        length = max(1, round(bar * sum(numbers) / most)) if bar and sum(numbers) else 0
        yield f"{name.ljust(width)}  {cells}  {mark * length}".rstrip()


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,}"


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
