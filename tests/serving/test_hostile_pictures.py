"""Bombs and damaged pictures against a server process, whose processor time and memory are measured."""

import sys
from collections.abc import Iterator

import pytest

from tests.serving.bombs import BOMBS
from tests.serving.hostile_pictures import Cost, ask_cost, make_seeds, mutate_many, send_mutated
from tests.serving.processes import ServerProcess, start_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="time and memory are read from /proc")
LONG = (
    *("WebP with 2 million chunks", "WebP with EXIF of 19 MB", "JPEG with Photoshop's blocks", "APNG of 9,000 frames"),
    *("JPEG with EXIF of 19 MB", "JPEG with EXIF of 65,535 tags of 290 bytes", "PNG with 1,200 international texts"),
    *("PNG with EXIF of 19 MB", "JPEG with 19.9 MB of XMP", "JPEG with 2 million tables between scans"),
    *("JPEG with 300 indices of pictures", "GIF with a comment of 19.9 MB", "APNG of 100,000 frames"),
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with start_server() as started:
        for data in make_seeds().values():  # loads the decoders
            started.ask("POST", "/v1/predict", data)
        yield started


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in BOMBS])
def test_a_bomb_costs_little_time_and_memory(server: ServerProcess, name: str) -> None:
    """The bounds are several times what is measured (results/hostile.csv): bombs that go off take ten times more."""
    data = BOMBS[name].make()
    cost = ask_cost(server, data)
    assert cost.status in BOMBS[name].statuses
    assert cost.cpu_seconds < 0.6 + 0.1 * len(data) / 1e6
    assert cost.memory < (150 << 20) + 3 * len(data)


def test_a_body_beyond_the_limit_is_refused_unread(server: ServerProcess) -> None:
    with server.connect() as connection:
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000000\r\n\r\n\xff\xd8\xff"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_pictures_of_every_format_are_read_or_refused(server: ServerProcess, count: int) -> None:
    pid = server.process.pid
    statuses = send_mutated(server, mutate_many(count, seed=count))
    assert sum(statuses.values()) == count
    assert set(statuses) == {200, 415, 422}
    assert server.process.poll() is None
    assert server.ask("GET", "/readyz")[0] == 200
    assert server.process.pid == pid
    assert isinstance(ask_cost(server, next(iter(make_seeds().values()))), Cost)
