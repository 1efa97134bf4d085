"""Build the stage table of a network, like the paper's Table 1, with the cost of each stage."""

from dataclasses import dataclass
from typing import Any

from resnext.model.architecture import Architecture, Stage
from resnext.model.complexity import ImageSize, LayerCost, compute_layer_costs


@dataclass(frozen=True)
class StageRow:
    """One row of Table 1: ``conv2 | 56x56 | [1x1,128; 3x3,128,C=32; 1x1,256] x3``."""

    stage: str
    output: str  # height x width
    layers: str
    parameters: int  # including BN
    macs: int


def build_stage_table(architecture: Architecture, image_size: ImageSize = None) -> list[StageRow]:
    """Build the rows of stem, stages and classifier, in this order; their costs add up to the network's."""
    costs = compute_layer_costs(architecture, image_size)
    stem = [cost for cost in costs if cost.name in ("conv1", "bn1")]
    kernel = "7x7,{}, stride 2" if architecture.stem == "imagenet" else "3x3,{}"
    rows = [_make_row("conv1", kernel.format(architecture.base_channels), stem)]
    for number, stage in enumerate(architecture.stages, start=1):
        within = [cost for cost in costs if cost.name.startswith(f"layer{number}.")]
        rows.append(_make_row(f"conv{number + 1}", _describe_stage(architecture, stage, first=number == 1), within))
    head = [cost for cost in costs if cost.name in ("bn", "fc")]
    if head:
        fc = f"; {architecture.num_classes}-d fc" if architecture.num_classes else ""
        rows.append(_make_row("", f"global average pool{fc}", head))
    return rows


def parse_paper_architecture(name: str, **changes: Any) -> Architecture:
    """Parse a name as the paper uses it: a network with a CIFAR stem has 10 classes unless ``num_classes`` is given."""
    architecture = Architecture.parse(name, **changes)
    if architecture.stem == "cifar" and "num_classes" not in changes:
        return architecture.change(num_classes=10)
    return architecture


def format_count(count: int, digits: int = 4) -> str:
    """Format a count with k, M or G and ``digits`` significant digits, as papers do: 25.03M, 4.230G."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            value = count / size
            decimals = max(0, digits - len(str(int(value))))
            return f"{value:.{decimals}f}{letter}"
    return str(count)


def _make_row(stage: str, layers: str, costs: list[LayerCost]) -> StageRow:
    height_width = costs[-1].output[1:] or (1, 1)
    return StageRow(
        stage=stage,
        output="x".join(map(str, height_width)),
        layers=layers,
        parameters=sum(cost.parameters for cost in costs),
        macs=sum(cost.macs for cost in costs),
    )


def _describe_stage(a: Architecture, stage: Stage, *, first: bool) -> str:
    """Describe a stage in the notation of Table 1, which lists the stem's pool under conv2."""
    pool = "3x3 max pool, stride 2\n" if first and a.stem == "imagenet" else ""
    one_by_one = "1x1" if a.block == "bottleneck" else "3x3"  # first and last convolution of a block
    c, last = stage.cardinality, f"{one_by_one},{stage.out_channels}"

    def inner(width: int, groups: str = "") -> str:
        first_layer = f"{one_by_one},{width}"
        return f"{first_layer}; 3x3,{width}{groups}" if a.block == "bottleneck" else first_layer

    if a.form == "grouped" or c == 1:
        block = f"{inner(c * stage.width, f',C={c}' if c > 1 else '')}; {last}"
    elif a.form == "concatenated":
        block = f"{c} paths of {inner(stage.width)}\nconcatenated; {last}"
    else:
        block = f"{c} paths of {inner(stage.width)}; {last}\nsummed"
    return f"{pool}[{block}] x{stage.blocks}"
