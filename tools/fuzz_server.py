"""Attack a server process and the readers of exported files; print a row for results/hostile.csv for each attack.

    nice -n 5 python tools/fuzz_server.py --out results/hostile.csv

The attacks are those of the tests (tests/serving, tests/deploy) in their long form: bombs, damaged pictures, forms and
JSON of too much, requests that contradict themselves, idle and slow connections, requests made by schemathesis from
/openapi.json, guessed tokens, and hostile .onnx and .xml files. The server has a model that computes nothing, so that
processor time is that of the server. Exit status 1 if anything was not refused as it must be.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.serving.bombs import BOMBS
from tests.serving.fakes import make_picture
from tests.serving.hostile_clients import (
    FORM_TYPE,
    FORMS,
    JSON,
    JSON_TYPE,
    REQUESTS,
    connect_many,
    drip,
    wait_until_closed,
)
from tests.serving.hostile_pictures import ask_cost, make_seeds, mutate_many, send_mutated
from tests.serving.processes import ServerProcess, make_request, read_all, start_server

from resnext.serving.security import SecurityMiddleware

ROOT = Path(__file__).parents[1]
PICTURE = make_picture()
DRIP_SECONDS = 12.0  # longer than the deadline of a request, 10 s


@dataclass
class Row:
    """One attack: what was sent, the worst of it, and whether all of it was answered as it must be."""

    test: str
    what: str
    cases: int
    worst_status: int | str
    worst_cpu_ms: int | str
    rss_growth_mb: int | str
    result: str


def attack_with_bombs(server: ServerProcess) -> Row:
    """H1: every bomb; the worst of each cost."""
    costs, wrong = {}, []
    for name, bomb in BOMBS.items():
        costs[name] = ask_cost(server, bomb.make())
        wrong += [name] if costs[name].status not in bomb.statuses else []
    slowest = max(costs, key=lambda name: costs[name].cpu_seconds)
    largest = max(costs, key=lambda name: costs[name].memory)
    result = f"most time: {slowest}; most memory: {largest}" + (f"; wrong: {', '.join(wrong)}" if wrong else "")
    return Row(
        "H1", "bombs of up to 19.9 MB", len(costs), max(cost.status for cost in costs.values()),
        round(1000 * costs[slowest].cpu_seconds), costs[largest].memory >> 20,
        ("failed, " if wrong else "ok, ") + result,
    )  # fmt: skip


def attack_with_damaged_pictures(server: ServerProcess, count: int) -> Row:
    """H2: damaged pictures of every kind."""
    send_mutated(server, make_seeds().values())
    server.forget_peak()
    cpu, memory = server.read_cpu(), server.read_rss()
    statuses = send_mutated(server, mutate_many(count, seed=1))
    mean = 1000 * (server.read_cpu() - cpu) / count
    words = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
    is_good = set(statuses) <= {200, 415, 422} and server.process.poll() is None
    return Row(
        "H2", "damaged pictures of 19 kinds", count, max(statuses), f"{mean:.1f} (mean)",
        (server.read_peak() - memory) >> 20, f"{'ok' if is_good else 'failed'}, {words}",
    )  # fmt: skip


def attack_with_bodies(server: ServerProcess) -> Iterator[Row]:
    """H4 and H6: forms and JSON of too much, each measured."""
    forms = {name: (body, (status,), "/v1/predict", FORM_TYPE) for name, (body, status) in FORMS.items()}
    texts = {
        f"{name}, {path}": (body, (*statuses, 400, 422), path, JSON_TYPE)
        for name, (body, statuses) in JSON.items()
        for path in ("/v1/predict", "/hf/fake", "/v2/models/fake/infer")
    }
    for test, what, bodies in (("H4", "forms of up to 19.9 MB", forms), ("H6", "JSON of up to 19.9 MB", texts)):
        costs, wrong = {}, []
        for name, (body, statuses, path, kind) in bodies.items():
            costs[name] = ask_cost(server, body, path, kind)
            wrong += [name] if costs[name].status not in statuses else []
        slowest = max(costs, key=lambda name: costs[name].cpu_seconds)
        yield Row(
            test, what, len(costs), max(cost.status for cost in costs.values()),
            round(1000 * costs[slowest].cpu_seconds), max(cost.memory for cost in costs.values()) >> 20,
            f"failed: {', '.join(wrong)}" if wrong else f"ok, most time: {slowest}",
        )  # fmt: skip


def attack_with_requests(server: ServerProcess) -> Row:
    """H4: requests that are not HTTP, or contradict themselves."""
    server.forget_peak()
    cpu, memory, statuses, wrong = server.read_cpu(), server.read_rss(), [0], []
    for name, data in REQUESTS.items():
        with server.connect() as connection:
            with suppress(OSError):
                connection.sendall(data)
            answer = read_all(connection)
        statuses.append(int(answer[9:12] or 0))
        wrong += [name] if answer and not 400 <= statuses[-1] <= 501 else []
    return Row(
        "H4", "requests that are no HTTP, or contradict themselves", len(REQUESTS), max(statuses),
        f"{1000 * (server.read_cpu() - cpu) / len(REQUESTS):.0f} (mean)", (server.read_peak() - memory) >> 20,
        f"failed: {', '.join(wrong)}" if wrong else "ok",
    )  # fmt: skip


def attack_with_connections(idle: int, slow: int) -> Row:
    """H4: idle connections and clients that send a byte a second, while others are served."""
    with start_server() as server:
        server.ask("POST", "/v1/predict", PICTURE)
        files, memory, cpu = server.count("fd"), server.read_rss(), server.read_cpu()
        server.forget_peak()
        connections = connect_many(server, idle)
        slow_ones = connect_many(server, slow)
        start, waits, most, failed = time.monotonic(), [], 0, 0
        head = make_request(PICTURE)
        for place in range(int(DRIP_SECONDS)):
            drip(slow_ones, head[place : place + 1])
            while time.monotonic() < start + place + 1:
                begin = time.monotonic()
                failed += server.ask("POST", "/v1/predict", PICTURE)[0] != 200
                waits.append(time.monotonic() - begin)
                time.sleep(0.05)
            most = max(most, server.count("fd"))
        left = wait_until_closed(connections + slow_ones, 10)
        for connection in connections + slow_ones:
            connection.close()
        waits.sort()
        is_good = not failed and not left and most <= files + 1024 + 10
        good = "ok" if is_good else "failed"
        words = (
            f"{good}, {left} left open after {DRIP_SECONDS + 10:.0f} s, at most {most} files open; "
            f"{len(waits)} others served, {failed} not, p50 {1000 * statistics.median(waits):.0f} ms, "
            f"p99 {1000 * waits[int(0.99 * len(waits))]:.0f} ms"
        )
        return Row(
            "H4", f"{idle:,} idle connections and {slow:,} at a byte a second", idle + slow, 200,
            f"{1000 * (server.read_cpu() - cpu):.0f} (all)", (server.read_peak() - memory) >> 20, words,
        )  # fmt: skip


def attack_with_schema(count: int) -> Row:
    """H5: requests made by schemathesis, half of them against the schema; all its checks."""
    from tests.serving.openapi_cases import COUNTER, list_operations, make_schema, run_cases

    with tempfile.TemporaryDirectory() as folder:
        operations, failures = list(list_operations(make_schema(Path(folder)))), []
        for operation in operations:
            try:
                run_cases(operation, count // 10)  # the simple ones have only a few
            except BaseExceptionGroup as error:
                failures.append(f"{operation.label}: {error.exceptions[0]}"[:200])
    server_errors = sum(number for status, number in COUNTER.statuses.items() if status >= 500)
    result = f"failed: {'; '.join(failures)}" if failures else f"ok, 0 failures, {server_errors} server errors"
    what = f"schemathesis, all checks, {len(operations)} operations"
    return Row("H5", what, COUNTER.cases, max(COUNTER.statuses), "", "", result)


def guess_tokens(count: int) -> Row:
    """H8: the time of comparing guessed tokens, by how much of them is right."""
    from starlette.datastructures import Headers

    middleware = SecurityMiddleware(lambda *_: None, token="s" * 32)  # type: ignore[arg-type]
    guesses = {"nothing right": "x" * 32, "half right": "s" * 16 + "x" * 16, "one letter wrong": "s" * 31 + "x"}
    times: dict[str, list[int]] = {name: [] for name in guesses}
    for _ in range(count):
        for name, guess in guesses.items():
            headers = Headers({"host": "localhost", "authorization": f"Bearer {guess}"})
            start = time.perf_counter_ns()
            with suppress(Exception):
                middleware.check("/v1/models", headers)
            times[name].append(time.perf_counter_ns() - start)
    medians = {name: statistics.median(values) / 1000 for name, values in times.items()}
    words = ", ".join(f"{name} {value:.2f} us" for name, value in medians.items())
    return Row("H8", "guessed tokens, median time of a refusal", count * len(guesses), 401, "", "", f"ok, {words}")


def attack_with_exports() -> Iterator[Row]:
    """E7: hostile .onnx and .xml files, opened one after another in one process."""
    from tests.deploy.hostile_exports import HARMLESS, write_hostile
    from tests.deploy.test_export import export_to, make_network

    for target in ("onnx", "openvino"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = write_hostile(export_to(folder, target, make_network()).path, folder / "files")
            environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "RESNEXT_CACHE": str(folder / "cache")}
            command = [sys.executable, "-m", "tests.deploy.hostile_exports", *map(str, files.values())]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
            lines = dict(zip(files, map(json.loads, done.stdout.splitlines()), strict=False))
        wrong = [one for one, line in lines.items() if line["outcome"] != "refused" and one not in HARMLESS]
        wrong += [one for one in files if one not in lines]
        slowest = max(lines, key=lambda one: lines[one]["seconds"])
        yield Row(
            "E7", f"hostile files of {target}", len(files), "refused" if not wrong else "opened",
            round(1000 * lines[slowest]["seconds"]), round(max(line["megabytes"] for line in lines.values())),
            f"failed: {', '.join(wrong)}" if wrong else f"ok, time is of the clock, most: {slowest}",
        )  # fmt: skip


def main() -> int:
    """Run all attacks, or those of one test; exit status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one test, such as H2")
    parser.add_argument("--cases", type=int, default=10_000, help="damaged pictures, and requests of schemathesis")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[Row] = []

    def run(test: str, attack: Callable[[], Row | Iterator[Row]]) -> None:
        if args.only not in (None, *test.split()):
            return
        found = attack()
        for row in [found] if isinstance(found, Row) else found:
            if args.only in (None, row.test):
                rows.append(row)
                print(*asdict(row).values(), sep=" | ", flush=True)

    with start_server() as server:
        for data in make_seeds().values():
            server.ask("POST", "/v1/predict", data)
        run("H1", lambda: attack_with_bombs(server))
        run("H2", lambda: attack_with_damaged_pictures(server, args.cases))
        run("H4 H6", lambda: attack_with_bodies(server))
        run("H4", lambda: attack_with_requests(server))
    run("H4", lambda: attack_with_connections(10_000, 1_000))
    run("H5", lambda: attack_with_schema(args.cases))
    run("H8", lambda: guess_tokens(10_000))
    run("E7", attack_with_exports)
    if args.out is not None:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(Row.__annotations__))
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    return 1 if any(row.result.startswith("failed") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
