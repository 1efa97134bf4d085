"""Tests of the predictor: results equal the network's, errors are clear, and measured times are cached."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from resnext import RequestError, WorkError, environment
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.deploy import engine_selection, engines
from resnext.deploy.engine_builder import EngineBuilder
from resnext.deploy.engines import Engine, EngineConfig, Outputs
from resnext.deploy.predictor import Predictor
from resnext.speed import cache_folder
from tests.deploy.networks import images, lived

pytestmark = pytest.mark.usefixtures("one_thread")
needs_int8 = pytest.mark.skipif(
    bool(engines.find_missing_packages("openvino")) or find_spec("nncf") is None,
    reason="openvino and nncf are not installed",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    cache_folder.warn_once.cache_clear()
    return tmp_path / "cache" / "choices.json"


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(lived(), engine="pytorch", image_size=32)


def close(logits: torch.Tensor, reference: torch.Tensor) -> None:
    torch.testing.assert_close(logits, reference.detach(), rtol=1e-4, atol=1e-4)


def test_every_layout_and_container_gives_the_networks_logits(predictor: Predictor) -> None:
    x = images(4)
    for given in (x, x.numpy(), x.double(), x.to(memory_format=torch.channels_last)):
        close(predictor(given), predictor.network(x))
    turned = x.transpose(2, 3)[::2].flip(3)
    close(predictor(turned), predictor.network(turned))
    close(predictor(x.numpy()[:, ::-1, ::-1, 1:]), predictor.network(x.flip(1).flip(2)[..., 1:].contiguous()))


def test_an_empty_batch_has_empty_logits(predictor: Predictor) -> None:
    assert predictor(images()[:0]).shape == (0, 10)
    assert predictor(images()[:0]).dtype == torch.float32


def test_bytes_are_normalised_as_the_weights_say(predictor: Predictor) -> None:
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RequestError, match="do not say how uint8 images are normalised"):
        predictor(x)
    means = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)}
    predictor.preprocessing = Preprocessing(image_size=32, resize=32, channels=3, **means)  # type: ignore[arg-type]
    close(predictor(x), predictor.network(normalize(x, predictor.preprocessing, "cpu")))
    close(predictor(x.numpy()), predictor(x))


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 3, 32), (1, 3, 2, 2), (2, 3, 32, 32, 1)])
def test_wrong_shapes_are_refused(predictor: Predictor, shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError):
        predictor(torch.zeros(shape))


@pytest.mark.parametrize("given", [np.zeros((1, 3, 32, 32), np.int64), np.array(["a"]), [[1.0]], None])
def test_wrong_types_are_refused(predictor: Predictor, given: object) -> None:
    with pytest.raises(RequestError, match=r"images must be|takes images"):
        predictor(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"engine": "pytorhc"}, "engine 'pytorhc' is unknown; did you mean 'pytorch'"),
        ({"precision": "fp61"}, "precision 'fp61' is unknown"),
        ({"goal": "speed"}, "goal 'speed' is unknown; choose from latency, throughput"),
        ({"batch": 0}, "must be at least 1"),
        ({"image_size": 1}, "pixels"),
        ({"engine": "pytorch", "precision": "int8"}, "openvino does"),
    ],
)
def test_wishes_that_cannot_be_met(wish: dict, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        Predictor(lived(), **({"image_size": 32} | wish))


def test_bf16_is_refused_where_the_processor_has_none_and_auto_stays_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "read_cpu_features", lambda: ["avx2"])
    with pytest.raises(RequestError, match="does not compute in bf16"):
        Predictor(lived(), engine="pytorch", precision="bf16", image_size=32)
    assert Predictor(lived(), engine="pytorch", precision="auto", image_size=32).precision == "fp32"


def test_the_network_given_is_neither_changed_nor_followed() -> None:
    network, x = lived().train(), images()
    predictor = Predictor(network, engine="pytorch", image_size=32)
    before = predictor(x)
    assert network.training
    network.fc.bias.data.fill_(100)
    assert torch.equal(predictor(x), before)


def test_a_choice_is_measured_once_and_remembered(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Predictor(lived(), engine="pytorch", image_size=32)
    kept = json.loads(own_cache.read_text())
    assert len(kept) == 1
    monkeypatch.setattr(engine_selection.TuningCache, "measure_or_load", lambda *_: pytest.fail("measured again"))
    assert Predictor(lived(), engine="pytorch", image_size=32).engine == first.engine


def test_another_goal_or_batch_is_another_measurement(own_cache: Path) -> None:
    Predictor(lived(), engine="pytorch", image_size=32)
    Predictor(lived(), engine="pytorch", image_size=32, batch=4, goal="throughput")
    ((_, works),) = json.loads(own_cache.read_text()).items()
    assert len(works) == 2


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b"[1, 2]", b'{"machine": {"work": {"way": -1}}}', b"[" * 100_000]
)
def test_a_broken_cache_is_ignored_and_replaced(own_cache: Path, content: bytes) -> None:
    own_cache.parent.mkdir()
    own_cache.write_bytes(content)
    close(Predictor(lived(), engine="pytorch", image_size=32)(images()), lived()(images()))
    assert json.loads(own_cache.read_text())


def test_a_cache_that_names_no_way_we_know_is_ignored(own_cache: Path) -> None:
    Predictor(lived(), engine="pytorch", image_size=32)
    kept = json.loads(own_cache.read_text())
    for works in kept.values():
        for key in works:
            works[key] = {"tensorrt folded pack=0 piece=0 streams=1": 1e-9, "__import__('os')": 1e-9}
    own_cache.write_text(json.dumps(kept))
    assert Predictor(lived(), engine="pytorch", image_size=32).engine.startswith("fp32 on pytorch")


def test_an_engine_with_wrong_results_is_left_out_with_a_sentence(monkeypatch, capsys) -> None:
    build = EngineBuilder.build

    def spoiled(self: EngineBuilder, way: EngineConfig) -> Engine:
        engine = build(self, way)
        if way.form != "network":
            compute = engine.compute  # type: ignore[attr-defined]  # of the PyTorch engines
            engine.compute = lambda x: (compute(x)[0] + 1, None)  # type: ignore[attr-defined]
        return engine

    monkeypatch.setattr(EngineBuilder, "build", spoiled)
    assert "pytorch network" in Predictor(lived(), engine="pytorch", image_size=32).engine
    assert "the relative error of its logits in fp32 is" in capsys.readouterr().err


def test_no_engine_with_right_results_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineBuilder, "build", lambda self, way: lambda x: Outputs(np.zeros((len(x), 10))))
    with pytest.raises(WorkError, match="gives the network's results in fp32"):
        Predictor(lived(), engine="pytorch", image_size=32)


def test_an_engine_that_fails_is_left_out(monkeypatch, capsys) -> None:
    build = EngineBuilder.build

    def failing(self: EngineBuilder, way: EngineConfig) -> Engine:
        if way.form == "fused":
            raise OSError("no such device")
        return build(self, way)

    monkeypatch.setattr(EngineBuilder, "build", failing)
    Predictor(lived(), engine="pytorch", image_size=32)
    assert "OSError: no such device" in capsys.readouterr().err


@needs_int8
def test_int8_wants_calibration_images() -> None:
    with pytest.raises(RequestError, match="int8 needs calibration images"):
        Predictor(lived("resnext11_2x4d"), precision="int8", image_size=32)


@needs_int8
def test_int8_agrees_with_fp32() -> None:
    network, x = lived("resnext11_2x4d"), images(24)
    predictor = Predictor(network, precision="int8", image_size=32, calibration=x)
    assert predictor.relative_error < engines.TOLERANCE["int8"]
    agree = predictor(x).argmax(1) == network(x).argmax(1)
    assert agree.float().mean() > 0.9


@needs_int8
def test_openvino_and_nncf_do_not_report_their_use() -> None:
    code = (
        "import sys; from resnext.deploy.openvino_engine import import_openvino; import_openvino(); "
        "import nncf.telemetry as t; print(sys.modules['openvino_telemetry'], type(t.telemetry).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["None", "MagicMock"], done.stderr
