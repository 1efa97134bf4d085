"""``resnext bench infer``: equal candidates, table, CSV with protocol, and the accuracy a precision costs."""

from pathlib import Path

import pytest
import torch

from resnext import WorkError, create_model
from resnext.bench import infer, infer_candidates
from resnext.bench.infer_candidates import InferWorkload
from resnext.bench.results import read_rows
from resnext.cli import main
from resnext.deploy.engines import TOLERANCE, compute_relative_error, find_missing_packages
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))


def bench(*words: object) -> int:
    fixed = ["--engine", "pytorch", "--no-peers", "--rounds", "1", "--precision", "fp32", "--threads", "1"]
    return main(["bench", "infer", *map(str, words), *fixed])


def test_a_network_by_name_gives_lines_with_their_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("resnext11_2x4d", "--batch", "1,3", "--out", tmp_path) == 0
    rows = read_rows(tmp_path / "bench-infer.csv")
    assert [(row["arm"], row["batch"]) for row in rows] == [
        ("plain PyTorch fp32", "1"),
        ("resnext fp32", "1"),
        ("plain PyTorch fp32", "3"),
        ("resnext fp32", "3"),
    ]
    assert all(row["size"] == "32" and row["torch"] == torch.__version__ and row["command"] for row in rows)
    assert "upper bound from arithmetic in fp32" in capsys.readouterr().out


def test_of_a_run_the_accuracy_is_counted_too_and_images_that_are_not_there_are_named_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert main(["train", str(tmp_path / "tiny.yaml"), "--run", str(tmp_path / "run")]) == 0
    assert bench(tmp_path / "run", "--batch", "2", "--out", tmp_path) == 0
    *_, row = read_rows(tmp_path / "bench-infer.csv")
    assert (row["arm"], row["images"], row["points_lost"], row["predictions_changed"]) == (
        "accuracy fp32",
        "30",
        "0.000",
        "0",
    )
    assert row["wrong"] == row["wrong_in_fp32"]
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("source: digits\n  path: null", "source: folder\n  path: /no/photos"))
    monkeypatch.setattr(infer, "measure_workload", lambda *_: pytest.fail("measured first"))
    assert bench(tmp_path / "run", "--batch", "2", "--out", tmp_path) == 2
    assert "/no/photos" in capsys.readouterr().err


@pytest.mark.slow
def test_the_peers_have_our_weights_and_give_our_logits() -> None:
    network = create_model("resnet18", seed=0, num_classes=10).eval()
    case = InferWorkload(network, "resnet18", 2, 64, ("fp32",), "pytorch", None)
    with torch.inference_mode():
        logits = network(case.images)
    names = []
    for name, precision, _, work in infer_candidates.iterate_candidates(case):
        names.append(name)
        assert compute_relative_error(work(case.images), logits) < TOLERANCE[precision], name
    assert names[0] == "torchvision fp32"
    assert names[-1] == "resnext fp32"
    assert find_missing_packages("openvino") or "OpenVINO fp32 queue" in names


def test_an_arm_with_other_logits_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_model("resnext11_2x4d", seed=0, num_classes=10).eval()
    wrong = [("theirs", "fp32", "a way", lambda images: torch.ones(len(images), 10))]
    monkeypatch.setattr(infer_candidates, "iterate_candidates", lambda case: wrong)
    with pytest.raises(WorkError, match="theirs does not compute the same as the reference: its logits differ"):
        infer_candidates.build_candidates(InferWorkload(network, "x", 2, 32, ("fp32",), "pytorch", None))


def test_the_memory_of_an_arm_is_that_of_a_fresh_process() -> None:
    work = infer_candidates.prepare_work("resnext11_2x4d", 2, 32, ["fp32"], "pytorch", None, "plain PyTorch fp32")
    assert work().shape == (2, 1000)  # type: ignore[attr-defined]
