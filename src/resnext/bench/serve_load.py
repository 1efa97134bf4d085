"""A light HTTP load generator in a process of its own: ``python -m resnext.bench.serve_load`` with a plan on stdin.

It imports nothing but the standard library, and counts the CPU time it takes itself. In a closed loop, each client
sends its next request when the last is answered. In an open loop, requests are sent at fixed times, whatever the
server does: latencies are counted from these times, so that a slow server cannot hide requests that it delays.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

MAX_OPEN = 900  # connections of an open loop; the server accepts 1024
RETRY_SECONDS = 0.05  # until a client whose connection was closed connects again


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What to send, and when."""

    port: int
    method: str = "POST"
    paths: tuple[str, ...] = ("/v1/predict",)  # asked in turn
    bodies: tuple[str, ...] = ()  # files, sent in turn
    headers: tuple[str, ...] = ()
    clients: int = 1  # of a closed loop
    rate: float = 0.0  # requests per second of an open loop; 0: a closed one
    settle_seconds: float = 0.0  # until answers count
    seconds: float = 1.0  # for which they count


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """The answers that arrived while they counted."""

    seconds: float
    latencies: dict[str, list[float]] = field(default_factory=dict)  # seconds by "PATH STATUS", sorted
    times: list[float] = field(default_factory=list)  # of the answers with status 200, since they count
    waits: list[float] = field(default_factory=list)  # the latency of each of these
    lost: int = 0  # requests that were not answered before the server closed their connection
    reset: int = 0  # connections that were refused or reset: the server had not taken them
    unsent: int = 0  # requests of an open loop for which there was no connection left
    cpu_seconds: float = 0.0  # of this process, while answers counted

    def count(self, status: int | None = None) -> int:
        """Count the answers of a status, or all of them."""
        return sum(len(values) for key, values in self.latencies.items() if status in (None, int(key.split()[1])))

    def list_latencies(self, status: int) -> list[float]:
        """List the latencies of the answers of a status in seconds, sorted."""
        return sorted(t for key, values in self.latencies.items() if int(key.split()[1]) == status for t in values)


class _Client(asyncio.Protocol):
    """One connection: sends a request, and calls ``on_answer`` with its status, or 0 if the connection was closed."""

    def __init__(self, load: "_Load") -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.status, self.missing = 0, -1  # bytes of the body that are missing; -1: the head is not complete
        self.path, self.begun, self.is_last = "", 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, path: str, request: tuple[bytes, bytes], begun: float) -> None:
        assert self.transport is not None
        self.path, self.begun, self.missing = path, begun, -1
        self.buffer.clear()
        self.transport.writelines(request)

    def data_received(self, data: bytes) -> None:
        if self.missing < 0:
            self.buffer += data
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).lower()
            self.status = int(head[9:12])
            length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self.missing = int(length or 0) - (len(self.buffer) - end - 4)
            self.is_last = b"\r\nconnection: close" in head
        else:
            self.missing -= len(data)
        if self.missing == 0 and self.begun:
            begun, self.begun = self.begun, 0.0
            self.load.take_answer(self, begun)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport, self.buffer = None, bytearray()
        self.load.lose(self, was_waiting=bool(self.begun), was_reset=exc is not None)
        self.begun = 0.0


class _Load:
    """All clients of a plan."""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan
        bodies = [Path(path).read_bytes() for path in plan.bodies] or [b""]
        self.requests = {path: [_make_request(plan, path, body) for body in bodies] for path in plan.paths}
        self.numbers: Iterator[int] = count()
        self.start = time.perf_counter() + plan.settle_seconds
        self.result = LoadResult(seconds=plan.seconds)
        self.lost = self.reset = self.unsent = 0
        self.idle: list[_Client] = []
        self.opened = 0
        self.is_over = False
        self.tasks: set[asyncio.Task[None]] = set()  # the event loop itself does not hold them

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self) -> LoadResult:
        """Send until the end of the plan. Connections that still wait for an answer are closed."""
        plan = self.plan
        if plan.rate:
            self._start(self._send_at_times())
        else:
            for _ in range(plan.clients):
                self._start(self._open_and_ask(0.0))
        await asyncio.sleep(max(0.0, self.start - time.perf_counter()))
        cpu, begin = time.process_time(), time.perf_counter()
        await asyncio.sleep(plan.seconds)
        self.is_over = True
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        found = asdict(self.result) | {"seconds": seconds, "cpu_seconds": cpu}
        return LoadResult(**found | {"lost": self.lost, "reset": self.reset, "unsent": self.unsent})

    def take_answer(self, client: _Client, begun: float) -> None:
        """Record an answer, and let the client go on."""
        now = time.perf_counter()
        if now >= self.start and not self.is_over:
            self.result.latencies.setdefault(f"{client.path} {client.status}", []).append(now - begun)
            if client.status == 200:
                self.result.times.append(now - self.start)
                self.result.waits.append(now - begun)
        if self.is_over or client.transport is None:
            return
        if client.is_last:
            client.transport.close()  # then it is lost, and another one opened
            return
        if self.plan.rate:
            self.idle.append(client)
        else:
            self._ask(client, now)

    def lose(self, client: _Client, was_waiting: bool, was_reset: bool) -> None:
        """Take note of a closed connection; a client of a closed loop connects again."""
        self.opened -= 1
        if client in self.idle:
            self.idle.remove(client)
        if self.is_over:
            return
        self.lost += was_waiting and not was_reset
        self.reset += was_waiting and was_reset
        if not self.plan.rate:
            self._start(self._open_and_ask(0.0, RETRY_SECONDS))

    async def _open_and_ask(self, begun: float, wait: float = 0.0) -> None:
        await asyncio.sleep(wait)
        self.opened += 1
        try:
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: _Client(self), "127.0.0.1", self.plan.port
            )
        except OSError:
            self.opened -= 1
            self.reset += not self.is_over
            if not self.plan.rate and not self.is_over:
                await self._open_and_ask(0.0, RETRY_SECONDS)
            return
        if client.transport is not None:
            self._ask(client, begun or time.perf_counter())

    def _ask(self, client: _Client, begun: float) -> None:
        number = next(self.numbers)
        path = self.plan.paths[number % len(self.plan.paths)]
        requests = self.requests[path]
        client.ask(path, requests[number % len(requests)], begun)

    async def _send_at_times(self) -> None:
        first = time.perf_counter()
        for number in count():
            due = first + number / self.plan.rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if self.idle:
                self._ask(self.idle.pop(), due)
            elif self.opened < MAX_OPEN:
                self._start(self._open_and_ask(due))
                await asyncio.sleep(0)
            else:
                self.unsent += time.perf_counter() >= self.start
                await asyncio.sleep(0)


def _make_request(plan: LoadPlan, path: str, body: bytes) -> tuple[bytes, bytes]:
    lines = [f"{plan.method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *plan.headers]
    return ("\r\n".join([*lines, "", ""])).encode("ascii"), body


def run_plan(plan: LoadPlan) -> LoadResult:
    """Run a plan in this process."""
    return asyncio.run(_Load(plan).run())


def main() -> None:
    """Run the plan on standard input; print the result as JSON."""
    values: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in json.load(sys.stdin).items()}
    plan = LoadPlan(**values)
    print(json.dumps(asdict(run_plan(plan))), flush=True)
    os._exit(0)  # without closing hundreds of connections one by one


if __name__ == "__main__":
    main()
