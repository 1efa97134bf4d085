"""Mapping labels to networks with other class names, more classes, or restricted outputs."""

from pathlib import Path

import numpy as np
import pytest

from resnext.data.dataset import ArrayDataset
from resnext.data.imagenet_classes import imagenet_classes, imagenet_synsets
from resnext.errors import RequestError
from resnext.evaluation.label_mapping import find_output_indices, map_labels, read_restriction

MORE = tuple(sorted((*imagenet_synsets(), *(f"n{90000000 + i}" for i in range(30)), *("n00000001", "n02000000"))))
SOME = ("n01440764", "n01491361", "n15075141")


def pictures(classes: tuple[str, ...]) -> ArrayDataset:
    labels = np.arange(len(classes), dtype=np.int64)
    return ArrayDataset("some", classes, 3, np.zeros((len(classes), 4, 4, 3), dtype=np.uint8), labels)


@pytest.mark.parametrize("classes", [None, imagenet_classes(), imagenet_synsets()])
def test_a_folder_of_some_synsets_gets_the_labels_of_the_thousand(classes: tuple[str, ...] | None) -> None:
    answers = map_labels(pictures(SOME), classes, 1000)
    assert answers.output_indices is None
    assert answers.dataset.labels.tolist() == [0, 3, 999]
    assert answers.dataset.classes == (classes or imagenet_classes())
    assert answers.dataset.name == "some (3 of 1,000 classes)"
    assert answers.dataset.image(1).size == (4, 4)


@pytest.mark.parametrize("classes", [("cat", "dog"), ("n01440764", "n99999999")])
def test_other_folders_and_other_classifiers_are_left_alone(classes: tuple[str, ...]) -> None:
    dataset = pictures(classes)
    assert map_labels(dataset, imagenet_classes(), 1000).dataset is dataset
    assert map_labels(dataset, classes, 2).dataset is dataset
    assert map_labels(dataset, None, 2).dataset is dataset
    thousand = pictures(SOME)
    assert map_labels(thousand, ("a",) * 1000, 1000).dataset is thousand


def test_classes_are_matched_by_name_in_any_order_and_some_may_be_missing() -> None:
    names = ("dog", "ant", "cat")
    whole = map_labels(pictures(("ant", "cat", "dog")), names, 3)
    assert whole.dataset.classes == names
    assert whole.dataset.labels.tolist() == [1, 2, 0]
    assert whole.dataset.name == "some"
    some = map_labels(pictures(("cat", "dog")), names, 3)
    assert some.dataset.labels.tolist() == [2, 0]
    assert some.dataset.name == "some (2 of 3 classes)"
    assert some.output_indices is None


def test_a_class_without_images_may_be_unknown_and_one_with_images_is_not_hidden() -> None:
    pixels = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    data = ArrayDataset("some", ("ant", "cat", "dog"), 3, pixels, np.array([2, 0]))
    assert map_labels(data, ("dog", "ant"), 2).dataset.labels.tolist() == [0, 1]
    assert map_labels(data, ("cat", "ant"), 2).dataset is data
    assert map_labels(data, ("dog", "ant", "dog"), 3).dataset is data  # which of the two?


def test_a_network_of_more_synsets_is_asked_about_the_thousand_by_name() -> None:
    whole = pictures(imagenet_synsets())
    answers = map_labels(whole, MORE, len(MORE))
    assert answers.output_indices is None
    assert answers.dataset.classes == MORE
    assert [MORE[label] for label in answers.dataset.labels] == list(imagenet_synsets())
    assert answers.dataset.name == f"some (1,000 of {len(MORE):,} classes)"


def test_restricted_to_the_thousand_the_network_of_more_has_their_labels() -> None:
    answers = map_labels(pictures(imagenet_synsets()), MORE, len(MORE), "imagenet1k")
    assert answers.output_indices is not None
    assert [MORE[i] for i in answers.output_indices] == list(imagenet_synsets())
    assert answers.dataset.labels.tolist() == list(range(1000))
    assert answers.dataset.classes == imagenet_synsets()
    some = map_labels(pictures(SOME), MORE, len(MORE), "imagenet1k")
    assert some.dataset.labels.tolist() == [0, 3, 999]


