"""``resnext grow``: add paths that start as zero contribution, to train on."""

import argparse
from pathlib import Path

from resnext.choices import CHECKPOINT_NAMES
from resnext.commands.evaluate import parse_non_negative
from resnext.commands.prune import check_out, choose_out, parse_cardinality
from resnext.run_directory import check_checkpoint_choice, check_run_kind

SUMMARY = "Add paths to each block of a network; it computes the same until it is trained on."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the weights, the number of paths and the output."""
    parser.add_argument("weights", metavar="RUN_OR_WEIGHTS", help="run directory, weights file of any format, hf://...")
    parser.add_argument(
        "--cardinality", required=True, metavar="C", help="paths of every stage, or C,C,C,C: one a stage"
    )
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    parser.add_argument("--seed", type=parse_non_negative, default=0, metavar="N", help="seed of the new weights [0]")
    parser.add_argument("--out", metavar="FILE", help="weights file to write (.safetensors) [named after the network]")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> int:
    """Grow, write and print; return 0."""
    from resnext.deploy.network_engine import get_expected_image_size
    from resnext.files import compute_sha256
    from resnext.model.complexity import complexity
    from resnext.model.stage_table import format_count
    from resnext.pruning.grow import grow
    from resnext.screen import print_facts
    from resnext.weights import find_weights_file, load, native
    from resnext.weights.writers import verify_file, write_verified

    cardinality = parse_cardinality(args.cardinality)
    check_checkpoint_choice(args.checkpoint, [args.weights])
    check_run_kind(args.weights, "classification", f"resnext convert {args.weights} OUT, and grow OUT, its backbone")
    file = find_weights_file(args.weights, args.checkpoint)
    if args.out is not None:
        check_out(Path(args.out), file, args.overwrite)
    model = load(args.weights, args.checkpoint)
    grown = grow(model, cardinality, seed=args.seed)
    parent = {"file": file.name, "sha256": compute_sha256(file) if file.is_file() else None}
    grown.provenance["grow"]["parent"] = parent
    out = choose_out(args.out, grown, file, args.overwrite)
    write_verified(grown, out, native.save)
    difference = verify_file(model, out)
    size = get_expected_image_size(model)
    costs = [complexity(one.architecture.change(form="grouped"), size) for one in (model, grown)]
    print_facts(
        [
            ("network", f"{model.architecture.name} -> {grown.architecture.name}"),
            ("MACs", " -> ".join(format_count(cost.macs) for cost in costs)),
            ("parameters", " -> ".join(format_count(cost.parameters) for cost in costs)),
            (
                "outputs",
                f"differ by at most {difference:.2g}: the new paths add zero" if difference else "are identical",
            ),
            ("written", str(out)),
            ("SHA-256", compute_sha256(out)),
            ("", f"to train on: resnext train RECIPE --init {out} --model.name null"),
        ]
    )
    return 0
