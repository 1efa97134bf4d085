"""The process of the server: it listens at once, loads the models beside, and stops without losing an answer.

The main thread has the event loop and the signals. Models are loaded in a thread that blocks signals, as do the
threads that engines start from there.
"""

import asyncio
import contextlib
import gc
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from resnext.errors import RequestError
from resnext.serving.deadline import Connections, make_protocol, raise_file_limit
from resnext.serving.served_model import ServedModel
from resnext.serving.service import Service
from resnext.serving.worker_threads import block_signals

LAME_DUCK_SECONDS = 0.5  # for which a stopping server still listens, to say that it is stopping
WATCHDOG_SECONDS = 5.0  # beyond the time to drain, after which the process is ended whatever it does
BACKLOG = 2048  # connections that the system keeps until they are accepted
ACCEPTED_AT_ONCE = 64  # in one turn of the event loop; asyncio takes its backlog for that
MAX_HEADER_BYTES = 32 << 10
Loader = Callable[[], ServedModel]


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind the address to listen on, so that what is wrong with it is said before models are loaded.

    Raises RequestError if the port is in use or the address is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)  # asyncio sends at once (TCP_NODELAY) only with protocol TCP
        try:
            if sys.platform != "win32":
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RequestError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port or --host"
        ) from None
    return bound


def format_address(bound: socket.socket) -> str:
    """Return the address of a bound socket for a browser of this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


class ModelServer(uvicorn.Server):
    """uvicorn's server, which loads models when it has started, and drains when it is told to stop."""

    def __init__(
        self, config: uvicorn.Config, service: Service, loaders: Sequence[Loader], on_ready: Callable[[], None]
    ):
        super().__init__(config)
        self.service, self.loaders, self.on_ready = service, loaders, on_ready
        self.load_error: Exception | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and begin to load the models."""
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(BACKLOG)
        threading.Thread(target=self._load, name="load-models", daemon=True).start()

    def _load(self) -> None:
        block_signals()
        try:
            for load in self.loaders:
                self.service.add_model(load())
            gc.collect()
            gc.freeze()  # what stays is not searched for garbage any more: that took 60 ms each time
            self.service.is_ready = True
            self.on_ready()
        except Exception as error:
            self.load_error = error
            self.service.begin_stop()
            self.should_exit = True

    async def main_loop(self) -> None:
        """Serve until told to stop; then still listen for a moment, refusing new requests."""
        await super().main_loop()
        self.service.begin_stop()
        if self.load_error is None and not self.force_exit:
            await asyncio.sleep(LAME_DUCK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open. After a second Ctrl+C, Python 3.12 and newer would still wait for open connections."""
        stop = asyncio.create_task(super().shutdown(sockets))
        while not stop.done() and not self.force_exit:
            await asyncio.wait([stop], timeout=0.1)
        if self.force_exit:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        await stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the names are uvicorn's
        """Begin to stop; a second Ctrl+C stops without draining. Unlike uvicorn's, the signal is not raised again."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self.service.begin_stop()
        seconds = self.service.limits.drain_seconds + WATCHDOG_SECONDS
        watchdog = threading.Timer(seconds, _give_up, [seconds])
        watchdog.daemon = True
        watchdog.start()


def _give_up(seconds: float) -> None:
    os.write(2, f"resnext: still not stopped after {seconds:g} seconds; the process is ended\n".encode())
    os._exit(1)


def run_server(
    service: Service,
    app: FastAPI,
    bound: socket.socket,
    loaders: Sequence[Loader],
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve in this thread, which must be the main one, until SIGINT or SIGTERM; accepted requests are answered.

    Args:
        service: The service, without models.
        app: Its application.
        bound: The socket to listen on.
        loaders: Called one after another in another thread; each returns a model.
        on_ready: Called when all models answer.

    Raises:
        Exception: What a loader raised; the server has stopped then.
    """
    limits = service.limits
    connections = Connections(limits, raise_file_limit(limits.connections))
    service.metrics.watch_connections(lambda: len(connections.opened), lambda: connections.evicted)
    config = uvicorn.Config(
        app,
        http=make_protocol(connections),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        log_level="critical",
        proxy_headers=False,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=limits.drain_seconds,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    server = ModelServer(config, service, loaders, on_ready)
    server.run([bound])
    service.stop(1.0)
    if server.load_error is not None:
        raise server.load_error


def exit_process(status: int) -> None:
    """End the process without destructors: those of engines can hang. Everything must have been answered."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