def test_classes_without_images_do_not_stand_in_the_way_of_a_restriction() -> None:
    """The held-out images of ImageNet-5K have its 5,000 classes, and images of 1,000."""
    labels = np.array([MORE.index(synset) for synset in SOME])
    data = ArrayDataset("5K val", MORE, 3, np.zeros((3, 4, 4, 3), dtype=np.uint8), labels)
    answers = map_labels(data, MORE, len(MORE), "imagenet1k")
    assert answers.dataset.labels.tolist() == [0, 3, 999]
    assert answers.dataset.name == "5K val"
    assert map_labels(data, MORE, len(MORE)).dataset is data
    assert map_labels(data, MORE, len(MORE), "data").dataset.classes == SOME


def test_a_network_of_words_is_restricted_to_the_synsets_the_data_has() -> None:
    answers = map_labels(pictures(SOME[::-1]), imagenet_classes(), 1000, "data")
    assert answers.output_indices is not None
    assert answers.output_indices.tolist() == [0, 3, 999]
    assert answers.dataset.classes == ("tench", "tiger shark", "toilet tissue")
    assert answers.dataset.labels.tolist() == [2, 1, 0]


def test_numbered_folders_are_the_official_order_and_not_the_sorted_one() -> None:
    """ImageNet-V2 names folders by number; sorted as text (1, 10, 100), nine of ten classes would get a wrong label."""
    dataset = pictures(tuple(sorted(map(str, range(1000)))))
    networks = ((imagenet_classes(), 1000, None), (None, 1000, None), (MORE, len(MORE), "imagenet1k"))
    for classes, count, restrict in networks:
        answers = map_labels(dataset, classes, count, restrict)
        assert answers.dataset.labels.tolist() == [int(name) for name in dataset.classes]
    open_labels = map_labels(dataset, MORE, len(MORE)).dataset.labels
    assert [MORE[label] for label in open_labels] == [imagenet_synsets()[int(name)] for name in dataset.classes]


def test_digits_before_a_network_of_digits_are_digits() -> None:
    dataset = pictures(tuple("0123456789"))
    assert map_labels(dataset, tuple("0123456789"), 10).dataset is dataset


def test_a_restriction_by_file_takes_names_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("dog\n\n  cat \n")
    answers = map_labels(pictures(("cat", "dog")), ("bird", "dog", "cat"), 3, str(file))
    assert answers.output_indices is not None
    assert answers.output_indices.tolist() == [1, 2]
    assert answers.dataset.classes == ("dog", "cat")
    assert answers.dataset.labels.tolist() == [1, 0]
    with pytest.raises(RequestError, match="excludes: 'bird'"):
        map_labels(pictures(("bird", "cat")), ("bird", "dog", "cat"), 3, str(file))


def test_restrictions_that_cannot_be_met_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no class 'birds'.*did you mean 'bird'"):
        find_output_indices(("birds",), ("bird", "dog"), ("bird", "dog"))
    with pytest.raises(RequestError, match=r"no class 'n01440764', .* and 995 more"):
        map_labels(pictures(("cat", "dog")), ("cat", "dog"), 2, "imagenet1k")
    with pytest.raises(RequestError, match="'crane' is the name of 2 classes"):
        find_output_indices(("crane", "dog"), ("crane", "dog", "crane"), ("n1", "n2", "n3"))
    with pytest.raises(RequestError, match="named twice"):
        find_output_indices(("tench", "n01440764"), imagenet_classes(), imagenet_synsets())
    with pytest.raises(RequestError, match="no class names"):
        map_labels(pictures(("cat", "dog")), None, 2, "data")
    one = tmp_path / "one.txt"
    one.write_text("cat\n")
    with pytest.raises(RequestError, match="at least two"):
        read_restriction(str(one), ())
    one.write_bytes(b"\xff\xfe\n")
    with pytest.raises(RequestError, match="cannot be read"):
        read_restriction(str(one), ())
    with pytest.raises(RequestError, match="give imagenet1k, data or a file"):
        read_restriction("imagenet", ())
