"""Class lists that differ are shown where they differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.data import check_same_classes
from resnext.errors import RequestError

names = st.lists(st.text("abc", min_size=1, max_size=2), max_size=12, unique=True)


def test_equal_lists_pass_whatever_their_type() -> None:
    check_same_classes(("cat", "dog"), ["cat", "dog"], "val/")


def test_another_count_and_the_missing_name_are_shown() -> None:
    with pytest.raises(RequestError, match=r"holiday photos.*3 .*2.*only the model has 'cow'"):
        check_same_classes(("cat", "cow", "dog"), ("cat", "dog"), "holiday photos")


def test_names_that_only_the_data_has_are_shown() -> None:
    with pytest.raises(
        RequestError, match=r"only the model has 'dog'; only the data has 'Dog'.*class 1: 'dog' against 'Dog'"
    ):
        check_same_classes(("cat", "dog"), ("cat", "Dog"), "the data")


def test_another_order_is_shown_place_by_place() -> None:
    with pytest.raises(RequestError, match=r"order.*class 1 is 'class10' in the model but 'class2' in the data"):
        check_same_classes(("class1", "class10", "class2"), ("class1", "class2", "class10"), "the data")


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
