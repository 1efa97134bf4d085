"""A server with a fake model in a process of its own, and clients that speak plain HTTP over sockets."""

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A started server: its process, its port, and where its standard error goes."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def connect(self, timeout: float = 60) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """Send one request in a connection of its own; return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def count(self, directory: str) -> int:
        """Count the entries of a directory of the process in /proc: "fd" or "task"."""
        return len(os.listdir(f"/proc/{self.process.pid}/{directory}"))

    def read_rss(self) -> int:
        """Read the resident memory in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def read_cpu(self) -> float:
        """Read the processor time that the process has used, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self) -> None:
        """Have ``read_peak`` start anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def read_peak(self) -> int:
        """Read the largest resident memory so far, in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))

    def read_metric(self, name: str) -> float:
        """Read the sum of a metric over its labels."""
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))


@contextmanager
def start_server(seconds: float = 0.0, *limits: str, wait: bool = True, **options: Any) -> Iterator[ServerProcess]:
    """Start a server whose network takes ``seconds`` for an image; end it at the end of the context."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests/serving/run_fake_server.py"), str(seconds), *limits]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)
    try:
        assert process.stdout is not None
        address = process.stdout.readline() if wait else ""
        yield ServerProcess(process, int(address.rpartition(":")[2] or 0))
    finally:
        process.kill()
        process.communicate(timeout=60)


def make_request(body: bytes, path: str = "/v1/predict", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection; what was read if it resets it."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def is_closed(connection: socket.socket) -> bool:
    """Return whether the server closed the connection, without waiting."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return not connection.recv(1 << 16)
    except ConnectionResetError:
        return True


def read_answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read one answer of a connection that stays open; return its status and JSON."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read())


def wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
