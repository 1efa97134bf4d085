"""Tests of the tries of an int8 export and of what is said about them; nothing is quantised here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext import RequestError
from resnext.deploy import int8_export
from resnext.deploy.int8 import STEPS, Int8Step
from resnext.deploy.int8_export import AccuracyError, Int8Plan, Int8Result, describe_try, quantize_within_loss
from resnext.deploy.int8_gate import PairedResult


class Model:
    """What the ladder asks of an openvino.Model."""

    def clone(self) -> "Model":
        return Model()

    def get_ordered_ops(self) -> list[Any]:
        return []


class Results:
    """A judge that knows its verdicts before."""

    def __init__(self, results: Sequence[PairedResult]) -> None:
        self.results = list(results)

    def judge(self, _: Path) -> PairedResult:
        return self.results.pop(0)


class Ladder:
    """``quantize_within_loss`` with given verdicts; records the steps and the numbers of calibration images loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, int8_layers: int = 9) -> None:
        self.steps: list[Int8Step] = []
        self.loaded: list[int] = []
        self.words: list[str] = []
        monkeypatch.setattr(int8_export, "quantize_int8", self.quantise)
        monkeypatch.setattr(int8_export, "count_int8_layers", lambda model: (int8_layers, 10))

    def quantise(self, model: Model, _images: torch.Tensor, step: Int8Step, _max_drop: float) -> Model:
        self.steps.append(step)
        return model

    def calibrate(self, count: int) -> torch.Tensor:
        self.loaded.append(count)
        return torch.zeros(min(count, 700), 1, 2, 2)

    def climb(self, results: Sequence[PairedResult], max_loss: float) -> Int8Result:
        plan = Int8Plan(self.calibrate, None, max_loss, "training images")  # type: ignore[arg-type]
        judge: Any = Results(results)
        return quantize_within_loss(Model(), plan, judge, lambda model: Path("x"), self.words.append)


GOOD, BAD = PairedResult(2000, 1800, 3, 2), PairedResult(2000, 1800, 90, 2)


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> Ladder:
    return Ladder(monkeypatch)


def test_the_first_try_that_is_good_enough_ends_the_search(ladder: Ladder) -> None:
    found = ladder.climb([GOOD], 0.01)
    assert ladder.steps == [STEPS[0]]
    assert [one.result for one in found.tries] == [GOOD]


def test_tries_grow_in_cost_and_calibration_images_are_loaded_when_more_are_needed(ladder: Ladder) -> None:
    found = ladder.climb([BAD, BAD, BAD, GOOD], 0.01)
    assert ladder.steps == list(STEPS)
    assert ladder.loaded == [300, 1000]
    assert [one.calibration_images for one in found.tries] == [300, 700, 700, 700]
    assert [one.bound <= 0.01 for one in found.tries] == [False, False, False, True]


def test_no_try_that_is_good_enough_is_an_error_with_all_tries(ladder: Ladder) -> None:
    counts = r"on 2,000 images \(90 right in fp32 only, 2 right in int8 only\), at most 5\.\d\d"
    sentence = rf"int8 loses 4\.40 points {counts} .* after 4 tries; .*export in fp32.*nothing was written"
    with pytest.raises(AccuracyError, match=sentence) as caught:
        ladder.climb([BAD] * 4, 0.01)
    assert [one.result for one in caught.value.tries] == [BAD] * 4


def test_a_model_without_any_layer_in_int8_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccuracyError):
        Ladder(monkeypatch, int8_layers=0).climb([GOOD] * 4, 0.01)


@pytest.mark.parametrize(
    ("only_fp32", "sentence"),
    [(0, "; about 643 held-out images would show it"), (1, "too few .* without any changed prediction it takes 643 ")],
)
def test_fifty_images_never_show_half_a_point_however_good_they_look(
    only_fp32: int, sentence: str, ladder: Ladder
) -> None:
    with pytest.raises(AccuracyError, match=rf"on 50 images .*{sentence}"):  # ln 0.04 / ln 0.995 = 642.2
        ladder.climb([PairedResult(50, 49, only_fp32, 0)], 0.005)
    assert len(ladder.steps) == 1  # other ways to quantise would not help


def test_a_small_loss_on_few_images_says_how_many_would_show_it(ladder: Ladder) -> None:
    with pytest.raises(AccuracyError, match=r"about ([\d,]+) held-out images would show it") as caught:
        ladder.climb([PairedResult(359, 334, 2, 1)], 0.005)
    words = str(caught.value)
    needed = int(words.split("about ")[1].split(" held")[0].replace(",", ""))
    rate, z = 3 / 359, 1.7507  # normal approximation: loss + z sqrt(rate / n) = 0.005, at 96 %
    assert needed == pytest.approx((z / (0.005 - 1 / 359)) ** 2 * rate, rel=0.35)
    accepted = float(words.split("--max-loss ")[-1].split(" ")[0])
    Ladder.climb(ladder, [PairedResult(359, 334, 2, 1)], accepted / 100)  # what the sentence offers is kept


def test_a_try_is_described_by_its_entry_in_the_file(ladder: Ladder) -> None:
    found = ladder.climb([GOOD], 0.01)
    words = describe_try(found.tries[0].to_dict())
    assert ladder.words == ["int8: 300 calibration images", words]
    assert "300 calibration images; loses 0.05 points, at most" in words
    assert words.endswith("(3 right in fp32 only, 2 in int8 only, of 2,000); 9 of 10 layers in int8")


def test_missing_calibration_images_are_an_error_of_the_request() -> None:
    with pytest.raises(RequestError, match="calibration"):
        int8_export.quantize_int8(Model(), None)
