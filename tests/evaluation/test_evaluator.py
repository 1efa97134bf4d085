import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch import nn
from torch.nn import functional as F

from resnext.data.dataset import ArrayDataset, BadImageError
from resnext.errors import RequestError, WorkError
from resnext.evaluation.evaluator import COLUMNS, Evaluation, compute_image_results, evaluate, merge_shards
from resnext.model.network import Network
from tests.evaluation.conftest import PREPROCESSING, LookupModel, make_dataset, make_evaluation


def judged(table: np.ndarray, labels: np.ndarray, **options: object) -> Evaluation:
    data = make_dataset(labels, table.shape[1])
    return evaluate(LookupModel(torch.from_numpy(table)), data, PREPROCESSING, device="cpu", **options)


def same(a: Evaluation, b: Evaluation) -> bool:
    return (a.classes, a.paths, a.n) == (b.classes, b.paths, b.n) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS
    )


def slow_ranks(table: np.ndarray, labels: np.ndarray) -> list[int]:
    """Rank of the true class by a stable sort of descending logits."""
    return [sorted(range(len(row)), key=lambda j, r=row: -r[j]).index(y) for row, y in zip(table, labels, strict=True)]


@settings(max_examples=60)
@given(st.data())
def test_ranks_predictions_and_counts_are_those_of_a_stable_sort(data: st.DataObject) -> None:
    n, k = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 8))
    few = st.sampled_from([-1.0, 0.0, 0.5, 3.0])  # many ties
    table = data.draw(arrays.arrays(np.float32, (n, k), elements=few))
    labels = data.draw(arrays.arrays(np.int64, n, elements=st.integers(0, k - 1)))
    result = judged(table, labels, batch_size=data.draw(st.integers(1, n)))
    ranks = slow_ranks(table, labels)
    assert result.rank.tolist() == ranks
    assert result.correct1 == ranks.count(0)
    assert result.correct5 == (None if k < 5 else sum(rank < 5 for rank in ranks))
    assert result.predicted.tolist() == [max(range(k), key=lambda j, r=row: (r[j], -j)) for row in table]
    assert ((result.rank == 0) == (result.predicted == result.label)).all()
    assert result.confusion.sum() == n


def test_a_constant_network_is_right_only_for_the_first_class() -> None:
    labels = np.repeat(np.arange(10), 7)
    result = judged(np.zeros((70, 10), np.float32), labels)
    assert (result.top1_error, result.top5_error) == (90.0, 50.0)
    assert result.loss == pytest.approx(math.log(10), abs=1e-15)


def test_probabilities_and_loss_are_torch_in_float64() -> None:
    rng = np.random.default_rng(1)
    table, labels = rng.normal(0, 4, (50, 6)).astype(np.float32), rng.integers(0, 6, 50)
    result = judged(table, labels, batch_size=7)
    scores = torch.from_numpy(table).double()
    losses = F.cross_entropy(scores, torch.from_numpy(labels), reduction="none")
    assert result.losses == pytest.approx(losses.numpy(), rel=1e-14)
    assert result.loss_sum == math.fsum(result.losses)
    assert result.loss == pytest.approx(float(losses.mean()), rel=1e-13)
    p = torch.softmax(scores, 1)
    assert result.probability == pytest.approx(p.max(1).values.numpy(), rel=1e-13)
    assert result.probability_of_label == pytest.approx(p[range(50), labels].numpy(), rel=1e-13)


