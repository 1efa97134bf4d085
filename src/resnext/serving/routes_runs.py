"""HTTP routes of training runs: the list, one run, its log from a cursor on, its report and pictures.

All work is done in Starlette's threads, off the event loop: the routes are plain functions.
"""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from fastapi import APIRouter, Header, HTTPException, Query
from fastapi.responses import Response, StreamingResponse
from numpy.typing import NDArray

from resnext.serving.run_facts import PICTURES, SPEED, RunFacts, read_columns
from resnext.serving.run_logs import MAX_POINTS, LogPart, LogReader, average_buckets, pick_extremes
from resnext.serving.run_table import FoundRun, RunTable, read_stamp
from resnext.serving.schemas import describe_problems

READ_SECONDS = 0.35  # of one answer; a longer log comes in several answers
MAX_READERS = 64  # logs kept in memory
MAX_KEPT_ROWS = 4 << 20  # steps kept in memory of all logs: 100 MB
MAX_RATE_POINTS = 500  # the learning rate is smooth
MAX_SPEED_BYTES = 1 << 20
MAX_SPEED_ROWS = 2_000
MAX_FILE_BYTES = 128 << 20
FILE_CHUNK_BYTES = 1 << 18
# a report is shown as a document of no origin, without scripts, forms and requests
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": REPORT_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
FILES: dict[str, tuple[tuple[str, ...], str]] = {
    "report.html": (("report.html",), "text/html; charset=utf-8"),
    **{name: (names, "image/png") for name, (names, _) in PICTURES.items()},
}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Nothing changed"}}
FILE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for _, kind in FILES.values()},
    }
}

Etag = Annotated[str | None, Header(alias="If-None-Match", max_length=200)]


class LogReaders:
    """The readers of the logs that were asked for last, within a bound on memory. Thread-safe."""

    def __init__(self, table: RunTable) -> None:
        self.table = table
        self.lock = threading.Lock()
        self.readers: OrderedDict[str, LogReader] = OrderedDict()

    def get(self, run: FoundRun) -> LogReader:
        """Return the reader of a run's log, and forget those unused longest."""
        with self.lock:
            reader = self.readers.pop(run.id, None) or LogReader(lambda: self.table.open(run, "log.jsonl"))
            self.readers[run.id] = reader
            rows = sum(other.count_rows() for other in self.readers.values())
            while len(self.readers) > 1 and (len(self.readers) > MAX_READERS or rows > MAX_KEPT_ROWS):
                rows -= self.readers.popitem(last=False)[1].count_rows()
            return reader


def make_runs_router(folder: Path) -> APIRouter:
    """Make the routes for the training runs at or below ``folder``."""
    router = APIRouter(tags=["runs"])
    table = RunTable(folder)
    facts, readers = RunFacts(table), LogReaders(table)

    def find_run(run_id: str) -> FoundRun:
        run = table.find(run_id)
        if run is None:
            raise HTTPException(404, "there is no run of this name; /v1/runs lists all")
        return run

    @router.get("/v1/runs", summary="List the training runs", responses=NOT_MODIFIED | describe_problems(401, 422))
    def list_runs(if_none_match: Etag = None) -> Response:
        return answer_json({"folder": table.folder.name, "runs": facts.list_lines()}, if_none_match)

    @router.get(
        "/v1/runs/{run_id}",
        summary="Describe a run: recipe, metrics per epoch, environment, evaluation, links",
        responses=NOT_MODIFIED | describe_problems(401, 404, 422),
    )
    def describe_run(run_id: str, if_none_match: Etag = None) -> Response:
        return answer_json(facts.describe(find_run(run_id)), if_none_match)

    @router.get(
        "/v1/runs/{run_id}/log",
        summary="Read a run's log after a cursor, at most 2,000 points a series",
        responses=NOT_MODIFIED | describe_problems(401, 404, 422),
    )
    def read_log(
        run_id: str,
        after: Annotated[int, Query(ge=0, le=1 << 62, description="The field next of an earlier answer")] = 0,
        generation: Annotated[str, Query(max_length=64, description="The generation of an earlier answer")] = "",
        if_none_match: Etag = None,
    ) -> Response:
        run = find_run(run_id)
        part = readers.get(run).read(after, generation, READ_SECONDS)
        line = facts.describe_line(run)
        about = {key: line[key] for key in ("state", "last_point")}
        return answer_json({**describe_part(part), "speed": read_speed(table, run), **about}, if_none_match)

    @router.get(
        "/v1/runs/{run_id}/files/{name}",
        summary="Fetch a run's report or one of its pictures",
        response_class=Response,
        responses=FILE_ANSWERS | NOT_MODIFIED | describe_problems(401, 404, 422),
    )
    def fetch_file(run_id: str, name: str, if_none_match: Etag = None) -> Response:
        run = find_run(run_id)
        if name not in FILES:
            raise HTTPException(404, f"a run has no file of this name; there are {', '.join(FILES)}")
        names, media_type = FILES[name]
        try:
            file = table.open(run, *names)
        except OSError:
            raise HTTPException(404, f"the run has no {name} yet") from None
        return answer_file(file, media_type, if_none_match)

    return router


