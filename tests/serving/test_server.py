import json
import os
import signal
import socket
import threading
import time

import pytest

from resnext.errors import RequestError
from resnext.serving.server import bind_socket, format_address
from tests.serving.fakes import make_picture
from tests.serving.processes import ServerProcess, make_request, read_answer, start_server

PICTURE = make_picture()
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and sockets")


def test_a_port_in_use_is_said_at_once():
    with bind_socket("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert format_address(bound) == f"http://127.0.0.1:{port}"
        assert (
            bound.proto == socket.IPPROTO_TCP
        )  # else asyncio leaves Nagle's algorithm on, which costs 40 ms a request
        with pytest.raises(RequestError, match=rf"cannot listen on 127.0.0.1 port {port}: address already in use"):
            bind_socket("127.0.0.1", port)


def test_an_address_of_another_machine_is_said_at_once():
    with pytest.raises(RequestError, match=r"cannot listen on 192.0.2.1 port 80"):
        bind_socket("192.0.2.1", 80)


def test_an_accepted_request_is_answered_before_the_server_stops():
    with start_server(0.5) as server:
        connection, probe = server.connect(), server.connect()
        connection.sendall(make_request(PICTURE))
        probe.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert read_answer(probe)[0] == 200
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        probe.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        status, problem = read_answer(probe)
        assert (status, problem["detail"]) == (503, "not ready: the server is stopping")
        assert server.ask("POST", "/v1/predict", PICTURE)[0] == 503
        assert read_answer(connection)[0] == 200
        assert server.process.wait(30) == 0
        connection.close()
        probe.close()


def test_the_port_can_be_used_again_at_once():
    with start_server() as server:
        assert server.ask("POST", "/v1/predict", PICTURE)[0] == 200
        held = server.connect()
        server.process.kill()
        server.process.wait()
        bind_socket("127.0.0.1", server.port).close()
        held.close()


def test_a_second_interrupt_stops_without_waiting():
    with start_server(20.0) as server:
        connection = server.connect()
        connection.sendall(make_request(PICTURE))
        time.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        connection.close()


def test_the_process_ends_while_a_model_is_still_loading():
    with start_server(0.0, "load_seconds=60", wait=False) as server:
        time.sleep(1.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def run_clients(server: ServerProcess, stop: threading.Event, found: list[str]) -> list[threading.Thread]:
    """Ask again and again from several threads, and collect what went wrong with requests that were accepted."""

    def ask() -> None:
        while not stop.is_set():
            try:
                connection = server.connect(20)
            except OSError:
                return  # the server does not listen any more
            with connection:
                try:
                    connection.sendall(make_request(PICTURE))
                    status, values = read_answer(connection)
                    if status not in (200, 429, 503):
                        found.append(f"{status} {values}")
                except (ConnectionResetError, BrokenPipeError):
                    pass  # it was in the backlog when the server ended to listen, so it was not accepted
                except (OSError, ValueError) as error:
                    found.append(repr(error))
                except Exception as error:
                    if not stop.is_set() and "RemoteDisconnected" not in repr(error):
                        found.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    return threads


def stop_under_load(seconds: float) -> None:
    with start_server(0.002) as server:
        stop: threading.Event = threading.Event()
        found: list[str] = []
        threads = run_clients(server, stop, found)
        time.sleep(seconds)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) == 0
        assert time.monotonic() - begin < 35
        stop.set()
        for thread in threads:
            thread.join(30)
        assert found == []


def test_sigterm_under_load_ends_with_status_0():
    stop_under_load(0.5)


@pytest.mark.slow
def test_sigterm_under_load_ends_with_status_0_two_hundred_times():
    for number in range(200):
        stop_under_load(0.05 + number % 7 / 50)


def count_answers(server: ServerProcess, requests: int, body: bytes, threads: int = 4) -> dict[int, int]:
    """Send requests over a few kept connections; count the statuses."""
    counts: dict[int, int] = {}
    lock = threading.Lock()

    def ask() -> None:
        connection = server.connect()
        for _ in range(requests // threads):
            connection.sendall(make_request(body))
            status, _ = read_answer(connection)
            with lock:
                counts[status] = counts.get(status, 0) + 1
        connection.close()

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counts


@pytest.mark.parametrize("requests", [600, pytest.param(100_000, marks=pytest.mark.slow)])
def test_nothing_is_left_behind_by_requests(requests):
    with start_server() as server:
        count_answers(server, requests // 4, PICTURE)
        count_answers(server, requests // 4, PICTURE[:50])
        before = server.count("fd"), server.count("task"), server.read_rss()
        good = count_answers(server, requests, PICTURE)
        bad = count_answers(server, requests, PICTURE[:50])
        assert (set(good), set(bad)) == ({200}, {422})
        time.sleep(0.2)
        assert server.count("fd") <= before[0]
        assert server.count("task") == before[1]
        if requests >= 100_000:
            # One Python object left behind by each request would take more; the heap itself still wanders by a MiB.
            assert server.read_rss() - before[2] < 16 * requests
        assert server.read_metric("resnext_bytes_in_flight") == 0


def test_the_process_has_few_threads():
    with start_server() as server:
        count_answers(server, 200, PICTURE, threads=8)
        assert server.count("task") <= len(os.sched_getaffinity(0)) + 2 + 4


def test_overload_is_refused_quickly_and_what_is_accepted_is_answered_in_time():
    """Sixteen clients against a network for four images a second and a longest wait of one second."""
    with start_server(0.25, "max_wait=1") as server:
        counts: dict[int, int] = {}
        end = time.monotonic() + 4

        def ask() -> None:
            while time.monotonic() < end:
                status, headers, body = server.ask("POST", "/v1/predict", PICTURE)
                counts[status] = counts.get(status, 0) + 1
                if status == 429:
                    assert int(headers["retry-after"]) >= 1
                    assert json.loads(body)["status"] == 429
                    time.sleep(0.05)

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(counts) == {200, 429}
        assert counts[429] > counts[200] > 8


def test_probes_answer_while_the_network_computes():
    with start_server(3.0) as server:
        connection = server.connect()
        connection.sendall(make_request(PICTURE))
        time.sleep(0.1)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert server.ask("GET", path)[0] == 200
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)  # it still computes
        connection.close()


def test_a_socket_of_ipv6_has_an_address_in_brackets():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        bound = bind_socket("::1", 0)
    except RequestError:
        pytest.skip("no IPv6 here")
    with bound:
        assert format_address(bound).startswith("http://[::1]:")