@pytest.mark.parametrize("batch_size", [1, 3, 41, 1000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    rng = np.random.default_rng(2)
    table, labels = rng.normal(size=(41, 5)).astype(np.float32), rng.integers(0, 5, 41)
    assert same(judged(table, labels), judged(table, labels, batch_size=batch_size))


@pytest.mark.parametrize("batch_size", [1, 3, 23])
def test_the_batch_size_changes_no_count_of_a_real_network(
    tiny_network: Callable[..., Network], batch_size: int
) -> None:
    rng = np.random.default_rng(3)
    images, labels = rng.integers(0, 256, (23, 8, 8), dtype=np.uint8), rng.integers(0, 3, 23)
    data = ArrayDataset("noise test", ("c0", "c1", "c2"), 1, images, labels)
    model = tiny_network()
    whole = evaluate(model, data, model.preprocessing, device="cpu")
    part = evaluate(model, data, model.preprocessing, device="cpu", batch_size=batch_size)
    assert np.array_equal(whole.confusion, part.confusion)
    assert np.array_equal(whole.rank, part.rank)
    assert part.loss == pytest.approx(whole.loss, rel=1e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 13])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_any_number_of_shards_makes_the_same_evaluation(n: int, world_size: int) -> None:
    rng = np.random.default_rng(n)
    table, labels = rng.normal(size=(n, 5)).astype(np.float32), rng.integers(0, 5, n)
    shards = [judged(table, labels, batch_size=2, rank=r, world_size=world_size) for r in range(world_size)]
    assert sum(shard.n for shard in shards) == n
    assert sum(shard.correct1 for shard in shards) == judged(table, labels).correct1
    assert same(merge_shards(shards[::-1]), judged(table, labels))


def test_shards_that_overlap_or_lack_images_are_refused() -> None:
    table, labels = np.eye(5, dtype=np.float32), np.arange(5)
    first, second = (judged(table, labels, rank=r, world_size=2) for r in (0, 1))
    for shards in ([first], [first, second, second], [first, first]):
        with pytest.raises(WorkError, match="each of its 5 images exactly once"):
            merge_shards(shards)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_names_its_image(value: float) -> None:
    table = np.zeros((9, 4), np.float32)
    table[5, 2] = value
    with pytest.raises(WorkError, match=r"test\[5\] is not finite"):
        judged(table, np.zeros(9, int), batch_size=4)


def test_with_fewer_than_five_classes_there_is_no_top5() -> None:
    assert judged(np.eye(4, dtype=np.float32), np.arange(4)).top5_error is None
    assert judged(np.eye(5, dtype=np.float32), np.arange(5)).top5_error == 0.0


def test_large_logits_do_not_overflow() -> None:
    columns = compute_image_results(torch.tensor([[3e38, -3e38]]), torch.tensor([1]), ["a"])
    assert columns["losses"][0] == pytest.approx(6e38, rel=1e-6)
    assert columns["probability_of_label"][0] == 0


def test_each_module_gets_its_own_mode_back() -> None:
    model = LookupModel(torch.eye(3)).train()
    model.norm.eval()  # a frozen norm
    evaluate(model, make_dataset(np.arange(3), 3), PREPROCESSING, device="cpu")
    assert model.training
    assert not model.norm.training
    model.table[:] = math.nan
    with pytest.raises(WorkError):
        evaluate(model, make_dataset(np.arange(3), 3), PREPROCESSING, device="cpu")
    assert model.training


def test_other_classes_than_the_models_are_an_error_that_shows_them() -> None:
    model = LookupModel(torch.eye(2))
    model.classes = ("cat", "dog")  # type: ignore[assignment]
    with pytest.raises(RequestError, match="'cat' in the model but 'dog'"):
        evaluate(model, make_dataset(np.arange(2), 2, ("dog", "cat")), PREPROCESSING, device="cpu")


def test_more_classes_than_outputs_is_an_error(tiny_network: Callable[..., Network]) -> None:
    model = tiny_network(3)
    model.classes = None
    with pytest.raises(RequestError, match="3 outputs, numbers test has 4 classes"):
        evaluate(model, make_dataset(np.arange(4), 4), PREPROCESSING, device="cpu")
    with pytest.raises(RequestError, match="labels up to 3, the network 2 outputs"):
        compute_image_results(torch.zeros(4, 2), torch.arange(4), list("abcd"))


def test_no_images_is_an_error() -> None:
    with pytest.raises(RequestError, match="no images to evaluate"):
        judged(np.zeros((0, 3), np.float32), np.zeros(0, int))


class Broken(ArrayDataset):
    """Four images, some of which cannot be read."""

    broken: tuple[int, ...] = (2,)

    def image(self, index: int) -> Image.Image:
        if index in self.broken:
            raise BadImageError("train/cat/7.jpg", "truncated")
        return super().image(index)


def make_broken() -> Broken:
    whole = make_dataset(np.arange(4), 4)
    return Broken(whole.name, whole.classes, 1, whole.images, whole.labels)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_a_bad_image_can_be_left_out_and_is_counted(batch_size: int) -> None:
    data, model, table = make_broken(), LookupModel(torch.eye(4)), np.eye(4, dtype=np.float32)
    options: dict[str, Any] = {"device": "cpu", "batch_size": batch_size, "on_bad_image": "skip"}
    found = evaluate(model, data, PREPROCESSING, **options)
    assert (found.index.tolist(), found.n, found.left_out, found.dataset_size) == ([0, 1, 3], 3, 1, 4)
    whole = judged(table, np.arange(4))
    for name in COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(whole, name)[[0, 1, 3]]), name
    shards = [evaluate(model, data, PREPROCESSING, rank=rank, world_size=4, **options) for rank in range(4)]
    assert same(merge_shards(shards, "skip"), found)
    with pytest.raises(WorkError, match="exactly once"):
        merge_shards([*shards, shards[0]], "skip")
    data.broken = (0, 1, 2, 3)
    with pytest.raises(WorkError, match=r"none of the 4 images of .* can be read"):
        evaluate(model, data, PREPROCESSING, **options)


def test_a_bad_image_stops_the_evaluation_and_is_named() -> None:
    data = make_broken()
    with pytest.raises(WorkError, match=r"train/cat/7\.jpg: truncated; an evaluation must not skip any.*data check"):
        evaluate(LookupModel(torch.eye(4)), data, PREPROCESSING, device="cpu")


def test_progress_ends_at_the_number_of_images() -> None:
    seen: list[tuple[int, int]] = []
    judged(np.eye(7, dtype=np.float32), np.arange(7), batch_size=3, progress=lambda *done: seen.append(done))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_bf16_runs_the_convolutions_in_bf16() -> None:
    class Spy(LookupModel):
        def __init__(self) -> None:
            super().__init__(torch.eye(2))
            self.conv, self.kinds = nn.Conv2d(1, 2, 4), set[torch.dtype]()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out = self.conv(images).flatten(1)
            self.kinds.add(out.dtype)
            return out

    spy = Spy()
    data = make_dataset(np.array([0, 1]), 2)
    evaluate(spy, data, PREPROCESSING, device="cpu", precision="bf16")
    assert spy.kinds == {torch.bfloat16}


def test_the_worst_images_are_those_with_the_highest_loss() -> None:
    result = make_evaluation([0, 0, 1, 1], [0, 1, 1, 0], ("a", "b"))
    assert result.find_worst(2).tolist() == [3, 2]
    assert len(result.find_worst(100)) == 4
