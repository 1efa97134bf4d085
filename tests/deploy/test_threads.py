"""Test that threads that share a predictor get the same results as alone, on every engine."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor

from resnext.deploy.engine_builder import EngineBuilder
from resnext.deploy.engines import ENGINES, Engine, list_configs
from resnext.deploy.openvino_engine import MAX_COMPILED, OpenVinoEngine
from resnext.deploy.predictor import Predictor
from tests.deploy.networks import compute_logits, images, lived
from tests.deploy.test_engines import usable

pytestmark = pytest.mark.usefixtures("one_thread")

THREADS = 8
COMBINATIONS = [(name, p) for name, kind in ENGINES.items() for p in kind.precisions]


def compare_with_alone(engine: Engine, inputs: list[Tensor], times: int = 8) -> None:
    """Run the engine on each of ``inputs`` in a thread of its own, all at once, and compare with running alone."""
    alone = [compute_logits(engine, x) for x in inputs]
    start = threading.Barrier(len(inputs))

    def ask(x: Tensor) -> list[Tensor]:
        start.wait()
        return [compute_logits(engine, x) for _ in range(times)]

    with ThreadPoolExecutor(len(inputs)) as pool:
        for expected, answers in zip(alone, pool.map(ask, inputs), strict=True):
            assert all(torch.equal(answer, expected) for answer in answers)


def inputs_of(count: int, side: int = 24) -> list[Tensor]:
    return list(images(THREADS * count, side).split(count))


@pytest.mark.parametrize(("engine", "precision"), COMBINATIONS)
def test_threads_get_their_own_answers_in_every_way(engine: str, precision: str) -> None:
    usable(engine, precision)
    if precision == "int8":
        pytest.importorskip("nncf")
    parts = EngineBuilder(lived("resnext11_2x4d"), precision, 2, images(8))
    for way in list_configs(engine, precision, "throughput", 4, 2):
        run = parts.build(way)
        for count in (1, 7):  # one image, and more than a piece
            compare_with_alone(run, inputs_of(count))


def test_threads_with_more_shapes_than_are_kept_compiled_get_their_own_answers() -> None:
    usable("openvino", "fp32")
    parts = EngineBuilder(lived("resnext11_2x4d"), "fp32", 1)
    run = OpenVinoEngine(parts.get_openvino_model(0), "fp32", 0, 1, 1)
    sizes = range(16, 16 + 2 * MAX_COMPILED)
    compare_with_alone(run, [images(2, side) for side in sizes], times=3)
    assert len(run._compiled) == MAX_COMPILED


def test_a_shape_that_threads_meet_at_once_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    usable("openvino", "fp32")
    run = OpenVinoEngine(EngineBuilder(lived("resnext11_2x4d"), "fp32", 1).get_openvino_model(0), "fp32", 0, 1, 1)
    compiled, compile_shape = [], run._compile
    monkeypatch.setattr(run, "_compile", lambda shape: compiled.append(shape) or compile_shape(shape))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(partial(compute_logits, run), inputs_of(2)))
    assert len(compiled) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_predictors_are_built_and_dropped_while_others_answer(engine: str, tmp_path, monkeypatch) -> None:
    usable(engine, "fp32")
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    networks = [lived("resnext11_2x4d", num_classes=count) for count in (3, 4, 5)]
    x = images(3, 24)

    def build_and_ask(number: int) -> bool:
        predictor = Predictor(networks[number], engine=engine, image_size=24)
        return torch.allclose(predictor(x), networks[number](x), rtol=1e-3, atol=1e-3)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(build_and_ask, [0, 1, 2] * 2))
