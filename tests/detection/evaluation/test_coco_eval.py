import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from resnext.detection.evaluation.coco_eval import (
    STATS,
    DetectionEvaluation,
    Detections,
    _run_coco_eval,
    count_images_over_limit,
    evaluate_detections,
    sort_detections,
)
from resnext.detection.evaluation.coco_results import write_coco_results
from resnext.detection.evaluation.matching import IGNORED, UNMATCHED
from resnext.errors import RequestError, WorkError
from tests.detection.synthetic import dataset, detections, random_case

A, B, C = [10, 10, 60, 60], [100, 100, 180, 200], [300, 50, 400, 140]
FAR = [500, 400, 560, 460]
CLOSE = pytest.approx


def numbers(evaluation: DetectionEvaluation) -> list[float | None]:
    return [getattr(evaluation, name) for name in STATS]


def test_every_box_found_exactly_is_an_ap_of_one() -> None:
    data = dataset([(0, 0, A), (1, 1, B)], images=2, classes=("cat", "dog"))
    result = evaluate_detections(data, detections((0, 0, A, 0.9), (1, 1, B, 0.3)))
    assert (result.ap, result.ap50, result.ap75, result.ar1, result.ar100) == (CLOSE(1),) * 5
    assert (result.n, result.boxes, result.detections.n) == (2, 2, 2)
    assert result.threshold is not None
    assert result.threshold[1:] == (1, 1, 1)
    assert result.threshold.score == CLOSE(0.3)


def test_a_missed_half_leaves_the_precision_up_to_half_recall() -> None:
    data = dataset([(0, 0, A), (0, 0, B)])
    result = evaluate_detections(data, detections((0, 0, A, 0.9)))
    assert result.ap == CLOSE(51 / 101)  # recall 0, .01 ... .50
    assert result.ar100 == CLOSE(0.5)
    assert result.curves.precision50[0].tolist() == CLOSE([1] * 51 + [0] * 50)


def test_a_second_detection_of_a_box_is_false() -> None:
    data = dataset([(0, 0, A), (0, 0, B)])
    found = detections((0, 0, A, 0.9), (0, 0, A, 0.8), (0, 0, B, 0.7))
    result = evaluate_detections(data, found)
    assert result.ap == CLOSE((51 + 50 * 2 / 3) / 101)
    assert result.matches.box.tolist() == [0, UNMATCHED, 1]
    assert (result.matches.matched[0], result.matches.missed[0], result.matches.false[0]) == (2, 0, 1)


@pytest.mark.parametrize(("side", "right"), [(50, True), (49, False)])
def test_half_an_overlap_is_enough_for_ap50(side: int, right: bool) -> None:
    data = dataset([(0, 0, [0, 0, 100, 100])])
    result = evaluate_detections(data, detections((0, 0, [0, 0, 100, side], 0.9)))
    assert result.ap50 == CLOSE(float(right))
    assert result.ap75 == 0


def test_a_better_overlap_moves_ap_in_steps_of_a_tenth() -> None:
    data = dataset([(0, 0, [0, 0, 100, 100])])
    for side, steps in ((52, 1), (72, 5), (97, 10)):
        result = evaluate_detections(data, detections((0, 0, [0, 0, 100, side], 0.9)))
        assert result.ap == CLOSE(steps / 10)


def test_what_is_found_in_a_crowd_counts_neither_as_right_nor_as_false() -> None:
    data = dataset([(0, 0, A), (0, 0, [200, 200, 400, 400])], crowd=[1])
    inside = detections((0, 0, [210, 210, 250, 250], 0.95), (0, 0, [300, 300, 340, 380], 0.9), (0, 0, A, 0.5))
    result = evaluate_detections(data, inside)
    assert result.ap == CLOSE(1)
    assert result.boxes == 1
    assert result.matches.box.tolist() == [IGNORED, IGNORED, 0]
    assert (result.matches.false[0], result.matches.missed[0]) == (0, 0)


def test_only_the_first_hundred_of_a_class_and_image_count() -> None:
    data = dataset([(0, 0, A)])
    noise = [(0, 0, [x, 300, x + 2, 302], 0.9) for x in range(100, 200)]
    assert evaluate_detections(data, detections(*noise[:99], (0, 0, A, 0.1))).ap == CLOSE(0.01)
    late = evaluate_detections(data, detections(*noise, (0, 0, A, 0.1)))
    assert (late.ap, late.ar100) == (0, 0)
    assert late.matches.box[-1] == IGNORED
    assert late.threshold is None


