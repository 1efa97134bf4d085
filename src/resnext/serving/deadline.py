"""uvicorn's HTTP protocol with what it lacks: a deadline for requests to arrive, and a bound on connections.

uvicorn's own keep-alive timer starts only after the first answer, and every byte stops it: a client that sends one byte
a second would hold its connection for ever.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnext.serving.limits import Limits
from resnext.serving.problems import format_problem

SMALL_CHUNKS = 1000  # parts of a chunked body, after which they must have
MEAN_CHUNK = 64  # bytes on average: parsing small ones takes long


class Connections:
    """The open connections. Those without a complete request are in the order in which they began to wait."""

    def __init__(self, limits: Limits, most: int | None = None) -> None:
        self.limits = limits
        self.most = most or limits.connections
        self.opened: set[DeadlineProtocol] = set()
        self.waiting: dict[DeadlineProtocol, None] = {}
        self.evicted = 0

    def make_room(self) -> bool:
        """Have room for one more: close the connection that has waited longest without a complete request."""
        if len(self.opened) < self.most:
            return True
        if not self.waiting:
            return False
        oldest = next(iter(self.waiting))
        self.evicted += 1
        self.discard(oldest)
        oldest.transport.abort()
        return True

    def discard(self, connection: "DeadlineProtocol") -> None:
        """Forget a connection that is closed."""
        self.opened.discard(connection)
        self.waiting.pop(connection, None)


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 by h11 with a deadline for each request.

    ``table`` is set on a subclass, by ``make_protocol``: uvicorn makes the instances.
    """

    table: Connections

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Connection(h11.SERVER, self.config.h11_max_incomplete_event_size or 1 << 16)
        self._timer: asyncio.TimerHandle | None = None
        self._was_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it at once if there are too many."""
        if not self.table.make_room():
            self._was_refused = True
            transport.abort()
            return
        super().connection_made(transport)
        self.table.opened.add(self)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._was_refused:
            return
        self._stop_deadline()
        self.table.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; a request that begins has its deadline from here on."""
        if self._was_refused:
            return
        if self._timer is None and self._is_receiving():
            self._start_deadline()
        super().data_received(data)
        self._update_deadline()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._update_deadline()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the name is uvicorn's
        """Answer a request that is not HTTP, or whose headers are too long."""
        self._close_with(400, "this is not a valid HTTP request, or its headers are too long")

    def _is_receiving(self) -> bool:
        """Return whether the client has not sent a complete request."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _update_deadline(self) -> None:
        if not self._is_receiving():
            self._stop_deadline()
        elif self._timer is None and self.conn.their_state is h11.SEND_BODY:
            self._start_deadline()
        elif self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0] and self.cycle is not None:
            self._stop_deadline()  # idle between requests: uvicorn's keep-alive timer runs
            self.table.waiting[self] = None

    def _start_deadline(self) -> None:
        self._timer = self.loop.call_later(self.table.limits.receive_seconds, self._expire)
        self.table.waiting[self] = None

    def _stop_deadline(self) -> None:
        self.table.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self._close_with(408, f"the request did not arrive within {self.table.limits.receive_seconds:g} seconds")

    def _close_with(self, status: int, detail: str) -> None:
        """Answer with a problem where the connection still allows it, and close the connection."""
        cycle = self.cycle
        has_begun = self.conn.their_state is not h11.IDLE or bool(self.conn.trailing_data[0])
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the application sees that the client left
            cycle.message_event.set()
        if not self.transport.is_closing():
            can_answer = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
            if can_answer and has_begun:
                self.transport.write(self._format_answer(status, detail))
            self.transport.close()

    def _format_answer(self, status: int, detail: str) -> bytes:
        has_address = self.conn.their_state is h11.SEND_BODY  # else the scope is that of the request before, or none
        body, media_type = format_problem(status, detail, self.scope["path"] if has_address else "")
        head = f"HTTP/1.1 {status} {'Request Timeout' if status == 408 else 'Bad Request'}\r\n"
        fields = f"content-type: {media_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        return (head + fields).encode("ascii") + body


class _Connection(h11.Connection):
    """Refuses bodies in many small chunks, whose parsing would hold the event loop, and of two lengths."""

    def __init__(self, role: Any, max_incomplete_event_size: int) -> None:
        super().__init__(role, max_incomplete_event_size)
        self._chunks = self._bytes = 0

    def next_event(self) -> Any:
        """Return the next event of the client."""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > SMALL_CHUNKS and self._bytes < self._chunks * MEAN_CHUNK:
                raise h11.RemoteProtocolError("the body comes in too small chunks")
        elif isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                # a proxy may go by the one and we by the other: the rest would be a request of its own (smuggling)
                raise h11.RemoteProtocolError("the request has both a length and chunks")
        return event


def make_protocol(connections: Connections) -> type[DeadlineProtocol]:
    """Make the protocol class of a server."""
    return type("ServerProtocol", (DeadlineProtocol,), {"table": connections})


def raise_file_limit(connections: int) -> int:
    """Raise the limit on open files as far as allowed; return how many connections it leaves room for."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):
            pass
    return connections if soft == resource.RLIM_INFINITY else min(connections, max(16, soft - 128))