def describe_part(part: LogPart) -> dict[str, Any]:
    """Return a part of a log as JSON values: at most 2,000 points a series, by the extremes of equal buckets."""
    steps = part.steps
    loss, rate = steps[pick_extremes(steps["loss"], MAX_POINTS)], steps[pick_extremes(steps["lr"], MAX_RATE_POINTS)]
    mean = None
    if len(loss) < len(steps):
        x, y = average_buckets(steps["step"], steps["loss"], MAX_POINTS // 2)
        mean = {"step": np.rint(x).astype(int).tolist(), "loss": round_numbers(y)}
    epochs = part.epochs[-MAX_POINTS:]
    names = list(dict.fromkeys(name for row in epochs for name in row))
    return {
        "generation": part.generation,
        "after": part.after,
        "next": part.next,
        "more": part.more,
        "count": part.count,
        "steps": {"step": loss["step"].tolist(), "loss": round_numbers(loss["loss"])},
        "mean": mean,
        "rate": {"step": rate["step"].tolist(), "lr": round_numbers(rate["lr"])},
        "epochs": {name: [row.get(name) for row in epochs] for name in names},
    }


def round_numbers(values: NDArray[Any]) -> list[float | None]:
    """Return numbers with six digits, which is what a float32 holds; None for those that are not finite."""
    return [
        float(f"{value:.6g}") if ok else None for value, ok in zip(values.tolist(), np.isfinite(values), strict=True)
    ]


def read_speed(table: RunTable, run: FoundRun) -> dict[str, list[float | None]]:
    """Read the speeds of a run's epochs; of an epoch that was run twice, the last."""
    columns = read_columns(table.read(run, *SPEED, limit=MAX_SPEED_BYTES))
    keys = [key for key in ("epoch", "images_per_second", "seconds") if key in columns]
    if "epoch" not in keys:
        return {}
    rows = {row[0]: row for row in zip(*(columns[key] for key in keys), strict=True) if row[0] is not None}
    kept = [rows[epoch] for epoch in sorted(rows)][-MAX_SPEED_ROWS:]
    return {key: [row[i] for row in kept] for i, key in enumerate(keys)}


def answer_json(values: dict[str, Any], known: str | None) -> Response:
    """Answer with JSON and its ETag, or 304 if the client has this already. ``now`` is not part of the tag."""
    body = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    content = body.encode("utf-8", "backslashreplace")
    tag = make_tag(content)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if has_tag(known, tag):
        return Response(status_code=304, headers=headers)
    now = f'{content[:-1].decode()}{"," if len(content) > 2 else ""}"now":{time.time():.3f}}}'
    return Response(now, media_type="application/json", headers=headers)


def answer_file(file: BinaryIO, media_type: str, known: str | None) -> Response:
    """Stream an open file with headers that keep it harmless, and close it."""
    stamp = read_stamp(file)
    tag = make_tag(repr(stamp).encode())
    headers = {**SAFE_HEADERS, "ETag": tag, "Cache-Control": "no-cache"}
    if has_tag(known, tag) or stamp.size > MAX_FILE_BYTES:
        file.close()
        if stamp.size > MAX_FILE_BYTES:
            raise HTTPException(404, f"the file is larger than {MAX_FILE_BYTES >> 20} MB")
        return Response(status_code=304, headers=headers)
    return StreamingResponse(iterate_file(file, stamp.size), media_type=media_type, headers=headers)


def iterate_file(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Iterate over the first ``size`` bytes of a file, which may grow or shrink meanwhile, and close it."""
    with file:
        while size > 0 and (data := file.read(min(size, FILE_CHUNK_BYTES))):
            size -= len(data)
            yield data


def make_tag(content: bytes) -> str:
    """Return an ETag of bytes."""
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def has_tag(known: str | None, tag: str) -> bool:
    """Return whether an If-None-Match header names ``tag``."""
    return known is not None and tag in (part.strip().removeprefix("W/") for part in known.split(","))
