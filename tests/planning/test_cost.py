import contextlib
import csv
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity, compute_layer_costs
from resnext.model.network import Network
from resnext.planning import cost
from resnext.planning.cost import CostModel, estimate_cost, load_cost_model
from resnext.planning.machines import Cluster, Machine, find_machine, load_machines, parse_cluster

PLAIN = Machine("plain", {"fp32": 10.0, "half": 100.0}, 1000.0, "made up", like="plain")
MODEL = CostModel({"fp32": 1.0, "half": 1.0}, {("plain", "fp32"): 0.5, ("plain", "half"): 0.5}, 0.9, 0.1, 0.3)


def test_an_image_costs_six_flops_a_mac_and_fourteen_passes() -> None:
    counts = complexity("resnet50")
    expected = (6 * counts.macs / 100e12 + 14 * 2 * counts.activations / 1000e9) / 0.5
    found = estimate_cost("resnet50", 224, 1_000_000, Cluster(PLAIN), batch_size=32, model=MODEL)
    assert found.seconds_per_step == pytest.approx(32 * expected)
    assert found.images_per_second == pytest.approx(1 / expected)
    assert found.hours == found.gpu_hours == pytest.approx(1_000_000 * expected / 3600)
    assert found.bottleneck == "memory"
    assert found.error == 0.1


def test_many_devices_share_a_batch_and_lose_a_little() -> None:
    one = estimate_cost("resnet50", 224, 1000, Cluster(PLAIN), model=MODEL)
    many = estimate_cost("resnet50", 224, 1000, Cluster(PLAIN, devices=8, hosts=2), model=MODEL)
    assert many.images_per_second == pytest.approx(16 * 0.9 * one.images_per_second)
    assert many.gpu_hours == pytest.approx(16 * many.hours)


def test_too_few_cores_bound_the_speed() -> None:
    cluster = Cluster(PLAIN, devices=4, hosts=2)
    found = estimate_cost("resnet50", 224, 1000, cluster, seconds_per_image=0.01, cores=3, model=MODEL)
    assert found.bottleneck == "data"
    assert found.images_per_second == pytest.approx(2 * 3 / 0.01)
    cores = math.ceil(found.cores)
    enough = estimate_cost("resnet50", 224, 1000, cluster, seconds_per_image=0.01, cores=cores, model=MODEL)
    assert enough.bottleneck == "memory"


def test_work_without_narrow_groups_is_the_counts() -> None:
    architecture = Architecture.parse("resnext50_32x4d")
    counts = complexity(architecture)
    assert cost.count_work(architecture, 224, 1.0) == (counts.macs, counts.activations)


def test_infinitely_wide_groups_cost_what_dense_convolutions_do() -> None:
    """Count by walking over the modules, not over the rows that the cost model uses."""
    architecture = Architecture.parse("resnext50_32x4d")
    groups = {n: m.groups for n, m in Network(architecture).named_modules() if isinstance(m, nn.Conv2d)}
    dense = sum(row.macs * groups.get(row.name, 1) for row in compute_layer_costs(architecture))
    assert cost.count_work(architecture, 224, 1e9)[0] == dense
    assert dense > 2 * complexity(architecture).macs


@given(st.sampled_from(["resnet50", "resnext50_32x4d", "resnext101_64x4d"]), st.floats(1, 128), st.floats(0, 50))
def test_work_grows_with_the_width(name: str, width: float, more: float) -> None:
    architecture = Architecture.parse(name)
    assert cost.count_work(architecture, 224, width)[0] <= cost.count_work(architecture, 224, width + more)[0]


@settings(max_examples=30)
@given(st.floats(1, 1000), st.floats(10, 5000), st.floats(1.01, 10))
def test_a_faster_machine_is_never_slower(peak: float, bandwidth: float, factor: float) -> None:
    def speed(p: float, b: float) -> float:
        machine = Machine("plain", {"half": p}, b, "", like="plain")
        return estimate_cost("resnext50_32x4d", 224, 1, Cluster(machine), model=MODEL).images_per_second

    base = speed(peak, bandwidth)
    assert base < speed(peak * factor, bandwidth)
    assert base < speed(peak, bandwidth * factor)
    assert speed(peak * factor, bandwidth * factor) == pytest.approx(factor * base)


def test_larger_images_take_longer() -> None:
    found = [estimate_cost("resnet50", side, 1, Cluster(PLAIN), model=MODEL) for side in (160, 224, 320)]
    assert found == sorted(found, key=lambda estimate: estimate.seconds_per_step)


def test_the_fit_gives_the_papers_own_timing_back() -> None:
    """0.95 s for X-101 32x4d and 0.70 s for R-101 on 8 M40; these went into the fit."""
    for name, seconds in (("resnext101_32x4d", 0.95), ("resnet101", 0.70)):
        found = estimate_cost(name, 224, 1, parse_cluster("8xM40"), precision="fp32")
        assert found.seconds_per_step == pytest.approx(seconds, rel=0.03)


