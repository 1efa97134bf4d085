"""``resnext models``: list the named networks and their costs."""

import argparse

SUMMARY = "List the named networks with their parameters and multiply-adds."

NOTE = """
GMACs: 1 MAC = 2 FLOPs; the paper's FLOPs are MACs, and its parameters are those without BN.
Any other resnext{depth}_{C}x{d}d can be built too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext models``."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'resnext50*' (default: all)")


def run(args: argparse.Namespace) -> int:
    """Print the table. Raises RequestError if nothing matches."""
    from rich.table import Table

    from resnext.errors import RequestError, did_you_mean
    from resnext.model.architecture import MODEL_NAMES, list_models
    from resnext.model.complexity import complexity, get_default_image_size
    from resnext.model.stage_table import format_count, parse_paper_architecture
    from resnext.screen import make_screen

    names = list_models(args.pattern)
    if not names:
        raise RequestError(f"no named network matches {args.pattern!r}{did_you_mean(args.pattern, MODEL_NAMES)}")
    table = Table("name", "input", "classes", box=None, header_style="bold")
    for heading in ("parameters", "without BN", "GMACs", "activations"):
        table.add_column(heading, justify="right")
    for name in names:
        a = parse_paper_architecture(name)
        cost, size = complexity(a), get_default_image_size(a)
        table.add_row(
            name, f"{size}x{size}", str(a.num_classes), format_count(cost.parameters),
            format_count(cost.parameters_without_bn),
            f"{cost.macs / 1e9:.2f}", format_count(cost.activations),
        )  # fmt: skip
    console = make_screen()
    console.print(table)
    console.print(NOTE)
    return 0
