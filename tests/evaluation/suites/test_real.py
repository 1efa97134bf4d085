"""ReaL labels: matching by file name, scoring, and rejection of other files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.data.imagenet_classes import imagenet_classes, imagenet_synsets
from resnext.errors import RequestError
from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.metrics import compute_interval95
from resnext.evaluation.suites.real import (
    VALIDATION_IMAGES,
    map_to_imagenet1k,
    parse_image_number,
    read_real_labels,
    score_real,
)
from tests.evaluation.conftest import make_evaluation


def judged(predicted: list[int], numbers: list[int], classes: tuple[str, ...]) -> Evaluation:
    where = tuple(f"val/n01440764/ILSVRC2012_val_{number:08}.JPEG" for number in numbers)
    return replace(make_evaluation([0] * len(predicted), predicted, classes), paths=where)


def test_a_prediction_in_the_list_is_right_and_an_empty_list_is_left_out() -> None:
    labels = [frozenset[int]()] * VALIDATION_IMAGES
    labels[0], labels[4], labels[49_999] = frozenset({7}), frozenset({1, 2}), frozenset({999})
    evaluation = judged([7, 2, 3, 999, 5], [1, 5, 5, 50_000, 17], imagenet_classes())
    score = score_real(evaluation, labels)
    assert score.outcomes == ("right", "right", "wrong", "right", "no label")
    assert (score.n, score.wrong, score.unlabelled, score.error) == (4, 1, 1, 25.0)
    assert score.interval95 == compute_interval95(1, 4)
    assert score.to_dict()["correct1"] == 3


def test_a_prediction_beyond_the_thousand_is_wrong_and_others_are_found_by_synset() -> None:
    classes = ("n00000001", *imagenet_synsets())
    labels = [frozenset({0})] * VALIDATION_IMAGES
    score = score_real(judged([0, 1, 2], [1, 2, 3], classes), labels)
    assert score.outcomes == ("wrong", "right", "wrong")
    assert map_to_imagenet1k(classes)[:3].tolist() == [-1, 0, 1]


@given(
    st.integers(1, VALIDATION_IMAGES), st.sampled_from(["", "val/", "a/b c/", "n01440764\\", "ILSVRC2012_img_val.tar:"])
)
def test_the_number_is_read_off_the_file_name(number: int, folder: str) -> None:
    assert parse_image_number(f"{folder}ILSVRC2012_val_{number:08}.JPEG") == number
    assert parse_image_number(f"{folder}ILSVRC2012_val_{number:08}_n01440764.JPEG") == number


@pytest.mark.parametrize(
    "name",
    [
        *("ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_1.JPEG"),
        *("cat.JPEG", "ILSVRC2012_val_00000001.JPEG/x.JPEG", "xILSVRC2012_val_00000001.JPEG"),
    ],
)
def test_other_files_have_no_real_labels(name: str) -> None:
    with pytest.raises(RequestError, match="ReaL labels belong to"):
        parse_image_number(name)


def test_networks_of_other_classes_have_no_real_labels() -> None:
    with pytest.raises(RequestError, match="this network has others"):
        score_real(judged([0], [1], ("cat", "dog")), [frozenset({0})] * VALIDATION_IMAGES)


def test_the_file_is_read_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[1, 2], [], *([[3]] * (VALIDATION_IMAGES - 2))]))
    assert read_real_labels(path)[:3] == [{1, 2}, set(), {3}]
    for content, part in (
        ("[[1]]", "a list of 1;"),
        ("{}", "no list"),
        ("[[1]", "as JSON"),
        ("[" * 100_000, "as JSON"),
        (json.dumps([[1000]] * VALIDATION_IMAGES), "entry 1 is not"),
        (json.dumps([[True]] * VALIDATION_IMAGES), "entry 1 is not"),
        (json.dumps([[1]] * (VALIDATION_IMAGES - 1) + [3]), "entry 50000 is not"),
    ):
        path.write_text(content)
        with pytest.raises(RequestError, match=part):
            read_real_labels(path)
    with pytest.raises(RequestError, match="not a file of ReaL labels"):
        read_real_labels(tmp_path)
