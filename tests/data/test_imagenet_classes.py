"""ImageNet's synsets and words are in the same order, so folders named by synset fit published classifiers."""

from timm.data import ImageNetInfo

from resnext.data.imagenet_classes import (
    imagenet_classes,
    imagenet_synsets,
    resolve_output_synsets,
    synsets_from_numbers,
)


def test_synsets_and_words_are_in_the_order_timm_has() -> None:
    theirs = ImageNetInfo("imagenet-1k")
    assert list(imagenet_synsets()) == list(theirs.label_names())
    assert list(imagenet_synsets()) == sorted(imagenet_synsets())
    assert len(imagenet_classes()) == 1000
    words = [theirs.index_to_description(i).lower().replace("_", " ") for i in range(1000)]
    agreeing = sum(word.lower() in described for word, described in zip(imagenet_classes(), words, strict=True))
    assert agreeing > 950  # torchvision shortens some, such as Bernese mountain dog


def test_a_classifier_of_imagenet_is_known_by_its_words_its_synsets_or_its_thousand_outputs() -> None:
    """Hugging Face's say "tench, Tinca tinca", and lists differ in a few words (crane, crane bird)."""
    theirs = ImageNetInfo("imagenet-1k")
    words = tuple(theirs.index_to_description(i) for i in range(1000))
    assert words[0] == "tench, Tinca tinca"
    for classes in (None, imagenet_classes(), words, imagenet_synsets()):
        assert resolve_output_synsets(classes, 1000) == imagenet_synsets()
    assert resolve_output_synsets(words[500:] + words[:500], 1000) is None
    assert resolve_output_synsets(None, 10) is None
    assert resolve_output_synsets(("cat", "dog"), 2) is None


def test_any_list_of_synsets_is_one_of_some_imagenet() -> None:
    more = ("n00001740", *imagenet_synsets()[::-1])
    assert resolve_output_synsets(more, 1001) == more
    assert resolve_output_synsets(("n01440764", "n0144076"), 2) is None


def test_numbers_stand_for_synsets_in_the_official_order_not_in_the_sorted_one() -> None:
    names = tuple(sorted(map(str, range(1000))))
    assert names[:4] == ("0", "1", "10", "100")
    assert synsets_from_numbers(names) == tuple(imagenet_synsets()[int(name)] for name in names)
    assert synsets_from_numbers(("2", "999")) == ("n01484850", "n15075141")
    for wrong in ("1000", "01", "-1", "", "n01440764", "٣"):
        assert synsets_from_numbers(("0", wrong)) is None
