"""Clients that hold, drip and contradict against a server process: limits hit, others are served, nothing stays."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

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
from tests.serving.hostile_pictures import ask_cost
from tests.serving.processes import ServerProcess, make_request, read_all, start_server

PICTURE = make_picture()
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="time and memory are read from /proc")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with start_server(0.0, "receive_seconds=5") as started:
        started.ask("POST", "/v1/predict", PICTURE)
        yield started


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_too_much_is_refused_cheaply(server: ServerProcess, name: str) -> None:
    body, status = FORMS[name]
    cost = ask_cost(server, body, "/v1/predict", FORM_TYPE)
    assert cost.status == status
    assert cost.cpu_seconds < 0.6 + 0.1 * len(body) / 1e6
    assert cost.memory < (50 << 20) + 4 * len(body)


@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/fake/infer", "/hf/fake"])
@pytest.mark.parametrize("name", JSON)
def test_json_of_too_much_is_refused_cheaply(server: ServerProcess, name: str, path: str) -> None:
    body, statuses = JSON[name]
    cost = ask_cost(server, body, path, JSON_TYPE)
    assert cost.status in (*statuses, 400, 422)
    assert cost.cpu_seconds < 0.6 + 0.1 * len(body) / 1e6
    assert cost.memory < (50 << 20) + 6 * len(body)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_contradicts_itself_is_refused(server: ServerProcess, name: str) -> None:
    with server.connect() as connection:
        with suppress(OSError):
            connection.sendall(REQUESTS[name])
        answer = read_all(connection)
    status = answer[9:12]
    assert status in (b"400", b"404", b"408", b"413", b"421", b"501") or answer == b"", answer[:200]
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"<html" not in answer.lower()
    assert server.ask("GET", "/healthz")[0] == 200


def test_a_length_and_chunks_together_are_one_request(server: ServerProcess) -> None:
    """Whichever counts, what follows must not be taken for a second request on behalf of another client."""
    smuggled = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with server.connect() as connection:
        head = f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {5 + len(smuggled)}\r\n"
        connection.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled)
        answer = read_all(connection)
    assert b'"models"' not in answer


@pytest.mark.parametrize(
    ("idle", "slow", "limits"),
    [
        (150, 60, ("receive_seconds=1.5", "keep_alive_seconds=1", "connections=100")),
        pytest.param(8_000, 1_000, (), marks=pytest.mark.slow),
    ],
)
def test_idle_and_slow_connections_are_closed_and_others_are_served(
    idle: int, slow: int, limits: tuple[str, ...]
) -> None:
    with start_server(0.0, *limits) as server:
        server.ask("POST", "/v1/predict", PICTURE)
        before = server.count("fd"), server.count("task")
        connections = connect_many(server, idle)
        slow_ones = connect_many(server, slow)
        head, answered = make_request(PICTURE)[:60], 0
        most = 0
        for place in range(0, 60, 2):
            if drip(slow_ones, head[place : place + 2]) == 0:
                break
            assert server.ask("POST", "/v1/predict", PICTURE)[0] == 200
            answered += 1
            most = max(most, server.count("fd"))
            time.sleep(0.05)
        assert answered > 0
        assert wait_until_closed(connections + slow_ones, 40) == 0
        for connection in connections + slow_ones:
            connection.close()
        limit = next((int(text[12:]) for text in limits if text.startswith("connections=")), 1024)
        assert most <= before[0] + limit + 10
        assert server.count("task") == before[1]
        deadline = time.monotonic() + 10
        while server.count("fd") > before[0] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.count("fd") <= before[0]
        assert server.read_metric("resnext_bytes_in_flight") == 0


def test_a_refusal_never_repeats_what_was_sent_as_a_page(server: ServerProcess) -> None:
    script = b"<script>alert(1)</script>"
    sent = [script, b"\xff\xd8\xff" + script, b"GIF89a" + script * 9, b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
    for body in sent:
        status, headers, answer = server.ask("POST", "/v1/predict?model=%3Cb%3E", body)
        assert status == 404
        assert headers["content-type"] == "application/problem+json"
        assert headers["x-content-type-options"] == "nosniff"
        assert server.ask("POST", "/v1/predict", body)[0] in (415, 422)
        assert b"alert" not in answer
    assert json.loads(server.ask("GET", "/%3Cscript%3E")[2])["status"] == 404
