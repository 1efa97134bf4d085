"""ImageNet's synsets and words: one order, and folders named by synset meet classifiers that name words."""

import numpy as np
import pytest
from timm.data import ImageNetInfo

from resnext.data.imagenet import by_synset, imagenet_classes, imagenet_synsets
from resnext.data.source import ArrayDataset


def pictures(classes: tuple[str, ...]) -> ArrayDataset:
    labels = np.arange(len(classes), dtype=np.int64)
    return ArrayDataset("some", classes, 3, np.zeros((len(classes), 4, 4, 3), dtype=np.uint8), labels)


def test_synsets_and_words_are_in_the_order_timm_has() -> None:
    theirs = ImageNetInfo("imagenet-1k")
    assert list(imagenet_synsets()) == list(theirs.label_names())
    assert list(imagenet_synsets()) == sorted(imagenet_synsets())
    assert len(imagenet_classes()) == 1000
    words = [theirs.index_to_description(i).lower().replace("_", " ") for i in range(1000)]
    agreeing = sum(word.lower() in described for word, described in zip(imagenet_classes(), words, strict=True))
    assert agreeing > 950  # torchvision shortens some, such as Bernese mountain dog


def test_a_folder_of_some_synsets_gets_the_labels_of_the_thousand() -> None:
    some = ("n01440764", "n01491361", "n15075141")
    dataset = by_synset(pictures(some), imagenet_classes())
    assert dataset.labels.tolist() == [0, 3, 999]
    assert dataset.classes == imagenet_classes()
    assert dataset.classes[3] == "tiger shark"
    assert dataset.name == "some (3 of 1,000 classes)"
    assert dataset.image(1).size == (4, 4)
    assert by_synset(pictures(some), None).labels.tolist() == [0, 3, 999]
    assert by_synset(pictures(some), imagenet_synsets()).classes == imagenet_synsets()


def test_a_classifier_with_another_list_of_imagenets_words_takes_synsets_too() -> None:
    """Hugging Face's say "tench, Tinca tinca", and lists differ in a few words (crane, crane bird)."""
    theirs = ImageNetInfo("imagenet-1k")
    names = tuple(theirs.index_to_description(i) for i in range(1000))
    assert names[0] == "tench, Tinca tinca"
    dataset = by_synset(pictures(("n01491361",)), names)
    assert (dataset.labels.tolist(), dataset.classes) == ([3], names)
    shuffled = names[500:] + names[:500]
    assert by_synset(pictures(("n01491361",)), shuffled).classes == ("n01491361",)


@pytest.mark.parametrize("classes", [("cat", "dog"), ("n01440764", "n99999999")])
def test_other_folders_and_other_classifiers_are_left_alone(classes: tuple[str, ...]) -> None:
    dataset = pictures(classes)
    assert by_synset(dataset, imagenet_classes()) is dataset
    assert by_synset(pictures(("n01440764",)), ("a",) * 1000).classes == ("n01440764",)
