"""Class lists that differ are shown where they differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.data import check_same_classes
from resnext.errors import RequestError

names = st.lists(st.text("abc", min_size=1, max_size=2), max_size=12, unique=True)


def test_equal_lists_pass_whatever_their_type() -> None:
    check_same_classes(("cat", "dog"), ["cat", "dog"], "val/")


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("cat cow dog", "cat dog", r"the model and of my photos .*3 .*2.*only the model has 'cow'"),
        ("cat dog", "cat Dog", r"only the model has 'dog'; only my photos has 'Dog'.*class 1: 'dog' against 'Dog'"),
        ("one ten two", "one two ten", r"order.*class 1 is 'ten' in the model but 'two' in my photos"),
    ],
)
def test_the_difference_is_shown(model: str, data: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_same_classes(model.split(), data.split(), "my photos")


def test_long_lists_are_cut() -> None:
    with pytest.raises(RequestError) as caught:
        check_same_classes([f"a{i}" for i in range(1000)], [f"b{i}" for i in range(1000)], "the data")
    assert "and 995 more" in str(caught.value)
    assert len(str(caught.value)) < 500


@given(names, names)
def test_it_passes_exactly_when_the_lists_are_equal(first: list[str], second: list[str]) -> None:
    if first == second:
        check_same_classes(first, second, "the data")
    else:
        with pytest.raises(RequestError):
            check_same_classes(first, second, "the data")
