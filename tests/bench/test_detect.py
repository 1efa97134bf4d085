"""``resnext bench detect`` at toy size: both libraries compute the same, and each candidate is one row."""

from pathlib import Path

import pytest
import torch

from resnext.bench import detect_step
from resnext.bench.check_outputs import check_distances
from resnext.bench.detect_step import (
    TOLERANCES,
    DetectStep,
    DetectWorkload,
    build_initial_detector,
    compute_outputs,
    list_configs,
    measure_distances,
)
from resnext.bench.results import read_rows
from resnext.bench.train_step import StepConfig
from resnext.cli import main
from resnext.detection.settings import DetectorSettings
from resnext.errors import RequestError
from resnext.model.architecture import Architecture

TINY = Architecture.parse("resnext50_4x4d", depth=14, blocks=(1, 1, 1, 1))
TOY = ("bench", "detect", "resnet18", "--size", "64", "--batch", "1", "--boxes", "2", "--rounds", "1")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch fast paths on, which are off in other tests, and use few proposals, for speed."""
    monkeypatch.setenv("RESNEXT_FAST", "1")
    small = DetectorSettings(rpn_post_nms_train=100, rpn_post_nms_test=50, roi_batch=32)
    monkeypatch.setattr(detect_step, "SETTINGS", small)


def tiny(**changes: object) -> DetectWorkload:
    return DetectWorkload(TINY, 64, 2, **({"classes": 5, "boxes": 3} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("freeze", [None, "conv3"])
def test_ours_has_torchvisions_losses_gradients_and_detections(freeze: str | None) -> None:
    task = tiny(freeze=freeze)
    start = build_initial_detector(task)
    ours, theirs = (
        DetectStep(task, way, start) for way in (StepConfig("resnext", "fp32"), StepConfig("torchvision", "fp32"))
    )
    for arm in (ours, theirs):
        sum(arm.losses().values()).backward()  # type: ignore[union-attr]
    mine = {name: p.grad for name, p in ours.model.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in theirs.model.named_parameters() if p.grad is not None}
    assert mine.keys() == expected.keys()
    assert ("backbone.body.layer2.0.conv1.weight" in mine) == (freeze is None)
    for name, gradient in expected.items():
        far = float((mine[name] - gradient).norm() / gradient.norm().clamp_min(1e-12))
        assert far < (1e-3 if name.startswith("rpn") else 2e-2), name
    for arm in (ours, theirs):
        arm.optimizer.zero_grad()
    found = measure_distances(compute_outputs(ours), compute_outputs(theirs))
    check_distances("ours", "fp32", found, TOLERANCES["fp32"])
    assert found["RPN losses"] < 1e-5


def test_a_bench_prints_and_writes_each_arm_of_both_kinds_of_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TOY, "--out", str(tmp_path)]) == 0
    rows = read_rows(tmp_path / "bench-detect.csv")
    arms = ["resnext bf16 NHWC", "resnext fp32 NHWC", "torchvision fp32 NCHW", "torchvision bf16 NHWC"]
    assert [row["arm"] for row in rows] == [*arms, *arms]
    assert [row["work"] for row in rows] == ["train"] * 4 + ["predict"] * 4
    assert {row["command"] for row in rows} == {f"resnext {' '.join(TOY)}"}
    assert all(float(row["ours_over_arm"]) > 0 for row in rows)
    assert all(arm in capsys.readouterr().out for arm in arms[:1])


def test_an_arm_that_computes_something_else_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(model: torch.nn.Module) -> int:
        model.backbone.fpn.layer_blocks[0][0].bias.data += 1  # type: ignore[union-attr, index, operator]
        return 0

    monkeypatch.setattr(detect_step, "fuse_detector", wrong)
    assert main([*TOY, "--out", str(tmp_path)]) == 1
    assert "does not compute the same as the reference" in capsys.readouterr().err
    assert not (tmp_path / "bench-detect.csv").exists()


def test_in_fp32_no_arm_is_there_twice() -> None:
    assert [str(way) for way in list_configs("fp32")] == [
        "resnext fp32 NHWC",
        "torchvision fp32 NCHW",
        "torchvision fp32 NHWC",
    ]


def test_a_network_without_a_counterpart_is_refused() -> None:
    with pytest.raises(RequestError, match="torchvision"):
        build_initial_detector(DetectWorkload(Architecture.parse("resnext50_4x4d", pre_activation=True), 64, 1))
