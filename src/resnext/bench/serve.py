"""``resnext bench serve``: the server under load, beside the same network without a server."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.bench import results
from resnext.bench.serve_children import Child, ServerChild, run_load
from resnext.bench.serve_load import LoadPlan
from resnext.bench.serve_overload import OVERLOAD_MAX_WAIT, measure_overload
from resnext.bench.serve_pictures import write_pictures, write_tensor_requests
from resnext.bench.serve_rows import JPEG, NAIVE, TENSORS, Series, make_ceiling_row, make_row, print_rows
from resnext.errors import RequestError, WorkError

if TYPE_CHECKING:
    from resnext.bench.measure import Progress

MAX_CLIENTS = 1000  # the server accepts 1024 connections
TENSOR_CLIENTS = 8
MAX_NAIVE_CLIENTS = 64  # more would wait for minutes
PATIENCE = 60.0  # --max-wait of the server in a closed loop: nothing is refused
SETTLE_SECONDS = 0.5
PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench serve``."""

    source: str
    images: str | None
    clients: Sequence[int]
    seconds: float
    rounds: int
    engine: str
    precision: str | None
    max_batch: int
    naive: bool
    overload: float | None


def run(options: Options) -> int:
    """Measure, print and write ``bench-serve.csv`` and its picture; exit status 0."""
    check_options(options)
    path = results.prepare_csv(options.out, "serve")
    from resnext.bench.plots import plot_serving
    from resnext.plotting import save_figure
    from resnext.screen import make_screen

    console = make_screen()
    with tempfile.TemporaryDirectory(prefix="resnext-bench-serve-") as folder, ExitStack() as stack:
        pictures, about_pictures = write_pictures(options.images, Path(folder))
        ceiling = stack.enter_context(Child(["resnext.bench.serve_ceiling", options.source]))
        facts = ceiling.ask(
            {
                "source": options.source, "engine": options.engine, "precision": options.precision,
                "max_batch": options.max_batch, "pictures": pictures, "folder": folder,
            }
        )  # fmt: skip
        protocol = {"model": facts["model"], "engine": facts["engine"], "pictures": about_pictures}
        with results.show_progress("serve") as progress:
            series, ceilings = measure_rounds(options, ceiling, pictures, facts, progress)
        rows = [make_ceiling_row(sent, rates) for sent, rates in ceilings.items()]
        rows += [make_row(one) for one in series]
        if options.overload is not None:
            capacity = max(statistics.median(one.rates) for one in series if one.sent == JPEG)
            with start_server(options, OVERLOAD_MAX_WAIT) as server:
                rows += measure_overload(server, pictures, capacity, options.overload, options.seconds)
    print_rows(console, rows, f"{facts['model']}, {facts['engine']}; {about_pictures}")
    results.write_rows(path, [protocol | row for row in rows], results.collect_protocol(options.command))
    said = f"{facts['model']}, {facts['engine']}; {facts['cores']} cores, with the clients; {options.rounds} rounds"
    points = {sent: [one.point for one in series if one.sent == sent] for sent in (JPEG, NAIVE)}
    save_figure(plot_serving(points, statistics.median(ceilings[JPEG]), said), path.with_suffix(".png"))
    console.print(f"{path}, {path.with_suffix('.png')}")
    return 0


def check_options(options: Options) -> None:
    """Raise RequestError for numbers that cannot be measured, or a server that is not installed."""
    if any(find_spec(name) is None for name in PACKAGES):
        raise RequestError("resnext bench serve needs the server: pip install 'resnext[serve]'")
    if options.rounds < 1:
        raise RequestError(f"--rounds {options.rounds} must be at least 1")
    if not 0 < options.seconds <= 3600:
        raise RequestError(f"--seconds {options.seconds:g} must be above 0 and at most 3600")
    if max(options.clients) > MAX_CLIENTS:
        raise RequestError(f"--clients {max(options.clients)} must be at most {MAX_CLIENTS}")
    if options.overload is not None and not 1 < options.overload <= 100:
        raise RequestError(f"--overload {options.overload:g} must be above 1 and at most 100")
    if "://" not in options.source and not Path(options.source).exists():
        raise RequestError(f"{options.source} does not exist; expected a run, a weights file or an exported file")


