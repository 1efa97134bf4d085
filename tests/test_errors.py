"""What helps after a wrong word."""

from resnext.errors import nearest


def test_the_word_itself_is_never_suggested() -> None:
    assert nearest("WBC", ("RBC", "WBC")) == "; did you mean 'RBC'?"
    assert nearest("val", ("val", "train")) == "; choose from train"
    assert nearest("val", ("val",)) == ""


def test_close_choices_come_before_the_list_of_all() -> None:
    assert nearest("cifar1O", ("cifar10", "digits")) == "; did you mean 'cifar10'?"
    assert nearest("xyz", ("cifar10", "digits")) == "; choose from cifar10, digits"
    assert nearest("xyz", map(str, range(25))) == ""
