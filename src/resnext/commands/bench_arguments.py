"""The arguments of ``resnext bench ACTION``. What a benchmark needs is imported when its action is chosen."""

import argparse

from resnext.choices import PRECISION_CHOICES


def _add_all_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="resnext50_32x4d", metavar="MODEL", help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto [auto]")
    parser.add_argument("--batch", type=int, metavar="N", help="images per step [128; 4 on the CPU]")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the images [224; 64 on the CPU]")
    add_rounds_option(parser, 5)
    parser.add_argument(
        "--minutes", type=float, default=8.0, metavar="N",
        help="time limit: candidates for which none is left are left out and named [%(default)g]",
    )  # fmt: skip
    add_out_option(parser)


def _add_tune_arguments(parser: argparse.ArgumentParser) -> None:
    from resnext.bench.tune import PRECISIONS

    parser.add_argument("model", nargs="?", default="resnext50_32x4d", help="network (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images per step (default %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (default %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="default %(default)s")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--save", metavar="FILE", help="write the plan as JSON, for train.tuning_plan; you may edit it")
    one.add_argument("--show", action="store_true", help="do not measure; show the tuning cache of this machine")
    one.add_argument("--forget", action="store_true", help="do not measure; delete the tuning cache of this machine")


def _add_startup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="timed starts of each [%(default)s]")
    add_out_option(parser)


def _add_growth_arguments(parser: argparse.ArgumentParser) -> None:
    from resnext.bench.growth import DEPTHS, SMALL, SWEEPS

    parser.add_argument("model", nargs="?", default=DEPTHS[0], metavar="MODEL", help="[%(default)s]")
    parser.add_argument(
        "--of", nargs="+", choices=(*SWEEPS, SMALL), default=[*SWEEPS, SMALL], metavar="WHAT",
        help=f"{', '.join(SWEEPS)}, or {SMALL}: networks of 16 channels on 32x32 images (default: all)",
    )  # fmt: skip
    sizes = [96, 128, 160, 192, 224, 288]
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64], metavar="N", help="%(default)s")
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, metavar="N", help="%(default)s")
    parser.add_argument(
        "--networks", nargs="+", default=list(DEPTHS), metavar="NAME", help="networks of the depth sweep"
    )
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="batch size of the other sweeps [8]")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="image size of the other sweeps [224]")
    add_rounds_option(parser, 3)
    add_precision_option(parser, "both")
    parser.add_argument(
        "--again", action="store_true", help="measure points again that this command has measured before"
    )
    add_out_option(parser)


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="FOLDER_OR_TAR", help="image files in one folder per class")
    parser.add_argument("--size", type=int, default=224, metavar="PIXELS", help="side of the inputs (default 224)")
    parser.add_argument("--batch", type=int, default=32, help="images per batch (default 32)")
    parser.add_argument("--limit", type=int, default=256, help="images per round (default 256)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each candidate (default 7)")
    parser.add_argument("--workers", type=int, default=0, help="loading processes of each candidate (default 0)")
    add_out_option(parser)


