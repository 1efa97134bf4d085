"""Prove that `resnext serve` lives, stops and dies as it should, over many requests, stops and starts.

    python tools/soak_server.py small.xml --out results/serve-life.csv

Each proof is a row: what was done, how often, what was found and what was to be reached. Only the rows "event loop" and
"mixed sizes" depend on the speed of the machine. ``--only NAME`` runs one proof, ``--scale 0.01`` a hundredth of all.
"""

import argparse
import csv
import faulthandler
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from PIL import Image

from resnext.bench.serve_children import ServerChild, run_load
from resnext.bench.serve_load import LoadPlan
from resnext.bench.serve_rows import compute_percentile

CHUNK_SECONDS = 10.0  # of load between two looks at an idle server
WARM_REQUESTS = 5000  # after which memory must not grow
WATCHDOG_SECONDS = 90
CYCLES_AT_ONCE = 100  # of the engine, in one process
Found = tuple[str, str, bool]  # what was found, what was to be reached, whether it was


@dataclass(frozen=True)
class Soak:
    """What is soaked, and with what."""

    source: str
    good: tuple[str, ...]  # JPEG files
    bad: tuple[str, ...]  # a JPEG that is cut off, and noise
    scale: float

    def scale_count(self, count: int) -> int:
        """Return a share of a count, at least 1."""
        return max(1, round(self.scale * count))

    def start(self, *words: str) -> ServerChild:
        """Make a server."""
        return ServerChild(["resnext", "serve", self.source, "--name", "bench", "--port", "0", "--no-explain", *words])


def ask(server: ServerChild, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send one request in a connection of its own."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def read_metric(server: ServerChild, name: str) -> float:
    """Read the sum of a metric over its labels."""
    lines = ask(server, "GET", "/metrics")[1].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))


