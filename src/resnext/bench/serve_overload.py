"""``bench serve --overload``: more requests than the server can answer, and how it recovers."""

from collections.abc import Sequence

from resnext.bench.serve_children import ServerChild, run_load
from resnext.bench.serve_load import LoadPlan, LoadResult
from resnext.bench.serve_rows import compute_percentile, describe_load, format_milliseconds

OVERLOAD_MAX_WAIT = 2.0  # --max-wait of the server, its default
WINDOWS = 3  # times --seconds that the overload, and the time after it, count
BIN_SECONDS = 0.5
SLOWER = 2.0  # times the normal 99th percentile: not recovered


def measure_overload(
    server: ServerChild, pictures: Sequence[str], capacity: float, factor: float, seconds: float
) -> list[dict[str, object]]:
    """Measure an open loop at half the capacity, at ``factor`` times the capacity, and at half again.

    Args:
        server: A server with the usual longest wait.
        pictures: JPEG files.
        capacity: Images per second that it can answer.
        factor: How many times the capacity is sent.
        seconds: For which answers count.

    Returns:
        A row for each: goodput as ``images_per_second``, its share of the capacity as ``of_capacity``, ``p99_ms`` of
        what was accepted, ``refused_p99_ms``, and ``recovery_seconds`` after the overload.
    """
    rows: list[dict[str, object]] = []
    normal: LoadResult | None = None
    for share, lasting in ((0.5, seconds), (factor, WINDOWS * seconds), (0.5, WINDOWS * seconds)):
        plan = LoadPlan(
            port=server.port, bodies=tuple(pictures), rate=share * capacity, seconds=lasting,
            headers=("content-type: image/jpeg",), settle_seconds=0.5 if normal is None or share > 1 else 0.0,
        )  # fmt: skip
        measured = run_load(server, plan)
        load = measured.load
        goodput = load.count(200) / load.seconds
        row = describe_load(f"JPEG at {share:g} times capacity", "open loop", [measured]) | {
            "images_per_second": f"{goodput:.4g}",
            "of_capacity": f"{goodput / capacity:.3f}",
            "refused_p99_ms": format_milliseconds(load.list_latencies(429), 99),
        }
        if normal is None:
            normal = load
        elif share < 1:
            found = find_recovery(load, normal)
            row["recovery_seconds"] = "" if found is None else f"{found:g}"
        rows.append(row)
    return rows


def find_recovery(load: LoadResult, normal: LoadResult) -> float | None:
    """Find the seconds until answers are as fast as before, in steps of half a second; None if they never are.

    A step counts if none of its answers takes more than twice the 99th percentile of ``normal``.
    """
    limit = SLOWER * (compute_percentile(normal.list_latencies(200), 99) or 0.0)
    for step in range(int(load.seconds / BIN_SECONDS)):
        begin = step * BIN_SECONDS
        waits = [w for t, w in zip(load.times, load.waits, strict=True) if begin <= t < begin + BIN_SECONDS]
        if waits and max(waits) <= limit:
            return begin
    return None
