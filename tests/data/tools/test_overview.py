"""What a data set holds: sizes, formats, and the table of its classes."""

from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.data.decode.pillow import ImageInfo
from resnext.data.tools.overview import Overview, format_class_table, summarize_pictures


def make_info(mode: str = "RGB", kind: str = "JPEG") -> ImageInfo:
    return ImageInfo(kind, mode, (1, 1), 1, 1, False, False)


def test_smallest_median_and_largest_are_said_with_channels_and_formats() -> None:
    sizes = [(640, 480), (100, 50), (4000, 3000), (60, 80)]
    infos = [make_info(), make_info("L", "PNG"), make_info(), make_info("I;16", "TIFF")]
    overview = summarize_pictures(zip(sizes, infos, strict=True))
    assert overview is not None
    assert dict(overview.list_facts()) == {
        "size": "smallest 60 x 80, median 370 x 280, largest 4,000 x 3,000 pixels",
        "channels": "2 colour, 1 grey, 1 grey, 16 bits",
        "formats": "2 JPEG, 1 PNG, 1 TIFF",
    }
    same = summarize_pictures([((32, 32), make_info())] * 3)
    assert same is not None
    assert same.list_facts()[0] == ("size", "all 32 x 32 pixels")
    assert summarize_pictures([]) is None


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=40))
def test_every_picture_is_in_one_bin_and_bins_do_not_overlap(sizes: list[tuple[int, int]]) -> None:
    bins = Overview(np.array(sizes), {}, {}).count_sides()
    sides = [min(size) for size in sizes]
    for low, high, count in bins:
        assert count == sum(low <= side <= high for side in sides)
    assert sum(count for *_, count in bins) == len(sizes)


COUNTS = {"train": {"cat": 1200, "Übermaß mit sehr langem Namen": 300, "gone": 0}, "val": {"cat": 30, "odd\n": 7}}


def test_the_table_has_every_class_whole_and_aligned_the_largest_first() -> None:
    lines = list(format_class_table(COUNTS))
    assert [line.split()[0] for line in lines[1:]] == ["cat", "Übermaß", "odd\\n", "gone"]
    assert lines[1].split()[1:] == ["1,200", "30"]
    assert "Übermaß mit sehr langem Namen" in normalize("NFC", lines[2])
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["class", "train", "val"]


def test_a_terminal_shows_the_largest_and_smallest_of_many_classes_and_a_pipe_all() -> None:
    counts = {"": {f"c{number:03}": 1000 - number for number in range(200)}}
    assert len(list(format_class_table(counts))) == 201
    lines = list(format_class_table(counts, 10))
    assert [lines[1][:4], lines[40][:4], lines[41], lines[42][:4], lines[-1][:4]] == [
        "c000", "c039", "... 145 more classes ...", "c185", "c199",
    ]  # fmt: skip


@pytest.mark.parametrize(("bar", "mark"), [(20, "█"), (7, "#")])
def test_bars_are_as_long_as_classes_are_large(bar: int, mark: str) -> None:
    lines = list(format_class_table(COUNTS, bar, mark))
    assert [line.count(mark) for line in lines] == [0, bar, max(1, round(bar * 300 / 1230)), 1, 0]