@contextmanager
def start_server(options: Options, max_wait: float) -> Iterator[ServerChild]:
    """Run ``resnext serve`` in a process of its own; raise WorkError if it does not stop as it should."""
    words = ["resnext", "serve", options.source, "--name", "bench", "--port", "0", "--no-explain"]
    words += ["--engine", options.engine, "--max-batch", str(options.max_batch), "--max-wait", f"{max_wait:g}"]
    words += ["--precision", options.precision] if options.precision else []
    with ServerChild(words) as server:
        yield server
        if status := server.stop():
            raise WorkError(f"the server ended with status {status} after SIGTERM, not with 0")


def list_series(options: Options, has_tensors: bool) -> list[Series]:
    """List what is measured in each round."""
    series = [Series(JPEG, clients) for clients in options.clients]
    if has_tensors:
        series.append(Series(TENSORS, TENSOR_CLIENTS))
    if options.naive:
        fit = [clients for clients in options.clients if clients <= MAX_NAIVE_CLIENTS] or [1]
        series += [Series(NAIVE, clients) for clients in fit]
    return series


def measure_rounds(
    options: Options, ceiling: Child, pictures: Sequence[str], facts: dict[str, Any], progress: "Progress"
) -> tuple[list[Series], dict[str, list[float]]]:
    """Measure every load once a round, after the ceilings; return the series, and the ceilings by what is sent."""
    has_tensors = facts["input"] != "picture"  # else each has a size of its own
    series = list_series(options, has_tensors)
    ceilings: dict[str, list[float]] = {sent: [] for sent in [JPEG, *[TENSORS] * has_tensors]}
    total, done = options.rounds * (len(series) + len(ceilings)), 0
    with ExitStack() as stack:
        server = stack.enter_context(start_server(options, PATIENCE))
        naive = (
            stack.enter_context(ServerChild(["resnext.bench.serve_naive", options.source])) if options.naive else server
        )
        for number in range(options.rounds):
            for sent, rates in ceilings.items():
                progress(done, total, f"{sent} without a server")
                rates.append(ceiling.ask({"kind": sent, "seconds": options.seconds})["images_per_second"])
                done += 1
            for one in series if number % 2 == 0 else reversed(series):
                progress(done, total, f"{one.sent}, {one.clients} clients")
                limit = ceilings[TENSORS if one.sent == TENSORS else JPEG][-1]
                target = naive if one.sent == NAIVE else server
                plan = make_plan(one, target.port, pictures, facts, limit, options.seconds)
                one.add(run_load(target, plan, has_probes=one.sent != NAIVE), limit)
                done += 1
    progress(done, total, "")
    return series, ceilings


def make_plan(
    one: Series, port: int, pictures: Sequence[str], facts: dict[str, Any], limit: float, seconds: float
) -> LoadPlan:
    """Make the plan of a load. It settles until every client was answered once, at the speed of the ceiling."""
    slowness = 4 if one.sent == NAIVE else 1.2
    settle = min(PATIENCE, SETTLE_SECONDS + slowness * one.clients / limit)
    if one.sent != TENSORS:
        return LoadPlan(
            port=port, bodies=tuple(pictures), clients=one.clients, settle_seconds=settle, seconds=seconds,
            headers=("content-type: image/jpeg",),
        )  # fmt: skip
    bodies, length = write_tensor_requests(facts)
    return LoadPlan(
        port=port, paths=("/v2/models/bench/infer",), bodies=bodies, clients=one.clients, settle_seconds=settle,
        seconds=seconds, headers=(f"inference-header-content-length: {length}",),
    )  # fmt: skip
