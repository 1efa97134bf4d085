"""One optimizer step against plain PyTorch: gradients of the mean, parts, smoothing, clipping, skipped images."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from resnext.data.loader import Batch
from resnext.data.normalization import normalize
from resnext.errors import RequestError, WorkError
from resnext.model.blocks import Block
from resnext.recipe import read_recipe
from resnext.training.classification import State
from resnext.training.distributed import World
from resnext.training.step import accumulate_gradients, compute_gradients, count_images, count_micro_batches
from tests.training.helpers import build_task


def first_batch(state: State) -> Batch:
    return next(iter(state.loader.batches(0)))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_gradients_are_those_of_the_mean_over_the_batch(tiny_recipe: Path, tmp_path: Path, parts: int) -> None:
    _, state = build_task(tiny_recipe, tmp_path / "run", train__bn_batch_size=16 // parts, train__label_smoothing=0.1)
    plain, batch = copy.deepcopy(state.model), first_batch(state)
    loss_sum, wrong, images = compute_gradients(state, batch)

    inputs = normalize(batch.images, state.model.preprocessing, "cpu")
    expected, mistakes = 0.0, 0
    for x, y in zip(inputs.chunk(parts), batch.labels.chunk(parts), strict=True):
        logits = plain(x)
        loss = F.cross_entropy(logits, y, label_smoothing=0.1) / parts
        loss.backward()
        expected += loss.item()
        mistakes += int((logits.argmax(1) != y).sum())
    assert (wrong, images) == (mistakes, 16)
    assert loss_sum.item() / images == pytest.approx(expected)
    for (name, ours), theirs in zip(state.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_weighted_gradients_do_not_depend_on_micro_batches(tiny_recipe: Path, tmp_path: Path) -> None:
    """The weighted sum is divided by the images of the whole batch, whatever weights a micro-batch has."""
    task, state = build_task(tiny_recipe, tmp_path / "run", train__bn_batch_size=8, data__class_weights="balanced")
    assert task.class_weights is not None
    counts = torch.bincount(torch.from_numpy(task.source.train.labels), minlength=10)
    torch.testing.assert_close(task.class_weights, (100 / (10 * counts)).float())
    plain, batch = copy.deepcopy(state.model), first_batch(state)
    task.step(state, batch, lr=0.0)
    inputs, weights = normalize(batch.images, state.model.preprocessing, "cpu"), task.class_weights
    expected = 0.0
    for x, y in zip(inputs.chunk(2), batch.labels.chunk(2), strict=True):
        expected += (weights[y] * F.cross_entropy(plain(x), y, reduction="none")).sum().item() / 16
    assert state.sums.loss / state.sums.images == pytest.approx(expected)


def test_a_clipped_step_moves_no_further_than_the_norm_allows(tiny_recipe: Path, tmp_path: Path) -> None:
    changes = {"optimizer__momentum": 0, "optimizer__nesterov": False, "optimizer__weight_decay": 0}
    task, state = build_task(tiny_recipe, tmp_path / "run", train__grad_clip_norm=0.01, **changes)
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    task.step(state, first_batch(state), lr=1.0)
    moved = torch.stack([(a - b).norm() for a, b in zip(state.model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_bf16_autocast_computes_what_fp32_does_to_its_precision(tiny_recipe: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        task, state = build_task(tiny_recipe, tmp_path / precision, train__precision=precision)
        losses.append(task.step(state, first_batch(state), lr=0.1).loss)
        assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    assert losses[0] != losses[1]


def test_skipped_images_are_counted_and_too_few_are_an_error(tiny_recipe: Path, tmp_path: Path) -> None:
    task, state = build_task(tiny_recipe, tmp_path / "run")
    whole = first_batch(state)
    some = Batch(whole.images[:5], whole.labels[:5], whole.indices[:5], bad_images=("a.jpg is cut short",) * 11)
    task.step(state, some, lr=0.1)
    assert (state.sums.images, state.position.bad_images) == (5, 11)
    one = Batch(whole.images[:1], whole.labels[:1], whole.indices[:1], bad_images=("a.jpg is cut short",))
    with pytest.raises(WorkError, match=r"too few readable images in the batch of step 2: a\.jpg"):
        task.step(state, one, lr=0.1)


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(tiny_recipe: Path, tmp_path: Path) -> None:
    task, state = build_task(tiny_recipe, tmp_path / "run")
    with torch.no_grad():
        state.model.fc.bias[0] = float("inf")
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    with pytest.raises(WorkError, match=r"the loss became (nan|inf) at step 1 \(epoch 1"):
        task.step(state, first_batch(state), lr=0.1)
    assert all(torch.equal(value, before[name]) for name, value in state.model.named_parameters())


def test_running_statistics_are_those_of_the_first_part_alone(tiny_recipe: Path, tmp_path: Path) -> None:
    _, state = build_task(tiny_recipe, tmp_path / "run", train__bn_batch_size=4)
    plain, batch = copy.deepcopy(state.model), first_batch(state)
    compute_gradients(state, batch)
    plain(normalize(batch.images[:4], state.model.preprocessing, "cpu"))
    for (name, value), expected in zip(state.model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)  # num_batches_tracked too: one batch


def test_what_a_part_draws_depends_on_its_number_and_not_on_the_process(tiny_recipe: Path, tmp_path: Path) -> None:
    """The second half of a batch gives the same as second micro-batch of one process and as the only one of rank 1."""
    changes = {"augment__mixup": 0.5, "train__drop_path": 0.5, "train__fast": "no"}  # one plan for both
    _, one = build_task(tiny_recipe, tmp_path / "one", train__bn_batch_size=8, **changes)
    _, two = build_task(tiny_recipe, tmp_path / "two", **changes)
    batch = first_batch(one)
    images = normalize(batch.images, one.model.preprocessing, "cpu")
    two.world = World(torch.device("cpu"), rank=1, size=2)
    for state, number in ((one, 1), (two, 0)):
        accumulate_gradients(state, images[8:].clone(), batch.labels[8:], number, 16)
    for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(2 * ours.grad, theirs.grad), "DDP halves what two processes add up"


def test_processes_know_the_size_of_the_global_batch_and_ask_only_if_images_may_be_skipped(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    class Two(World):
        def all_reduce_sum(self, values: Sequence[float | torch.Tensor]) -> list[float]:
            return [float(value) + 5 for value in values]  # the other process has five images

    for policy, sizes in (("error", [16, 4, 16]), ("skip", [21, 21, 21])):
        changes = {"data__on_bad_image": policy, "train__drop_last": False}
        _, state = build_task(tiny_recipe, tmp_path / policy, **changes)
        state.world, batch = Two(torch.device("cpu"), size=2), first_batch(state)
        found = []
        for state.position.step, state.position.epoch in ((0, 0), (6, 0), (7, 1)):
            found.append(count_images(state, batch))
        assert found == sizes


def test_parts_that_do_not_divide_into_the_processes_are_refused(tiny_recipe: Path) -> None:
    recipe = read_recipe(tiny_recipe, {"train.bn_batch_size": 4})
    assert [count_micro_batches(recipe, n) for n in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(RequestError, match=r"4 micro-batches, which cannot be divided evenly between 3 processes"):
        count_micro_batches(recipe, 3)


def test_dropped_paths_grow_with_depth_and_need_shortcuts(tiny_recipe: Path, tmp_path: Path) -> None:
    _, state = build_task(tiny_recipe, tmp_path / "run", train__drop_path=0.4)
    assert [m.drop_path for m in state.model.modules() if isinstance(m, Block)] == [0.0, 0.2, 0.4]
    model, images = state.model.eval(), torch.randn(2, 1, 8, 8)
    assert torch.equal(model(images), model(images)), "nothing is dropped in evaluation"
    with pytest.raises(RequestError, match=r"train\.drop_path needs shortcuts"):
        build_task(tiny_recipe, tmp_path / "other", train__drop_path=0.4, model__shortcut="none")
