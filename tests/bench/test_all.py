"""``resnext bench all``: checked candidates, most important first, in one CSV for training and one for inference."""

import math
from pathlib import Path

import pytest
import torch

from resnext.bench import all as bench_all
from resnext.bench.device_steps import (
    DeviceWorkload,
    InferChecks,
    TrainChecks,
    list_inference,
    list_training,
)
from resnext.bench.results import read_rows
from resnext.cli import main
from resnext.errors import WorkError
from resnext.model.architecture import Architecture
from resnext.screen import make_screen

RESNEXT50 = Architecture.parse("resnext50_32x4d")
TINY = Architecture.parse("resnext11_2x4d", base_channels=4, num_classes=10)
TOY = ("bench", "all", "resnext11_2x4d", "--size", "32", "--rounds", "1")


@pytest.mark.device
def test_it_times_what_agrees_and_writes_one_csv_for_each_work(
    device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TOY, "--device", str(device), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    prefix = "gpu" if device.type == "cuda" else "cpu-reduced"
    for work in ("train", "infer"):
        rows = read_rows(tmp_path / f"{prefix}-{work}.csv")
        assert {row["library"] for row in rows} == {"resnext", "plain"}
        assert all(float(row["median_images_per_second"]) > 0 and float(row["logits_distance"]) < 0.1 for row in rows)
        assert all(row["arm"] in printed and row["command"].startswith("resnext bench all") for row in rows)
    assert ("reduced size" in printed) == (device.type == "cpu")


def test_on_a_gpu_peers_are_measured_at_their_best_and_the_most_telling_come_first() -> None:
    cuda = torch.device("cuda")
    for specs in (list_training(RESNEXT50, ["torchvision", "timm"], cuda), list_inference(RESNEXT50, ["timm"], cuda)):
        names = [spec.name for spec in specs]
        assert len(set(names)) == len(names)
        assert specs[0].config.library == "resnext"
        for library in ("resnext", "timm"):
            ways = {(s.config.precision, s.config.compile) for s in specs if s.config.library == library}
            assert {("bf16", "no"), ("bf16", "yes"), ("bf16", "cuda-graphs")} <= ways
            assert "fp16" in {precision for precision, _ in ways}
        assert all(spec.config.channels_last for spec in specs if spec.config.precision in ("bf16", "fp16"))
    assert "resnet50: resnext bf16 NHWC, CUDA graphs" in [
        spec.name for spec in list_training(RESNEXT50, ["timm"], cuda)
    ]


class Fake:
    """Checks that build nothing, and fail as told."""

    work = "infer"

    def __init__(self, failures: dict[str, Exception]) -> None:
        self.failures = failures

    def build(self, spec: object) -> tuple[object, dict[str, float]]:
        if spec.name in self.failures:  # type: ignore[attr-defined]
            raise self.failures[spec.name]  # type: ignore[attr-defined]
        return (lambda: None), {"logits": 0.0}


def measure(failures: dict[str, Exception], minutes: float = 1.0) -> list[str]:
    task = DeviceWorkload(2, 16, torch.device("cpu"))
    specs = list_inference(TINY, ["plain"], task.device)
    deadline = bench_all.Deadline(-math.inf if not minutes else math.inf, 60)
    rows = bench_all.measure_work(Fake(failures), specs, task, 1, deadline, make_screen())  # type: ignore[arg-type]
    return [str(row["arm"]) for row in rows]


def test_what_finds_no_time_or_memory_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure({"plain bf16 NHWC": torch.OutOfMemoryError("CUDA out of memory.\nTried to")}) == [
        "resnext bf16 NHWC",
        "resnext fp32 NHWC",
        "plain fp32 NHWC",
    ]
    assert "left out: plain bf16 NHWC: CUDA out of memory.\n" in capsys.readouterr().out
    assert measure({}, minutes=0) == ["resnext bf16 NHWC"]
    assert "left out: plain fp32 NHWC: no time is left" in capsys.readouterr().out


def test_without_memory_for_ours_or_with_other_outputs_nothing_is_timed() -> None:
    with pytest.raises(WorkError, match="resnext bf16 NHWC cannot run on cpu, perhaps with a smaller --batch: full"):
        measure({"resnext bf16 NHWC": torch.OutOfMemoryError("full")})
    with pytest.raises(WorkError, match="its logits differ"):
        measure({"plain fp32 NHWC": WorkError("its logits differ")})


@pytest.mark.parametrize("kind", [TrainChecks, InferChecks])
def test_a_candidate_that_computes_something_else_is_an_error(
    kind: type[TrainChecks] | type[InferChecks],
) -> None:
    task = DeviceWorkload(4, 32, torch.device("cpu"))
    checks = kind(task, lambda _: None)
    spec = list_inference(TINY, ["plain"], task.device)[1]
    checks.build(spec)
    for reference in checks.references.values():
        logits = reference if isinstance(reference, torch.Tensor) else reference.logits
        with torch.inference_mode():
            logits += 1
    with pytest.raises(WorkError, match="plain bf16 NHWC does not compute the same as the reference"):
        checks.build(spec)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--device nonsense", "device 'nonsense' is unknown"),
        ("--batch 1", "--batch 1 must be at least 2"),
        ("--minutes 0", "--minutes 0 must be above 0"),
        ("--rounds 0", "--rounds 0 must be at least 1"),
        ("--size 2", "too small"),
    ],
)
def test_a_wrong_request_is_one_sentence(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "all", "resnext11_2x4d", "--device", "cpu", *words.split()]) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1
