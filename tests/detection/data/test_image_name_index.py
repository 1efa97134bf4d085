"""Paths find their image in an annotation file from the end on, and never one of two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.detection.data.image_name_index import ImageNameIndex
from resnext.errors import RequestError


def test_folders_in_front_may_be_missing_on_either_side() -> None:
    names = ImageNameIndex(["val/a.jpg", "b.jpg"], "x.json")
    assert [names.find(path) for path in ("/data/val/a.jpg", "a.jpg", "val/a.jpg", "./val/a.jpg")] == [0] * 4
    assert [names.find(path) for path in ("b.jpg", "../b.jpg", "C:\\data\\b.jpg")] == [1] * 3
    assert [names.find(path) for path in ("train/a.jpg", "xa.jpg", "a.jpg/b", "A.jpg", "")] == [None] * 5


def test_the_name_with_more_folders_wins_and_equals_are_refused() -> None:
    names = ImageNameIndex(["x.jpg", "a/x.jpg", "b/x.jpg", "a/y.jpg", "b/y.jpg"], "x.json")
    assert names.find("/data/a/x.jpg") == 1
    assert names.find("/data/c/x.jpg") == 0
    with pytest.raises(RequestError, match=r"y\.jpg fits a/y\.jpg and b/y\.jpg of x\.json"):
        names.find("y.jpg")
    assert names.find("c/y.jpg") is None


def test_a_name_agrees_or_does_not() -> None:
    names = ImageNameIndex(["val/a.jpg"], "x.json")
    assert names.can_be("a.jpg", 0)
    assert names.can_be("/data/val/a.jpg", 0)
    assert not names.can_be("train/a.jpg", 0)


PARTS = st.lists(st.sampled_from(["a", "b", "c.d"]), min_size=1, max_size=3)


@given(st.lists(PARTS, min_size=1, max_size=6, unique_by=tuple), PARTS)
def test_what_is_found_is_the_longest_common_end(names: list[list[str]], path: list[str]) -> None:
    lengths = [min(len(name), len(path)) for name in names]
    fits = [name[-n:] == path[-n:] for name, n in zip(names, lengths, strict=True)]
    longest = max((n for n, fit in zip(lengths, fits, strict=True) if fit), default=0)
    best = [i for i, (n, fit) in enumerate(zip(lengths, fits, strict=True)) if fit and n == longest]
    index = ImageNameIndex(["/".join(name) for name in names], "x.json")
    if len(best) > 1:
        with pytest.raises(RequestError):
            index.find("/".join(path))
    else:
        assert index.find("/".join(path)) == (best[0] if best else None)