def test_the_fit_meets_a_speed_it_has_never_seen() -> None:
    """timm's benchmark.py on an A100 with NGC 22.04, ResNet-50, AMP, NHWC: 2600 images/s (its issue 1491)."""
    found = estimate_cost("resnet50", 224, 1, parse_cluster("A100"), batch_size=512)
    assert found.images_per_second == pytest.approx(2600, rel=2 * found.error)


def test_the_published_error_is_that_of_the_record() -> None:
    record = Path(__file__).parents[2] / "results" / "cost-model.csv"
    with record.open(newline="") as file:
        left_out = [row["network_left_out_percent"] for row in csv.DictReader(file)]
    logs = [math.log1p(float(percent) / 100) for percent in left_out if percent]
    error = math.expm1(math.sqrt(sum(e * e for e in logs) / len(logs)))
    assert error == pytest.approx(load_cost_model().error_measured, abs=0.002)


def test_unmeasured_machines_and_precisions_are_marked_and_less_certain() -> None:
    h100, a100 = (estimate_cost("resnet50", 224, 1, parse_cluster(name)) for name in ("H100", "A100"))
    assert h100.extrapolated
    assert not a100.extrapolated
    assert h100.error == load_cost_model().error_extrapolated > a100.error
    assert estimate_cost("resnet50", 224, 1, parse_cluster("RTX3090"), precision="tf32").extrapolated


def test_fp32_is_tf32_where_the_machine_has_it() -> None:
    assert find_machine("A100").resolve_precision("fp32") == "tf32"
    assert find_machine("V100").resolve_precision("fp32") == "fp32"
    assert find_machine("V100").resolve_precision("bf16") == "half"


@pytest.mark.parametrize("machine", load_machines().values(), ids=str)
def test_every_machine_has_what_the_model_needs(machine: Machine) -> None:
    assert machine.source
    assert machine.like in load_machines()
    for precision in machine.peak:
        used = machine.resolve_precision(precision)
        assert 1 < estimate_cost("resnext50_32x4d", 224, 1, Cluster(machine), precision=used).images_per_second < 1e5


@pytest.mark.parametrize(
    ("text", "hosts", "devices", "name"),
    [
        ("H100", 1, 1, "H100"), ("8xH100", 1, 8, "H100"), ("8 x h100", 1, 8, "H100"), ("4x8xA100", 4, 8, "A100"),
        ("2xA100-40gb", 1, 2, "A100-40GB"), ("RTX 3090", 1, 1, "RTX3090"), ("2xrtx-4090", 1, 2, "RTX4090"),
    ],
)  # fmt: skip
def test_machines_are_written_in_one_word(text: str, hosts: int, devices: int, name: str) -> None:
    cluster = parse_cluster(text)
    assert (cluster.hosts, cluster.devices, cluster.machine.name) == (hosts, devices, name)
    assert cluster.size == hosts * devices


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8xH10", "H100"), ("0xH100", "0 devices"), ("8x", "not a machine"), ("", "not a machine"),
        ("8", "not a machine"),
        ("-1xH100", "unknown"), ("2x0xH100", "0 devices"), ("99999999xH100", "65536"), ("8xTPU", "choose from"),
    ],
)  # fmt: skip
def test_what_is_no_machine_is_refused(text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        parse_cluster(text)


@given(st.text(max_size=30))
def test_any_text_is_a_cluster_or_a_refusal(text: str) -> None:
    if "this" in text.lower():
        return
    with contextlib.suppress(RequestError):
        assert parse_cluster(text).size >= 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 30}, "not divisible"), ({"images": 0}, "at least 1"), ({"precision": "fp8"}, "fp8"),
        ({"architecture": "resnext50"}, "resnext50"), ({"image_size": 0}, "image_size"),
    ],
)  # fmt: skip
def test_what_cannot_be_estimated_is_refused(changes: dict[str, object], says: str) -> None:
    cluster = parse_cluster("8xA100")
    request = {"architecture": "resnet50", "image_size": 224, "images": 10, "cluster": cluster} | changes
    with pytest.raises(RequestError, match=says):
        estimate_cost(**request)  # type: ignore[arg-type]


def test_a_machine_without_tensor_cores_says_what_it_has() -> None:
    with pytest.raises(RequestError, match="P100 has no fast bf16; choose from fp32"):
        find_machine("P100").resolve_precision("bf16")


def test_this_machine_is_measured_and_marked() -> None:
    this = find_machine("this")
    assert set(this.peak) == {"fp32", "half"}
    assert this.extrapolated
    assert min(*this.peak.values(), this.bandwidth) > 0


def test_the_fit_is_a_file_of_plain_numbers() -> None:
    model = load_cost_model()
    assert all(0 < u <= 1 for u in model.utilisation.values())
    assert all(1 <= w <= 128 for w in model.width.values())
    assert 0.5 < model.scaling <= 1
    assert json.loads((Path(cost.__file__).parent / "cost_model.json").read_text())["command"]