def _add_infer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", default="resnext50_32x4d", metavar="MODEL|RUN|FILE", help="[resnext50_32x4d, new weights]"
    )
    parser.add_argument(
        "--batch", type=parse_numbers, default=[1, 16], metavar="N,N",
        help="batch sizes; 1 measures latency, more throughput [1,16]",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, metavar="N", help="side of the images in pixels [that of the weights, else 224]"
    )
    parser.add_argument(
        "--precision", type=lambda text: text.split(","), default=["fp32", "bf16"], metavar="P,P",
        help="fp32, bf16, int8",
    )  # fmt: skip
    parser.add_argument("--engine", default="auto", help="our engine: pytorch, onnxruntime, openvino or auto [auto]")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each candidate [the cores]")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="timed rounds of each candidate [9]")
    parser.add_argument(
        "--memory", action="store_true", help="also measure the peak memory of each candidate, in a fresh process"
    )
    parser.add_argument("--no-peers", action="store_true", help="measure only ours and plain PyTorch")
    parser.add_argument(
        "--calibration", metavar="DIR", help="calibration images for int8 [the run's training data, else noise]"
    )
    add_out_option(parser)


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN|FILE", help="what to serve: a run, an exported file or a weights file")
    parser.add_argument("--images", metavar="DIR", help="folder of JPEG files to send [pictures of noise, 500x375]")
    parser.add_argument(
        "--clients", type=parse_numbers, default=[1, 8, 64, 512], metavar="N,N",
        help="numbers of clients, each of which waits for its answers [1,8,64,512]",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="N", help="of each load in each round [%(default)g]"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of all loads [%(default)s]")
    parser.add_argument("--engine", default="auto", help="pytorch, onnxruntime, openvino or auto [auto]")
    parser.add_argument("--precision", choices=PRECISION_CHOICES, help="[fp32, or that of the file]")
    parser.add_argument("--max-batch", type=int, default=8, metavar="N", help="most images in a batch [%(default)s]")
    parser.add_argument("--naive", action="store_true", help="also measure FastAPI with PyTorch in eager mode and fp32")
    parser.add_argument(
        "--overload", type=float, metavar="FACTOR", help="also send this many times what the server can answer"
    )
    add_out_option(parser)


def _add_detect_arguments(parser: argparse.ArgumentParser) -> None:
    from resnext.settings_shared import FREEZE_STAGES

    parser.add_argument("model", nargs="?", default="resnext50_32x4d", metavar="MODEL", help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=480, metavar="PIXELS", help="shorter side of the images [480]")
    parser.add_argument("--batch", type=int, default=2, metavar="N", help="images per step [2]")
    parser.add_argument("--boxes", type=int, default=8, metavar="N", help="boxes per image [8]")
    parser.add_argument(
        "--freeze", default="conv2", choices=(*FREEZE_STAGES[:-1], "none"), help="last frozen stage [conv2]"
    )
    add_rounds_option(parser, 7)
    add_precision_option(parser, "the fastest")
    add_out_option(parser)


def _add_cardinality_arguments(parser: argparse.ArgumentParser) -> None:
    from resnext.bench.cardinality import NETWORKS

    parser.add_argument(
        "--networks", nargs="+", metavar="NAME", default=list(NETWORKS),
        help="(default: the 50-layer networks of Table 2)",
    )  # fmt: skip
    add_batch_options(parser)
    add_rounds_option(parser, 5)
    add_peers_option(parser)
    add_precision_option(parser, "all")
    add_out_option(parser)


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    from resnext.bench.train import ISA_CAPS, RECOMPUTE_LEVELS

    parser.add_argument("model", nargs="?", default="resnext50_32x4d", metavar="MODEL", help="(default: %(default)s)")
    add_batch_options(parser)
    add_rounds_option(parser, 7)
    add_peers_option(parser)
    add_precision_option(parser, "the fastest")
    parser.add_argument("--without-resnet", action="store_true", help="leave out the ResNet of the same depth")
    parser.add_argument("--without-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument(
        "--recompute", nargs="*", choices=RECOMPUTE_LEVELS, default=[], metavar="LEVEL",
        help="also measure ours with these levels of recomputation",
    )  # fmt: skip
    parser.add_argument(
        "--isa", choices=tuple(ISA_CAPS), help="limit the instruction set, as on a machine without wider instructions"
    )
    add_out_option(parser)


def add_out_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--out``, which all benchmarks share."""
    parser.add_argument(
        "--out", metavar="DIR", help="folder for the CSV (default: results if it exists, else the current folder)"
    )


def parse_numbers(text: str) -> list[int]:
    """Parse a list of positive whole numbers such as ``1,16``."""
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,16") from None
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must have numbers of at least 1")
    return values


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch`` and ``--size``, which the training benchmarks share."""
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="images per step [%(default)s]")
    parser.add_argument("--size", type=int, default=224, metavar="PIXELS", help="side of the images [%(default)s]")


def add_rounds_option(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add ``--rounds``, which the training benchmarks share."""
    about = "timed steps of each candidate [%(default)s]"
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=about)


def add_precision_option(parser: argparse.ArgumentParser, which: str) -> None:
    """Add ``--precision`` of the candidates ``which``."""
    about = f"of {which} candidates [%(default)s]"
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help=about)


def add_peers_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--peers``, which the training benchmarks share."""
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME",
        help="torchvision, timm, plain (ours without fast paths) or none (default: torchvision, timm if possible)",
    )  # fmt: skip


ADD_ARGUMENTS = {
    "all": _add_all_arguments,
    "tune": _add_tune_arguments,
    "startup": _add_startup_arguments,
    "growth": _add_growth_arguments,
    "data": _add_data_arguments,
    "infer": _add_infer_arguments,
    "detect": _add_detect_arguments,
    "serve": _add_serve_arguments,
    "cardinality": _add_cardinality_arguments,
    "train": _add_train_arguments,
}