def count_files(server: ServerChild) -> int:
    """Count the open files of a server."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def soak_requests(soak: Soak, bodies: tuple[str, ...], status: int | None, count: int) -> Found:
    """Send requests over 8 connections; look at memory, files and threads of the idle server between chunks."""
    with soak.start() as server:
        done, statuses = 0, set[str]()
        points: list[tuple[int, float]] = []
        looks: list[tuple[int, int]] = []
        while done < count + min(WARM_REQUESTS, count):
            plan = LoadPlan(port=server.port, bodies=bodies, clients=8, seconds=CHUNK_SECONDS * min(1, 10 * soak.scale))
            result = run_load(server, plan, has_probes=False).load
            time.sleep(0.5)
            done += result.count()
            statuses |= {key.split()[1] for key in result.latencies}
            if done >= min(WARM_REQUESTS, count):
                state = server.read_state()
                points.append((done, state.rss_mib * 1024))
                looks.append((count_files(server), state.threads))
        held = read_metric(server, "resnext_bytes_in_flight"), read_metric(server, "resnext_queued_images")
        exit_status = server.stop()
    slope, late = (compute_slope(points[start:]) for start in (0, len(points) // 2))
    files, threads = zip(*looks, strict=True)
    said = (
        f"{done} requests, statuses {'/'.join(sorted(statuses))}; RSS {points[0][1] / 1024:.1f} to "
        f"{points[-1][1] / 1024:.1f} MiB, {slope:+.2f} kB per 1000, in the second half {late:+.2f}; "
        f"files {min(files)} to {max(files)}, threads {min(threads)} to {max(threads)}"
    )
    kept = slope < 1 and len(set(files)) == 1 and len(set(threads)) == 1 and held == (0, 0) and exit_status == 0
    is_right = statuses == {str(status)} if status is not None else statuses <= {"415", "422"}
    return said, "under 1 kB per 1000 after 5000; files and threads constant", kept and is_right


def compute_slope(points: Sequence[tuple[int, float]]) -> float:
    """Compute by how many kB memory grows in 1000 requests, from points of requests and kB."""
    return 1000 * statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else 0.0


def leave_early(soak: Soak) -> Found:
    """Have every second of many clients leave after 50 ms while others keep the queue long."""
    count = soak.scale_count(2000)
    body = Path(soak.good[0]).read_bytes()
    request = f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    with soak.start("--max-wait", "60") as server, ThreadPoolExecutor(16) as pool:

        def visit(_: int) -> int:
            with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
                connection.sendall(request)
                connection.settimeout(0.05)
                try:
                    return len(connection.recv(1)) and 1
                except TimeoutError:
                    return 0

        before = server.read_state().rss_mib
        plan = LoadPlan(port=server.port, bodies=soak.good, clients=256, seconds=3600)
        code = [sys.executable, "-m", "resnext.bench.serve_load"]
        crowd = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8")
        assert crowd.stdin is not None
        crowd.stdin.write(json.dumps(asdict(plan)))
        crowd.stdin.close()
        while read_metric(server, "resnext_queued_images") < 100:
            time.sleep(0.05)
        in_time = sum(pool.map(visit, range(count)))
        crowd.kill()
        crowd.wait()
        time.sleep(2)
        computed = read_metric(server, "resnext_batch_images_sum")
        answered = read_metric(server, "resnext_images_total")
        dropped = read_metric(server, "resnext_dropped_images_total")
        held = read_metric(server, "resnext_bytes_in_flight"), read_metric(server, "resnext_queued_images")
        grown, status = server.read_state().rss_mib - before, server.stop()
    left = count - in_time
    said = (
        f"{left} of {count} left unanswered after 50 ms: {dropped:.0f} images dropped from the queue, "
        f"{computed:.0f} computed, {answered:.0f} answered; RSS {grown:+.0f} MiB"
    )
    kept = held == (0, 0) and computed - answered < 0.1 * left + 64 and status == 0
    return said, "images of those who left are not computed; nothing is held", kept


def stop_under_load(soak: Soak) -> Found:
    """Stop servers by SIGTERM while 8 clients ask."""
    count = soak.scale_count(200)
    longest, lost, reset, answered, statuses = 0.0, 0, 0, 0, list[int]()
    for number in range(count):
        with soak.start() as server, ThreadPoolExecutor(1) as pool:
            plan = LoadPlan(port=server.port, bodies=soak.good, clients=8, seconds=1.0 + number % 7 / 10)
            load = pool.submit(run_load, server, plan, False)
            time.sleep(0.6 + number % 7 / 10)
            begin = time.perf_counter()
            statuses.append(server.stop())
            longest = max(longest, time.perf_counter() - begin)
            result = load.result().load
            lost, answered, reset = lost + result.lost, answered + result.count(200), reset + result.reset
    said = f"{count} stops: exit statuses {sorted(set(statuses))}, {answered} answered, {lost} lost"
    said += f"; the longest took {longest:.1f} s"
    return (
        said,
        "every accepted request answered, exit 0 within 35 s",
        set(statuses) == {0} and lost == 0 and longest < 35,
    )


def kill_and_restart(soak: Soak) -> Found:
    """Kill servers by SIGKILL under load, and start others on the same port."""
    count = soak.scale_count(20)
    seconds: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(count):
        begin = time.perf_counter()
        with soak.start("--port", str(port)) as server, ThreadPoolExecutor(1) as pool:
            seconds.append(time.perf_counter() - begin)
            plan = LoadPlan(port=server.port, bodies=soak.good, clients=8, seconds=0.5)
            load = pool.submit(run_load, server, plan, False)
            time.sleep(0.7)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            load.result()
    said = f"{count} starts on one port, each after a SIGKILL under load; ready in {statistics.median(seconds):.1f} s"
    return said, "the port is free at once; all start", True


def cycle_engine(soak: Soak) -> Found:
    """Start and stop the model of a server, with all its sizes, in processes with a watchdog."""
    count, done = soak.scale_count(1000), 0
    statuses = set[int]()
    while done < count:
        cycles = min(CYCLES_AT_ONCE, count - done)
        command = [sys.executable, __file__, soak.source, "--cycles", str(cycles)]
        statuses.add(subprocess.run(command, check=False).returncode)
        done += cycles
    said = f"{done} cycles of load, warm up, one image and stop, in processes of {CYCLES_AT_ONCE}; "
    said += f"exit statuses {sorted(statuses)}"
    return said, f"no hang over {WATCHDOG_SECONDS} s, no crash", statuses == {0}


def run_cycles(source: str, cycles: int) -> None:
    """Start and stop a model again and again in this process; end with a stack trace where it hangs."""
    from resnext.serving.batcher import Job
    from resnext.serving.loading import LoadOptions, ModelSource, load_model

    for number in range(cycles):
        faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
        model = load_model(ModelSource("bench", source), LoadOptions())
        delivered: list[object] = []
        model.start(delivered.extend)
        assert model.batcher is not None
        model.batcher.submit([Job(model._make_image())])
        assert model.stop(60)
        assert len(delivered) == 1
        if number % 2:
            model.predictor.close()  # else the destructors do the work
        del model
    faulthandler.cancel_dump_traceback_later()


def use_one_core(soak: Soak) -> Found:
    """Start a server that may use the last core only, and count its threads."""
    cores = os.sched_getaffinity(0)
    counts: list[int] = []
    for allowed in ({max(cores)}, cores):
        os.sched_setaffinity(0, allowed)
        try:
            with soak.start() as server:
                plan = LoadPlan(port=server.port, bodies=soak.good, clients=8, seconds=1.0)
                counts.append(run_load(server, plan, has_probes=False).state.threads)
                server.stop()
        finally:
            os.sched_setaffinity(0, cores)
    said = f"{counts[0]} threads on one core (the last), {counts[1]} on {len(cores)}"
    return said, "threads follow the cores of the process", counts[0] < counts[1]


def watch_event_loop(soak: Soak) -> Found:
    """Measure how long a callback holds the event loop at most, under 64 clients and pictures of 2 MB."""
    with tempfile.TemporaryDirectory() as folder:
        file, large = Path(folder) / "callbacks", write_picture(Path(folder) / "large.jpg", 1600, 1200, 95)
        words = ["watch_loop", str(file), "serve", soak.source, "--name", "bench", "--port", "0", "--no-explain"]
        with ServerChild([*words, "--max-wait", "60"]) as server:
            file.write_text("")  # what ran while it started does not count
            plan = LoadPlan(port=server.port, bodies=(*soak.good, large), clients=64, seconds=60 * soak.scale)
            load = run_load(server, plan).load
            server.stop()
        worst = json.loads(file.read_text().splitlines()[-1])
    took, computed = 1000 * worst["seconds"], 1000 * worst["computing"]
    said = (
        f"{load.count(200)} requests: the longest callback took {took:.1f} ms, of which it computed {computed:.1f} ms"
    )
    return said, "at most 20 ms", took <= 20


def mix_sizes(soak: Soak) -> Found:
    """Compare the 99th percentile of small pictures alone and beside clients that send 1 to 50 megapixels."""
    seconds, pool = 150 * soak.scale, ThreadPoolExecutor(1)
    with tempfile.TemporaryDirectory() as folder, soak.start("--max-wait", "60") as server, pool:
        sides = (1000, 2000, 4000, 7000)
        large = tuple(write_picture(Path(folder) / f"{side}.jpg", side, side, 80) for side in sides)
        plan = LoadPlan(port=server.port, bodies=soak.good, clients=4, settle_seconds=1.0, seconds=seconds)
        alone = run_load(server, plan, has_probes=False).load
        crowd = pool.submit(run_load, server, replace(plan, bodies=large, clients=2), False)
        beside = run_load(server, plan, has_probes=False).load
        others = crowd.result().load
        status = server.stop()
    times = [1000 * (compute_percentile(load.list_latencies(200), 99) or 0) for load in (alone, beside)]
    said = f"p99 {times[0]:.0f} ms alone ({alone.count(200)} requests), {times[1]:.0f} ms ({beside.count(200)}) beside "
    said += f"{others.count(200)} pictures of 1, 4, 16 and 49 megapixels; {others.count() - others.count(200)} refused"
    return said, "at most 3 times alone", times[1] <= 3 * times[0] and status == 0


def write_picture(path: Path, width: int, height: int, quality: int) -> str:
    """Write a JPEG with some detail, and return its path."""
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=quality)
    return str(path)


def list_proofs(soak: Soak) -> dict[str, Callable[[], Found]]:
    """List the proofs by name."""
    many = soak.scale_count(100_000)
    return {
        "requests": partial(soak_requests, soak, soak.good, 200, many),
        "bad requests": partial(soak_requests, soak, soak.bad, None, many),
        "clients leave": partial(leave_early, soak),
        "SIGTERM under load": partial(stop_under_load, soak),
        "SIGKILL and restart": partial(kill_and_restart, soak),
        "engine cycles": partial(cycle_engine, soak),
        "one core": partial(use_one_core, soak),
        "event loop": partial(watch_event_loop, soak),
        "mixed sizes": partial(mix_sizes, soak),
    }


def write_bodies(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write small pictures, and two bodies that are none."""
    good = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        good.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(good[-1])
    (folder / "cut").write_bytes(good[0].read_bytes()[:1500])
    (folder / "noise").write_bytes(bytes(range(256)) * 8)
    return tuple(map(str, good)), (str(folder / "cut"), str(folder / "noise"))


def main() -> None:
    """Run the proofs, print each, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a small exported file")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", action="append")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cycles", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cycles:
        run_cycles(args.source, args.cycles)
        os._exit(0)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(args.source, *write_bodies(Path(folder)), args.scale)
        rows = []
        scale = [f"--scale {args.scale:g}"] * (args.scale != 1)
        for name, prove in list_proofs(soak).items():
            if args.only and name not in args.only:
                continue
            begin = time.perf_counter()
            found, wanted, is_kept = prove()
            print(f"{name}: {found} [{'kept' if is_kept else 'NOT KEPT'}]", flush=True)
            rows.append(
                {
                    "proof": name, "found": found, "to_reach": wanted, "kept": "yes" if is_kept else "no",
                    "seconds": f"{time.perf_counter() - begin:.0f}",
                    "date": datetime.now(UTC).date().isoformat(),
"command": " ".join(["python tools/soak_server.py", Path(args.source).name, *scale]),
                }
            )  # fmt: skip
    if args.out:
        old = list(csv.DictReader(args.out.read_text().splitlines())) if args.out.exists() else []
        names = {row["proof"] for row in rows}
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows([*(row for row in old if row["proof"] not in names), *rows])


if __name__ == "__main__":
    main()
