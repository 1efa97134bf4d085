"""Show what pruning did: error on held-out images, cost, latency and paths, before and after each step."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from resnext.bench.latency import Latency, LatencyRequest, measure_latencies
from resnext.data.dataset import Dataset
from resnext.data.loader import default_workers
from resnext.deploy.network_engine import get_expected_image_size
from resnext.evaluation.classifier import get_device
from resnext.evaluation.evaluator import Evaluation, evaluate
from resnext.evaluation.label_mapping import map_labels
from resnext.evaluation.outputs import get_preprocessing
from resnext.model.architecture import Architecture
from resnext.model.complexity import Complexity, complexity
from resnext.model.network import Network
from resnext.model.stage_table import format_count
from resnext.progress_bar import show_image_progress
from resnext.screen import print_line


@dataclass(frozen=True, eq=False)
class PruneStage:
    """A network at one stage of pruning."""

    name: str  # "whole", "pruned", ...
    architecture: Architecture
    cost: Complexity  # for an image of the size that the weights expect
    evaluation: Evaluation | None  # on the held-out images, if there are any


def judge(name: str, network: Network, held_out: Dataset | None) -> PruneStage:
    """Count the cost of a network, and evaluate it on the held-out images, on the device it is on.

    Raises RequestError if the classes of network and data differ.
    """
    cost = complexity(network.architecture.change(form="grouped"), get_expected_image_size(network))
    if held_out is None:
        return PruneStage(name, network.architecture, cost, None)
    mapping = map_labels(held_out, network.classes, network.architecture.num_classes)
    with show_image_progress(len(held_out)) as progress:
        evaluation = evaluate(
            network,
            mapping.dataset,
            get_preprocessing(network),
            device=get_device(network),
            workers=default_workers(held_out),
            progress=progress,
            output_indices=mapping.output_indices,
        )
    return PruneStage(name, network.architecture, cost, evaluation)


def print_outcome(
    console: Console,
    stages: Sequence[PruneStage],
    networks: Sequence[Network],
    latency: LatencyRequest | None,
) -> None:
    """Print a row for each stage. The latencies of ``networks``, the first and the second stage's, are measured."""
    measured: list[Latency] = []
    if latency is not None and networks:
        measured = measure_latencies([copy.deepcopy(network).cpu() for network in networks], latency)
    table = Table("", "network", "paths", box=None, header_style="bold")
    for heading in ("top-1 error", "MACs", "parameters", *(["latency"] if measured else [])):
        table.add_column(heading, justify="right")
    for number, stage in enumerate(stages):
        error = "" if stage.evaluation is None else f"{stage.evaluation.top1_error:.2f} %"
        row = [stage.name, "", "", error]
        if number < 2:
            row[1] = stage.architecture.name
            row[2] = "-".join(map(str, stage.architecture.cardinalities))
            row += [format_count(stage.cost.macs), format_count(stage.cost.parameters)]
            row += [f"{measured[number].milliseconds:.3g} ms"] if measured else []
        table.add_row(*row)
    console.print(table)
    evaluated = stages[0].evaluation
    if evaluated is not None:
        print_line(console, f"error on {evaluated.n:,} held-out images of {evaluated.name}")
    if measured:
        engines = " and ".join(dict.fromkeys(one.engine for one in measured))
        print_line(console, f"latency: median of interleaved rounds, one image at a time, {engines}")