def test_as_many_boxes_of_a_class_as_an_image_has_can_count() -> None:
    boxes = [(image, 0, [20 * (k % 20), 20 * (k // 20), 20 * (k % 20) + 12, 20 * (k // 20) + 12]) for image in (0, 1)
             for k in range(110)]  # fmt: skip
    data = dataset([*boxes, (2, 0, A)], images=3)
    found = detections(*[(*row, 0.9 - 0.001 * k) for k, row in enumerate(boxes)], (2, 0, A, 0.5))
    usual = evaluate_detections(data, found)
    assert usual.ar100 == CLOSE(201 / 221)
    assert (usual.max_detections, usual.images_over_limit) == (100, 2)
    assert usual.matches.missed.tolist() == [10, 10, 0]
    all_of_them = evaluate_detections(data, found, 110)
    assert (all_of_them.ap, all_of_them.ar100, all_of_them.ar10) == (CLOSE(1), CLOSE(1), CLOSE(21 / 221))
    assert (all_of_them.max_detections, all_of_them.images_over_limit) == (110, 0)
    assert all_of_them.matches.missed.tolist() == [0, 0, 0]
    with pytest.raises(RequestError, match="max_detections must be at least 10"):
        evaluate_detections(data, found, 9)


def test_images_with_more_boxes_than_can_count_are_counted() -> None:
    data = dataset([(0, 0, A)] * 3 + [(0, 1, A)] * 2 + [(2, 1, A)] * 4, images=3, classes=("a", "b"), crowd=[8])
    assert [count_images_over_limit(data, most) for most in (1, 2, 3)] == [2, 2, 0]
    assert [count_images_over_limit(data, 3, in_all) for in_all in (2, 4, 5)] == [2, 1, 0]
    assert count_images_over_limit(dataset([], images=2), 1, 1) == 0


@pytest.mark.parametrize("max_detections", [10, 25, 120])
def test_precision_and_recall_are_those_of_a_plain_computation(max_detections: int) -> None:
    data, found = random_case(7, images=2, classes=1, boxes=150, crowd=0)
    assert np.bincount(found.image).max() > 120
    result = evaluate_detections(data, found, max_detections)
    precision, recall = _plain(data, result.detections, max_detections)
    expected = CLOSE((np.mean(precision), precision[0], precision[5], np.mean(recall)), abs=1e-9)
    (of_class,) = result.per_class
    for one in (of_class, result):
        assert (one.ap, one.ap50, one.ap75, one.ar100) == expected


def _plain(data: Any, found: Detections, most: int) -> tuple[list[float], list[float]]:
    """Mean precision at recall 0, .01 ... 1, and recall, of the only class at each IoU, from COCO's definition."""
    precisions, recalls = [], []
    ious = box_iou(torch.from_numpy(found.boxes).double(), torch.from_numpy(data.boxes).double()).numpy()
    for iou in np.linspace(0.5, 0.95, 10):
        rows: list[tuple[float, bool]] = []  # score, right
        for image in range(len(data)):
            own = np.flatnonzero(found.image == image)[:most]  # best first
            left = list(range(data.offsets[image], data.offsets[image + 1]))
            for i in own:
                best = int(np.argmax(ious[i, left])) if left else -1
                right = bool(left) and bool(ious[i, left[best]] >= iou)
                rows.append((float(found.score[i]), right))
                if right:
                    left.pop(best)
        rows.sort(key=lambda row: -row[0])
        hits = np.cumsum([right for _, right in rows])
        precision, recall = hits / np.arange(1, len(rows) + 1), hits / len(data.boxes)
        at = [precision[recall >= x].max(initial=0) for x in np.linspace(0, 1, 101)]
        precisions.append(float(np.mean(at)))
        recalls.append(float(recall[-1]))
    return precisions, recalls


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_cocos_own_summary_to_the_bit(seed: int) -> None:
    data, found = random_case(seed)
    coco = _run_coco_eval(data, sort_detections([found]), 100)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.summarize()
    ours = [-1.0 if value is None else value for value in numbers(evaluate_detections(data, found))]
    assert ours == coco.stats.tolist()


def test_recall_with_one_and_ten_detections_an_image() -> None:
    boxes = [[40 * i, 0, 40 * i + 30, 30] for i in range(15)]
    data = dataset([(0, 0, box) for box in boxes])
    result = evaluate_detections(data, detections(*[(0, 0, b, 0.9 - 0.01 * i) for i, b in enumerate(boxes)]))
    assert (result.ar1, result.ar10, result.ar100) == (CLOSE(1 / 15), CLOSE(10 / 15), CLOSE(1))


@pytest.mark.parametrize(
    ("area", "sizes"),
    [
        (32**2 - 1, (True, False, False)),
        (32**2, (True, True, False)),  # COCO counts a border on both sides
        (32**2 + 1, (False, True, False)),
        (96**2, (False, True, True)),
        (96**2 + 1, (False, False, True)),
    ],
)
def test_small_medium_and_large_go_by_the_stated_area(area: float, sizes: tuple[bool, bool, bool]) -> None:
    data = dataset([(0, 0, A)], areas={0: area})
    result = evaluate_detections(data, detections((0, 0, A, 0.9)))
    values = (result.ap_small, result.ap_medium, result.ap_large)
    assert values == tuple(CLOSE(1) if there else None for there in sizes)
    assert (result.ar_small is None, result.ar_large is None) == (not sizes[0], not sizes[2])


def test_nothing_found_is_an_ap_of_zero() -> None:
    data = dataset([(0, 0, A)], images=2)
    result = evaluate_detections(data, detections())
    assert (result.ap, result.ap50, result.ar100, result.threshold) == (0, 0, 0, None)
    assert result.matches.missed.tolist() == [1, 0]
    assert result.matches.f1.tolist() == [0, 1]
    assert result.per_class[0][3:] == (0, 0, 0, 0, 0)


def test_where_there_is_nothing_to_find_numbers_are_unknown_not_minus_one() -> None:
    data = dataset([], images=2, classes=("cat", "dog"))
    result = evaluate_detections(data, detections((1, 0, A, 0.9)))
    assert numbers(result) == [None] * 12
    assert all(one.ap is one.ap50 is one.ap75 is one.ar100 is None for one in result.per_class)
    assert np.isnan(result.curves.precision50).all()


def test_a_class_without_boxes_stays_out_of_the_mean() -> None:
    data = dataset([(0, 0, A)], classes=("cat", "dog", "owl"), ids=(9, 2, 5))
    result = evaluate_detections(data, detections((0, 0, A, 0.9), (0, 2, B, 0.95)))
    assert result.ap == CLOSE(1)
    assert [one.ap for one in result.per_class] == [CLOSE(1), None, None]
    assert [one.detections for one in result.per_class] == [1, 0, 1]


def test_classes_keep_their_own_numbers_whatever_their_ids() -> None:
    rows = [(0, 0, A), (0, 1, B), (0, 2, C)]
    found = detections((0, 0, A, 0.9), (0, 2, FAR, 0.9), (0, 2, C, 0.8))
    for ids in ((1, 2, 3), (30, 20, 10), (5, 90, 17)):
        result = evaluate_detections(dataset(rows, classes=("cat", "dog", "owl"), ids=ids), found)
        assert [one.ap50 for one in result.per_class] == [CLOSE(1), 0, CLOSE(0.5)]
        assert result.curves.precision50[:, 0].tolist() == CLOSE([1, 0, 0.5])


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_detections_and_how_they_were_shared_is_nothing_to_the_result(seed: int) -> None:
    data, found = random_case(seed)
    whole = evaluate_detections(data, found)
    shuffled = found.select(np.random.default_rng(seed).permutation(found.n))
    assert numbers(evaluate_detections(data, shuffled)) == numbers(whole)
    shares = [found.select(found.image % 3 == rank) for rank in (2, 0, 1)]
    rows = torch.cat([share.to_rows() for share in shares])
    gathered = Detections.from_rows(rows)
    for ours, theirs in zip(gathered, sort_detections([found]), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert numbers(evaluate_detections(data, sort_detections(shares))) == numbers(whole)


def test_rows_of_nothing_are_nothing() -> None:
    nothing = Detections.from_rows(detections().to_rows())
    assert nothing.n == 0
    assert nothing.boxes.shape == (0, 4)


def test_detections_of_one_image_come_from_the_models_tensors() -> None:
    boxes, labels, scores = torch.tensor([A, B], dtype=torch.float32), torch.tensor([1, 0]), torch.tensor([0.5, 0.25])
    one = Detections.from_image(3, boxes, labels, scores)
    assert (one.image.tolist(), one.label.tolist()) == ([3, 3], [1, 0])
    np.testing.assert_array_equal(one.boxes, boxes.numpy())


@pytest.mark.parametrize("seed", range(6))
def test_numbers_are_those_of_faster_coco_eval(seed: int, tmp_path: Path) -> None:
    faster = pytest.importorskip("faster_coco_eval")
    data, found = random_case(seed)
    write_coco_results(tmp_path / "results.json", data, sort_detections([found]))
    coco = faster.COCO(data.to_coco_dict())
    other = faster.COCOeval_faster(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
    other.evaluate()
    other.accumulate()
    other.summarize()
    ours = [-1.0 if value is None else value for value in numbers(evaluate_detections(data, found))]
    np.testing.assert_allclose(ours, other.stats[:12], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_a_plain_greedy_matching(seed: int) -> None:
    data, found = random_case(seed, crowd=0)
    result = evaluate_detections(data, found)
    assert result.matches.box.tolist() == _greedy(data, result.detections)
    pairs = (result.matches.box >= 0) & result.matches.kept
    ious = box_iou(torch.from_numpy(data.boxes).double(), torch.from_numpy(result.detections.boxes).double())
    for image in range(len(data)):
        own = np.flatnonzero(pairs & (result.detections.image == image))
        mean = np.mean([float(ious[result.matches.box[i], i]) for i in own]) if len(own) else 0
        assert result.matches.overlap[image] == CLOSE(mean, abs=1e-6)


def _greedy(data: Any, found: Detections) -> list[int]:
    """For each detection by score, the unmatched box of its class and image with the highest IoU from 0.5 on."""
    taken: set[int] = set()
    out = [UNMATCHED] * found.n
    for i in np.argsort(-found.score, kind="stable"):
        rows = range(data.offsets[found.image[i]], data.offsets[found.image[i] + 1])
        own = [row for row in rows if data.labels[row] == found.label[i] and row not in taken]
        if own:
            iou = box_iou(torch.from_numpy(found.boxes[[i]]).double(), torch.from_numpy(data.boxes[own]).double())[0]
            if float(iou.max()) >= 0.5:
                out[i] = own[int(iou.argmax())]
                taken.add(out[i])
    return out


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_is_the_best_of_all_that_could_be_chosen(seed: int) -> None:
    data, found = random_case(seed)
    result = evaluate_detections(data, found)
    assert result.threshold is not None
    box, score = result.matches.box, result.detections.score.astype(float)

    def f1(least: float) -> float:
        kept = score >= least
        right, wrong = np.count_nonzero(kept & (box >= 0)), np.count_nonzero(kept & (box == UNMATCHED))
        return float(2 * right / (right + wrong + result.boxes))

    tried = {float(value): f1(float(value)) for value in np.unique(score)}
    assert result.threshold.f1 == CLOSE(max(tried.values()))
    assert result.threshold.score == max(s for s, value in tried.items() if value >= max(tried.values()) - 1e-12)
    np.testing.assert_array_equal(result.matches.kept, score >= result.threshold.score)
    matched = result.matches.matched.sum()
    assert result.threshold.recall == CLOSE(matched / result.boxes)
    assert result.threshold.precision == CLOSE(matched / (matched + result.matches.false.sum()))
    np.testing.assert_array_equal(result.matches.matched + result.matches.missed, result.matches.boxes)


def test_images_are_ranked_from_the_best_to_the_worst() -> None:
    rows = [(0, 0, A), (1, 0, A), (1, 0, B), (2, 0, A), (3, 0, A)]
    found = [(0, 0, FAR, 0.9), (1, 0, A, 0.9), (1, 0, B, 0.9), (2, 0, A, 0.9), (3, 0, [10, 10, 60, 50], 0.9)]
    result = evaluate_detections(dataset(rows, images=5), detections(*found))
    assert result.matches.rank_images().tolist() == [1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((2, 0, A, 0.5), "not among the 2 of made.json"),
        ((-1, 0, A, 0.5), "not among the 2 of made.json"),
        ((0, 1, A, 0.5), "in 000.png (label 1, "),
        ((0, 0, [0, 0, float("nan"), 1], 0.5), "not finite"),
        ((0, 0, A, float("inf")), "not finite"),
        ((1, 0, [9, 0, 8, 1], 0.5), "edge is before"),
    ],
)
def test_a_detection_that_cannot_be_one_is_named(row: tuple[int, int, Sequence[float], float], words: str) -> None:
    data = dataset([(0, 0, A)], images=2)
    with pytest.raises(WorkError) as caught:
        evaluate_detections(data, detections((0, 0, A, 0.5), row))
    assert str(caught.value).startswith("detection 1")
    assert words in str(caught.value)


def test_no_images_and_no_pycocotools_are_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"made.json has no images"):
        evaluate_detections(dataset([], images=0), detections())
    monkeypatch.setattr("resnext.detection.evaluation.coco_eval.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'resnext\[detect\]'"):
        evaluate_detections(dataset([(0, 0, A)]), detections())


def test_the_evaluation_says_nothing_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_detections(dataset([(0, 0, A)]), detections((0, 0, A, 0.9)))
    assert capsys.readouterr() == ("", "")
