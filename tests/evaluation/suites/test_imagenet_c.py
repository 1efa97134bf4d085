"""ImageNet-C's folders and the mCE, against the arithmetic of the authors' script."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.evaluation.metrics import compute_interval95
from resnext.evaluation.suites.imagenet_c import (
    ALEXNET_ERRORS,
    CORRUPTIONS,
    CorruptionResult,
    compute_mce,
    compute_mean_errors,
    explain_missing_mce,
    find_corruptions,
    summarize_results,
)


def whole(errors: Sequence[int], n: int = 100) -> list[CorruptionResult]:
    """75 results of ``n`` images."""
    return [CorruptionResult(name, s + 1, n, errors[5 * i + s]) for i, name in enumerate(CORRUPTIONS) for s in range(5)]


def test_the_fifteen_are_the_papers_in_its_order() -> None:
    assert len(CORRUPTIONS) == 15
    assert CORRUPTIONS[0] == "gaussian_noise"
    assert CORRUPTIONS[-1] == "jpeg_compression"


@given(st.lists(st.integers(0, 100), min_size=75, max_size=75))
def test_mce_is_the_mean_of_ratios_of_sums(errors: list[int]) -> None:
    total = 0.0
    for i, alexnet in enumerate(ALEXNET_ERRORS.values()):
        ours = sum(wrong / 100 for wrong in errors[5 * i : 5 * i + 5])
        total += 100 * ours / (5 * alexnet)
    assert compute_mce(whole(errors)) == pytest.approx(total / 15, rel=1e-12)


def test_alexnet_itself_has_an_mce_of_100() -> None:
    errors = [round(10**6 * alexnet) for alexnet in ALEXNET_ERRORS.values() for _ in range(5)]
    assert compute_mce(whole(errors, 10**6)) == pytest.approx(100, abs=1e-9)


def test_without_all_of_them_there_is_no_mce_and_it_says_why() -> None:
    results = whole([50] * 75)
    assert compute_mce(results[:-1]) is None
    assert explain_missing_mce(results[:-1]) == "1 of the 75 are missing: jpeg_compression 5"
    first = "gaussian_noise 1, gaussian_noise 2, gaussian_noise 3"
    assert explain_missing_mce(results[5:]) == f"5 of the 75 are missing: {first} and 2 more"
    uneven = [*results[:-1], CorruptionResult("jpeg_compression", 5, 99, 5)]
    assert compute_mce(uneven) is None
    assert explain_missing_mce(uneven) == "they hold between 99 and 100 images"
    more = [*results, CorruptionResult("saturate", 1, 7, 7)]
    assert compute_mce(more) == compute_mce(results)
    assert compute_mean_errors(more)["saturate"] == 100
    assert list(compute_mean_errors(more[::-1])) == [*CORRUPTIONS, "saturate"]


def test_what_was_made_here_is_never_called_imagenet_c() -> None:
    numbers = summarize_results(whole([50] * 75), official=False)
    assert numbers["mce"] is None
    assert numbers["no_mce_because"] == "the images were corrupted here, not taken from ImageNet-C"
    assert numbers["mean_error"] == 50
    assert numbers["results"][0]["top1_error_interval95"] == list(compute_interval95(50, 100))
    assert summarize_results(whole([50] * 75), official=True)["mce"] is not None


@pytest.mark.parametrize("groups", [("", ""), ("noise", "weather")])
def test_folders_are_found_flat_and_in_the_groups_of_the_download(tmp_path: Path, groups: tuple[str, str]) -> None:
    for group, name in zip(groups, ("shot_noise", "fog"), strict=True):
        for severity in ("1", "5", "6", "notes"):
            (tmp_path / group / name / severity / "n01440764").mkdir(parents=True)
    (tmp_path / "extra" / "saturate" / "3").mkdir(parents=True)
    (tmp_path / "readme.txt").write_text("")
    found = find_corruptions(tmp_path)
    assert list(found) == [("shot_noise", 1), ("shot_noise", 5), ("fog", 1), ("fog", 5), ("saturate", 3)]
    assert found["fog", 5] == tmp_path / groups[1] / "fog" / "5"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not a folder; expected DIR/CORRUPTION"):
        find_corruptions(tmp_path / "nowhere")
    (tmp_path / "val" / "n01440764").mkdir(parents=True)
    with pytest.raises(RequestError, match="holds no corruptions"):
        find_corruptions(tmp_path)
    for parent in ("", "weather"):
        (tmp_path / parent / "fog" / "1").mkdir(parents=True)
    with pytest.raises(RequestError, match="fog 1 exists twice"):
        find_corruptions(tmp_path)
