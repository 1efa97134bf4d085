"""``resnext models``: list the named networks and their costs."""

import argparse

SUMMARY = "List the named networks with their parameters and multiply-adds."

NOTE = """
GMACs: 1 MAC = 2 FLOPs; the paper's FLOPs are MACs, and its parameters are those without BN.
Any other resnext{depth}_{C}x{d}d can be built too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext models``."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'resnext50*' (default: all)")
    parser.add_argument(
        "--pretrained", action="store_true", help="list public weights that can be used by name instead"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table. Raises RequestError if nothing matches."""
    from rich.table import Table

    from resnext.errors import RequestError, did_you_mean
    from resnext.model.architecture import MODEL_NAMES, list_models
    from resnext.model.complexity import complexity, get_default_image_size
    from resnext.model.stage_table import format_count, parse_paper_architecture
    from resnext.screen import make_screen

    if args.pretrained:
        return print_pretrained(args.pattern)
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


def print_pretrained(pattern: str) -> int:
    """Print the public weights whose network or name matches. Raises RequestError if there are none."""
    from fnmatch import fnmatchcase

    from rich.table import Table

    from resnext.errors import RequestError
    from resnext.screen import make_screen
    from resnext.weights.released import find_pretrained, load_released

    table = Table("name", "top-1 error %", "pixels", "licence", "weights", box=None, header_style="bold")
    for entry in load_released():
        name = entry.short_name
        if name is None or not entry.figures:
            continue
        if not (fnmatchcase(name, pattern) or fnmatchcase(entry.architecture, pattern)):
            continue
        mark = " *" if find_pretrained(entry.architecture) == entry else ""
        figure = entry.figures[0]
        table.add_row(name + mark, f"{figure.top1_error:.2f}", str(figure.image_size), entry.licence, entry.name)
    if not table.row_count:
        raise RequestError(f"no public weights match {pattern!r}; resnext models --pretrained lists all")
    console = make_screen()
    console.print(table)
    console.print("\nErrors as published, on ImageNet-1K. *: what the name of the network alone means.")
    return 0
