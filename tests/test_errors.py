"""The clause that suggests what may have been meant."""

from hypothesis import given
from hypothesis import strategies as st

from resnext.errors import did_you_mean

WORDS = st.text("abAB", max_size=4)


def test_the_nearest_choices_are_named_or_all_of_them() -> None:
    assert did_you_mean("WBCs", ["RBC", "WBC"]) == "; did you mean 'WBC'?"
    assert did_you_mean("--aut", ["--out", "--out", "--epochs"]) == "; did you mean '--out'?"
    assert did_you_mean("cat", ["dog", "bird"]) == "; choose from dog, bird"
    assert did_you_mean("cat", map(str, range(25))) == ""


@given(WORDS, st.lists(WORDS))
def test_a_word_is_never_suggested_in_place_of_itself(word: str, choices: list[str]) -> None:
    assert repr(word) not in did_you_mean(word, [*choices, word])
    assert did_you_mean(word, [word, *choices]) == did_you_mean(word, [choice for choice in choices if choice != word])
