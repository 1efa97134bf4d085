"""``resnext serve``: serve models over HTTP, with a page to try them."""

import argparse
import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.choices import CHECKPOINT_NAMES, PRECISION_CHOICES
from resnext.commands.evaluate import parse_positive
from resnext.errors import RequestError, escape_unprintable
from resnext.run_directory import check_checkpoint_choice

if TYPE_CHECKING:
    from resnext.serving.service import Service

SUMMARY = "Serve models over HTTP, with a page to try them."
PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
TOKEN_VARIABLE = "RESNEXT_TOKEN"  # the name of the variable
MAX_TOKEN_BYTES = 4096
MAX_MEGAPIXELS = 178  # Pillow's own limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for models, address, access and engine."""
    parser.add_argument(
        "models", nargs="*", metavar="[NAME=]RUN_OR_EXPORT",
        help="run directory, exported file (.onnx, .xml) or its folder, weights file of any format, hf://...",
    )  # fmt: skip
    parser.add_argument("--name", help="name of the only model [that of its file or folder]")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1: this machine only]")
    parser.add_argument("--port", type=parse_port, default=8000, help="port to listen on; 0 for a free one [8000]")
    parser.add_argument("--open", action="store_true", help="open the page in a browser when the models are ready")
    parser.add_argument("--runs", metavar="DIR", help="show the training curves of the runs in this folder too")
    access = parser.add_argument_group("access")
    access.add_argument("--token", help=f"token that requests must carry; better set {TOKEN_VARIABLE}, which ps hides")
    access.add_argument("--token-file", metavar="FILE", help="file with the token")
    access.add_argument("--insecure", action="store_true", help="listen beyond this machine without a token")
    access.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="name under which the server is reached, such as that of a proxy; can be repeated",
    )  # fmt: skip
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine", default="auto", metavar="NAME", help="pytorch, onnxruntime, openvino or auto [auto]"
    )
    engine.add_argument("--precision", choices=PRECISION_CHOICES, help="[fp32, or that of the file]")
    engine.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    engine.add_argument("--no-explain", action="store_true", help="leave out the class activation maps")
    load = parser.add_argument_group("load")
    load.add_argument(
        "--max-wait", type=parse_seconds, default=2.0, metavar="SECONDS",
        help="refuse a request (429) that would wait longer for its turn [2]",
    )  # fmt: skip
    load.add_argument(
        "--max-pixels", type=parse_megapixels, default=64, metavar="MP",
        help="refuse larger pictures, in million pixels; each million takes up to 16 MB of memory in decoding [64]",
    )  # fmt: skip
    load.add_argument("--max-batch", type=parse_positive, default=8, metavar="N", help="most images in a batch [8]")
    load.add_argument("--streams", type=parse_positive, default=1, metavar="N", help="batches at the same time [1]")
    load.add_argument("--log", action="store_true", help="print one line of JSON for each request on standard error")


def parse_port(text: str) -> int:
    """Parse a port from 0 to 65535."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def parse_megapixels(text: str) -> int:
    """Parse a whole number of million pixels, from 1 to what Pillow decodes."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_MEGAPIXELS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of million pixels from 1 to {MAX_MEGAPIXELS}")
    return int(text)


def parse_seconds(text: str) -> float:
    """Parse a positive number of seconds, at most an hour."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0 and up to 3600")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl+C or SIGTERM."""
    check_packages()
    from resnext.serving.app import make_app
    from resnext.serving.limits import MEGA, Limits
    from resnext.serving.loading import LoadOptions, load_model, name_models
    from resnext.serving.request_log import RequestLog
    from resnext.serving.security import is_loopback, list_own_hosts
    from resnext.serving.server import bind_socket, exit_process, format_address, run_server
    from resnext.serving.service import Service

    if not args.models and args.runs is None:
        raise RequestError("name what to serve: a run, an exported file or a weights file; or --runs DIR")
    token = read_token(args)
    if not is_loopback(args.host) and token is None and not args.insecure:
        raise RequestError(
            f"--host {args.host} can be reached from other machines: set a token ({TOKEN_VARIABLE} or --token-file), "
            "or say --insecure"
        )
    models, notes = name_models(args.models, args.name)
    check_checkpoint_choice(args.checkpoint, [model.source for model in models])
    for note in notes:
        print(f"resnext: {escape_unprintable(note)}", file=sys.stderr)
    bound = bind_socket(args.host, args.port)
    service = Service(Limits(max_wait=args.max_wait, picture_pixels=args.max_pixels * MEGA))
    app = make_app(
        service,
        token=token,
        hosts=[*list_own_hosts(), *args.allow_host],
        routers=make_more_routers(service, args),
        has_runs=args.runs is not None,
        log_request=RequestLog(sys.stderr) if args.log else None,
    )
    options = LoadOptions(
        engine=args.engine,
        precision=args.precision,
        checkpoint=args.checkpoint,
        max_batch=args.max_batch,
        streams=args.streams,
        explain=not args.no_explain,
    )
    address = format_address(bound)
    if models:
        names = ", ".join(model.name for model in models)
        print(f"resnext: loading {names} for {address}", file=sys.stderr, flush=True)
    loaders = [partial(load_model, model, options) for model in models]
    run_server(service, app, bound, loaders, partial(announce, service, address, args.open))
    exit_process(0)
    return 0


def make_more_routers(service: "Service", args: argparse.Namespace) -> list[Any]:
    """Make the routes of other conventions, and those of runs. Raises RequestError if --runs is no folder."""
    from resnext.serving.routes_hf import make_hf_router
    from resnext.serving.routes_v2 import make_v2_router

    routers = [make_hf_router(service), make_v2_router(service)]
    if args.runs is None:
        return routers
    from resnext.serving.routes_runs import make_runs_router

    if not Path(args.runs).is_dir():
        raise RequestError(f"--runs {args.runs} is not a folder; expected a folder of run directories")
    return [*routers, make_runs_router(Path(args.runs))]


def check_packages() -> None:
    """Raise RequestError if packages of the server are not installed."""
    lacking = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise RequestError(f"resnext serve needs {' and '.join(lacking)}: pip install 'resnext[serve]'")


def read_token(args: argparse.Namespace) -> str | None:
    """Return the token of --token, --token-file or the environment; None without one. Raises RequestError."""
    token = args.token
    if args.token_file is not None:
        if token is not None:
            raise RequestError("give --token or --token-file, not both")
        try:
            with Path(args.token_file).open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES + 1).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text"
            raise RequestError(f"--token-file {args.token_file}: {reason}") from None
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token or len(token) > MAX_TOKEN_BYTES:
        raise RequestError("the token must be letters, digits and signs without spaces (at most 4096)")
    return str(token)


def announce(service: "Service", address: str, open_browser: bool) -> None:
    """Say that the models answer, where, and how to stop."""
    for model in service.models.values():
        classes = f", {len(model.classes)} classes" if model.classes else ""
        print(f"model {model.name}: {model.task}{classes}, {model.predictor.engine}")
    print(f"{address}  (stop with Ctrl+C)", flush=True)
    if open_browser:
        import webbrowser

        webbrowser.open(address)
