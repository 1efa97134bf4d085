"""``resnext info``: show one network as the paper's Table 1 does, with its costs."""

import argparse
from typing import TYPE_CHECKING, Any

from resnext.errors import RequestError
from resnext.model.architecture import Architecture

if TYPE_CHECKING:
    from rich.table import Table

SUMMARY = "Show a network's stages as the paper's Table 1 does, with their costs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext info``."""
    parser.add_argument("name", help="network, such as resnext50_32x4d or resnext29_8x64d")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side of the input in pixels (default: the paper's)"
    )
    add_set_option(parser)
    parser.add_argument("--layers", action="store_true", help="list every layer too")


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--set field=value``, shared with ``resnext design``."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="change one field: form=branched, num_classes=10, blocks=1,1,1 (may be repeated)",
    )  # fmt: skip


def parse_changes(pairs: list[str]) -> dict[str, Any]:
    """Parse ``["num_classes=10", "blocks=1,1,1"]`` into fields of an Architecture."""
    import yaml

    changes: dict[str, Any] = {}
    for pair in pairs:
        field, equals, text = pair.partition("=")
        if not equals or not field.strip() or not text.strip():
            raise RequestError(f"--set {pair!r} must look like field=value")
        listed = "," in text and not text.lstrip().startswith("[")
        try:
            value = yaml.safe_load(f"[{text}]" if listed else text)
        except yaml.YAMLError:
            raise RequestError(f"--set {pair!r} has a value that cannot be read") from None
        changes[field.strip()] = value
    return changes


def run(args: argparse.Namespace) -> int:
    """Print the stage table and the totals."""
    from resnext.model.complexity import complexity, get_default_image_size
    from resnext.model.stage_table import format_count, parse_paper_architecture
    from resnext.screen import make_screen

    a = parse_paper_architecture(args.name, **parse_changes(args.changes))
    size = args.image_size if args.image_size is not None else get_default_image_size(a)
    cost = complexity(a, size)
    console = make_screen()
    console.print(a.name, style="bold", end="")
    console.print(f": {size}x{size} images of {a.in_channels} channels, {a.num_classes} classes")
    console.print(_build_stage_table(a, size))
    console.print(
        f"\nparameters   {cost.parameters:,} ({format_count(cost.parameters)})"
        f"\nwithout BN   {cost.parameters_without_bn:,} ({format_count(cost.parameters_without_bn)}, as the paper "
        "counts)"
        f"\nMACs         {cost.macs:,} ({format_count(cost.macs)}; 1 MAC = 2 FLOPs; the paper's FLOPs are MACs)"
        f"\nactivations  {cost.activations:,} ({format_count(cost.activations)} convolution outputs)"
    )
    if args.layers:
        console.print()
        console.print(_build_layer_table(a, size))
    return 0


def _build_stage_table(a: Architecture, size: int) -> "Table":
    from rich.table import Table

    from resnext.model.stage_table import build_stage_table, format_count

    table = Table("stage", "output", "layers", box=None, header_style="bold")
    table.add_column("parameters", justify="right")
    table.add_column("MACs", justify="right")
    for row in build_stage_table(a, size):
        table.add_row(row.stage, row.output, row.layers, format_count(row.parameters), format_count(row.macs))
    return table


def _build_layer_table(a: Architecture, size: int) -> "Table":
    from rich.table import Table

    from resnext.model.complexity import compute_layer_costs

    table = Table("layer", "kind", "output", box=None, header_style="bold")
    for heading in ("parameters", "MACs", "activations"):
        table.add_column(heading, justify="right")
    for row in compute_layer_costs(a, size):
        table.add_row(
            row.name, row.kind, "x".join(map(str, row.output)),
            f"{row.parameters:,}", f"{row.macs:,}", f"{row.activations:,}",
        )  # fmt: skip
    return table
