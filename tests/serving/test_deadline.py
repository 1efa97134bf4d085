import socket
import time
from contextlib import suppress

import pytest

from tests.serving.fakes import make_picture
from tests.serving.processes import is_closed, make_request, read_all, read_answer, start_server, wait_until

PICTURE = make_picture()


@pytest.fixture(scope="module")
def server():
    with start_server(0.0, "receive_seconds=0.6", "keep_alive_seconds=1", "connections=12") as started:
        yield started


def test_a_connection_without_a_request_is_closed_without_words(server):
    with server.connect() as connection:
        assert read_all(connection) == b""


@pytest.mark.parametrize("start", [b"G", b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\nx: "])
def test_a_request_that_comes_byte_by_byte_is_408(server, start):
    with server.connect() as connection:
        connection.sendall(start)
        for _ in range(100):
            time.sleep(0.05)
            if is_closed_for_writing(connection):
                break
        assert b" 408 Request Timeout" in read_all(connection)


def is_closed_for_writing(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"a")
    except OSError:
        return True
    return server_has_answered(connection)


def server_has_answered(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        connection.setblocking(True)


@pytest.mark.parametrize(
    "request_bytes",
    [
        make_request(PICTURE)[:-10],  # a body shorter than its length
        b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",  # no end
    ],
)
def test_a_body_that_never_ends_is_408(server, request_bytes):
    with server.connect() as connection:
        connection.sendall(request_bytes)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"application/problem+json" in answer
    assert b"did not arrive within 0.6 seconds" in answer


def test_an_early_refusal_does_not_hold_the_connection_for_the_rest(server):
    with server.connect() as connection:
        connection.sendall(make_request(b"", "/v1/predict").replace(b"length: 0", b"length: 99999999") + bytes(10))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 hello\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 1_000_000]
)
def test_what_is_not_http_or_has_endless_headers_is_400(server, garbage):
    with server.connect() as connection:
        with suppress(OSError):
            connection.sendall(garbage)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""  # the answer is lost if bytes were still on their way


def test_a_body_of_tiny_chunks_is_refused(server):
    with server.connect() as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        with suppress(OSError):
            connection.sendall(b"1\r\na\r\n" * 100_000)
        assert b" 200 " not in read_all(connection)
    assert server.ask("GET", "/healthz")[0] == 200


def test_several_requests_go_through_one_connection_and_idle_it_is_closed(server):
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(make_request(PICTURE))
            assert read_answer(connection)[0] == 200
        connection.sendall(make_request(PICTURE) * 2)  # pipelined
        time.sleep(0.3)
        assert read_all(connection).count(b"HTTP/1.1 200") == 2


def test_idle_connections_make_room_for_others(server):
    idle = [server.connect() for _ in range(100)]
    try:
        for _ in range(20):
            assert server.ask("POST", "/v1/predict", PICTURE)[0] == 200
        assert server.read_metric("resnext_connections") <= 12
        wait_until(lambda: all(is_closed(connection) for connection in idle))
    finally:
        for connection in idle:
            connection.close()


def test_a_client_that_leaves_has_its_images_dropped():
    with start_server(0.3) as slow:
        first = slow.connect()
        first.sendall(make_request(PICTURE))
        wait_until(lambda: slow.read_metric("resnext_queued_images") == 1)
        leaving = [slow.connect() for _ in range(5)]
        for connection in leaving:
            connection.sendall(make_request(PICTURE))
        wait_until(lambda: slow.read_metric("resnext_queued_images") > 1)
        for connection in leaving:
            connection.close()
        assert read_answer(first)[0] == 200
        wait_until(lambda: slow.read_metric("resnext_queued_images") == 0)
        assert slow.read_metric("resnext_dropped_images_total") >= 1
        assert slow.read_metric("resnext_bytes_in_flight") == 0
        first.close()


def test_a_late_body_is_an_error_of_the_conventions_shape(server):
    head = b"POST /v2/models/fake/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
    with server.connect() as connection:
        connection.sendall(head)
        answer = read_all(connection)
    assert b" 408 Request Timeout" in answer
    assert b"content-type: application/json\r\n" in answer
    assert answer.partition(b"\r\n\r\n")[2].startswith(b'{"error": "the request did not arrive')
