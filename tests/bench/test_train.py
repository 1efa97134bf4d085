"""``resnext bench train`` at toy size: equal candidates, one CSV, and one sentence for a wrong request."""

import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from resnext.bench import peers
from resnext.bench.check_outputs import TOLERANCES, check_distances, compute_outputs, measure_distances
from resnext.bench.peers import build_network, choose_peers
from resnext.bench.results import read_rows
from resnext.bench.train import ISA_CAPS
from resnext.bench.train_step import StepConfig, TrainStep, rebuild_step
from resnext.cli import main
from resnext.errors import RequestError, WorkError
from resnext.model.architecture import Architecture
from resnext.model.plan import Plan

SMALL = Architecture.parse("resnext11_2x8d", base_channels=8, num_classes=10)
RESNEXT = Architecture.parse("resnext50_4x8d", num_classes=5)
TOY = ("bench", "train", "resnext11_2x4d", "--batch", "4", "--size", "32", "--rounds", "3")


def test_a_bench_of_a_tiny_network_prints_and_writes_each_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TOY, "--without-memory", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = read_rows(tmp_path / "bench-train.csv")
    assert [row["arm"] for row in rows] == ["resnext bf16 NHWC", "plain fp32 NCHW", "plain bf16 NHWC"]
    assert all(row["arm"] in printed and row["rounds"] == "3" for row in rows)
    assert {row["command"] for row in rows} == {f"resnext {' '.join(TOY)} --without-memory"}
    assert all(float(row["median_images_per_second"]) > 0 for row in rows)
    assert rows[0]["ours_over_arm"] == "1"


@pytest.mark.slow
def test_peaks_are_those_of_a_fresh_process_and_fp32_needs_more(tmp_path: Path) -> None:
    assert main([*TOY[:4], "8", *TOY[5:-1], "1", "--out", str(tmp_path)]) == 0
    ours, default, best = (int(row["peak_mib"]) for row in read_rows(tmp_path / "bench-train.csv"))
    assert default > best > 0
    assert ours > 0


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peers_start_from_our_weights_and_compute_the_same(library: str, precision: str) -> None:
    if library == "timm":
        pytest.importorskip("timm")
    reference = compute_outputs(TrainStep(RESNEXT, StepConfig("plain", "fp32", channels_last=False), 8, 64))
    found = measure_distances(compute_outputs(TrainStep(RESNEXT, StepConfig(library, precision), 8, 64)), reference)
    check_distances(library, precision, found, TOLERANCES[precision])
    assert found["logits in evaluation"] > 0 or precision == "fp32"
    assert type(build_network(library, RESNEXT)).__module__.startswith(library)


def test_an_arm_that_computes_something_else_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(TrainStep):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            if self.config.library == "resnext":
                self.model.fc.weight.data[0] += 0.1  # type: ignore[union-attr, operator]

    monkeypatch.setattr("resnext.bench.candidates.TrainStep", Wrong)
    assert main([*TOY, "--out", str(tmp_path)]) == 1
    assert not (tmp_path / "bench-train.csv").exists()


@pytest.mark.parametrize("what", TOLERANCES["fp32"])
@pytest.mark.parametrize("value", [0.6, float("nan")])
def test_a_distance_beyond_rounding_names_what_differs(what: str, value: float) -> None:
    same = dict.fromkeys(TOLERANCES["fp32"], 0.0)
    check_distances("candidate", "fp32", same, TOLERANCES["fp32"])
    with pytest.raises(WorkError, match=f"its {what} differ.*nothing was timed"):
        check_distances("candidate", "fp32", same | {what: value}, TOLERANCES["fp32"])


def test_a_wrong_gradient_is_found_where_outputs_agree() -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(_: object, x: torch.Tensor) -> torch.Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(_: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return 1.5 * gradient

    right = TrainStep(SMALL, StepConfig("plain", "fp32"), 8, 16)
    wrong = TrainStep(SMALL, StepConfig("plain", "fp32"), 8, 16)
    layer = wrong.model.get_submodule("layer2")
    wrong.model.layer2 = nn.Sequential(layer)  # type: ignore[assignment]
    wrong.model.layer2.forward = lambda x: Scaled.apply(layer(x))  # type: ignore[union-attr, method-assign]
    for name, module in layer.named_children():
        wrong.model.layer2.add_module(name, module)  # type: ignore[union-attr]
    found = measure_distances(compute_outputs(wrong), compute_outputs(right))
    assert found["logits in training"] == 0
    with pytest.raises(WorkError, match="gradients"):
        check_distances("wrong", "fp32", found, TOLERANCES["fp32"])


def test_a_step_is_torch_s_sgd_with_momentum() -> None:
    one = TrainStep(SMALL, StepConfig("plain", "fp32", channels_last=False), 4, 16)
    twin = build_network("plain", SMALL)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for _ in range(2):
        one()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(one.images), one.labels).backward()
        optimizer.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(one.model.state_dict()[name], value)


def test_the_work_of_a_fresh_process_is_the_same_step() -> None:
    work = rebuild_step(SMALL.to_dict(), {"library": "plain", "precision": "fp32"}, 4, 16, Plan().to_dict())
    work()
    work()


def test_timm_asked_for_by_name_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "timm" else object())
    with pytest.raises(RequestError, match=r"pip install 'resnext\[modern\]'"):
        choose_peers(["torchvision", "timm"], RESNEXT)
    assert choose_peers(None, RESNEXT) == ["torchvision"]
    assert choose_peers(None, SMALL) == ["plain"]
    assert choose_peers(["none"], SMALL) == []


@pytest.mark.parametrize("isa", ISA_CAPS)
def test_isa_hands_the_caps_to_a_process_of_its_own(isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = {}
    finished = subprocess.CompletedProcess([], 7)
    monkeypatch.setattr(subprocess, "run", lambda words, **options: ran.update(words=words, **options) or finished)
    assert main([*TOY, "--isa", isa, "--out", str(tmp_path)]) == 7
    assert ran["words"][1:] == ["-m", "resnext", *TOY, "--isa", isa, "--out", str(tmp_path)]
    assert {name: ran["env"][name] for name in ISA_CAPS[isa]} == ISA_CAPS[isa]


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISA_CAPS)
def test_isa_runs_the_same_command_in_a_capped_process(isa: str, tmp_path: Path) -> None:
    assert main([*TOY, "--without-memory", "--precision", "fp32", "--isa", isa, "--out", str(tmp_path)]) == 0
    rows = read_rows(tmp_path / "bench-train.csv")
    assert all(f"RESNEXT_ISA={isa}" in row["variables"].split() for row in rows)
    assert all("ONEDNN_MAX_CPU_ISA" in row["variables"] and f"--isa {isa}" in row["command"] for row in rows)
