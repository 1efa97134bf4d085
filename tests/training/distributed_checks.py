"""Checks for several processes, started by torchrun: each process asserts and exits with 0 if all hold."""

import os
from typing import Any

import numpy as np
import torch

from resnext.data.dataset import ArrayDataset
from resnext.data.preprocessing import Preprocessing
from resnext.evaluation.evaluator import COLUMNS, Evaluation, evaluate
from resnext.model.layers import NormAct
from resnext.model.network import create_model
from resnext.training.distributed import init_distributed
from resnext.training.distributed_evaluation import evaluate_distributed
from resnext.training.sync_norm import convert_to_sync_bn

VIEW = Preprocessing(image_size=8, resize=8, mean=(0.5,), std=(0.25,), channels=1)

torch.set_num_threads(1)
with init_distributed("cpu", timeout=60) as world:
    assert (world.rank, world.size) == (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    # sums, flags, bytes, rows
    assert world.all_reduce_sum([1.0, float(world.rank)]) == [world.size, sum(range(world.size))]
    assert world.all_reduce_any(world.rank == world.size - 1)
    assert not world.all_reduce_any(False)
    assert world.broadcast_bytes(b"from rank 0" if world.is_main else b"") == b"from rank 0"
    assert world.broadcast_bytes(b"") == b""
    mine = torch.full((world.rank, 2), float(world.rank), dtype=torch.float64)
    assert world.all_gather_rows(mine)[:, 0].tolist() == [float(r) for r in range(world.size) for _ in range(r)]
    assert world.clock_skew() < 5

    # weights and buffers of rank 0 are copied to all, also into another memory layout
    model = create_model("resnext11_2x4d", base_channels=4, num_classes=3, in_channels=1, seed=0)
    other = create_model("resnext11_2x4d", base_channels=4, num_classes=3, in_channels=1, seed=world.rank)
    other.bn1.running_mean += world.rank
    other.to(memory_format=torch.contiguous_format if world.is_main else torch.channels_last)
    world.broadcast_model(other)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name

    # an evaluation in shards of unequal sizes equals the whole one
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"device": "cpu", "batch_size": 1}
    for n in (1, 2, 13):
        images, labels = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8), rng.integers(0, 3, n)
        data = ArrayDataset("noise test", ("c0", "c1", "c2"), 1, images, labels)
        whole = evaluate(model, data, VIEW, **options)

        def evaluate_shard(rank: int, world_size: int, data: ArrayDataset = data) -> Evaluation:
            return evaluate(model, data, VIEW, rank=rank, world_size=world_size, **options)

        merged = evaluate_distributed(evaluate_shard, world, data)
        assert (merged.paths, merged.n) == (whole.paths, n)
        assert all(np.array_equal(getattr(merged, name), getattr(whole, name)) for name in COLUMNS)

    # synchronised BN over shares is BN over the whole batch: outputs, gradients, statistics; even where means are large
    for act, offset in ((True, 0.0), (False, 1e4)):
        plain, shared = NormAct(5, act=act), NormAct(5, act=act)
        with torch.no_grad():
            plain.weight.copy_(torch.linspace(0.5, 2, 5))
        shared.load_state_dict(plain.state_dict())
        shared = torch.nn.Sequential(shared)
        convert_to_sync_bn(shared)
        x = torch.randn(4 * world.size, 5, 3, 3, generator=torch.Generator().manual_seed(1)) + offset
        part = slice(4 * world.rank, 4 * world.rank + 4)
        all_x, my_x = x.double().requires_grad_(), x[part].clone().requires_grad_()
        expected = plain.double()(all_x)
        result = shared(my_x)
        tolerance = {"rtol": 1e-3, "atol": 2e-3} if offset else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(result, expected[part].float(), **tolerance)
        weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
        (expected * weights.double()).sum().backward()
        (result * weights[part]).sum().backward()
        torch.testing.assert_close(my_x.grad, all_x.grad[part].float(), **tolerance)
        total = world.all_reduce_sum(shared[0].weight.grad.tolist())
        torch.testing.assert_close(torch.tensor(total), plain.weight.grad, rtol=1e-2, atol=1e-2, check_dtype=False)
        torch.testing.assert_close(shared[0].running_mean, plain.running_mean.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(shared[0].running_var, plain.running_var.float(), rtol=1e-2, atol=1e-4)
