"""Downloads against a server on this machine that misbehaves in every way that happens."""

import hashlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from resnext.data.files.download import Archive, _NoDowngrade, data_folder, download, hold_lock
from resnext.data.sources import fashion_mnist
from resnext.data.sources.cifar import open_cifar
from resnext.errors import WorkError
from resnext.settings import DataSettings
from tests.data.sources.test_cifar import TEN, make_archive, make_files
from tests.data.sources.test_fashion_mnist import SMALL, write_set

CONTENT = bytes(i * 7 % 251 for i in range(100_000))


class Server(ThreadingHTTPServer):
    """Serves ``files``; the other attributes say how badly."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/a.bin": CONTENT}
        self.tag = '"one"'
        self.ranges = True  # understands Range
        self.stated = True  # sends Content-Length
        self.cuts: list[int] = []  # break off the next answers after so many bytes
        self.answers: list[int] = []  # error codes of the next answers
        self.asked: list[tuple[str | None, str | None]] = []  # Range and If-Range of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def archive(self, path: str = "/a.bin", content: bytes = CONTENT) -> Archive:
        return Archive(self.url + path, path[1:], len(content), hashlib.md5(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted, tag = self.headers["Range"], self.headers["If-Range"]
        server.asked.append((wanted, tag))
        if server.answers:
            self.send_error(server.answers.pop(0))
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        body, start = server.files[self.path], 0
        if wanted and server.ranges and tag in (None, server.tag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.stated:
            self.send_header("Content-Length", str(len(body) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        with suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(body[start : start + cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(archive: Archive, folder: Path, attempts: int = 3) -> Path:
    return download(archive, folder, timeout=10, attempts=attempts, pause=0)


def unknown(server: Server, sha256: str | None = None) -> Archive:
    """The same file, of which nothing is known beforehand, or only the first digits of its SHA-256."""
    return Archive(server.url + "/a.bin", "a.bin", sha256=sha256)


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_fetched_once(server: Server, tmp_path: Path, stated: bool, known: bool) -> None:
    server.stated = stated
    archive = server.archive() if known else unknown(server)
    path = fetch(archive, tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert left_over(path.parent) == {"a.bin"}
    assert fetch(archive, path.parent) == path
    assert len(server.asked) == 1


@pytest.mark.parametrize("known", [True, False])
def test_an_interrupted_transfer_goes_on_where_it_broke_off(server: Server, tmp_path: Path, known: bool) -> None:
    server.cuts = [40_000, 30_000]
    assert fetch(server.archive() if known else unknown(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [(None, None), ("bytes=40000-", '"one"'), ("bytes=70000-", '"one"')]
    assert left_over(tmp_path) == {"a.bin"}


def test_a_later_run_resumes_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.cuts = [40_000]
    with pytest.raises(WorkError, match="broke off after 40000 of 100000 bytes"):
        fetch(server.archive(), tmp_path, attempts=1)
    assert left_over(tmp_path) == {"a.bin.part", "a.bin.part.tag"}
    assert fetch(server.archive(), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("bytes=40000-", '"one"')


def test_progress_renews_patience(server: Server, tmp_path: Path) -> None:
    server.cuts = [9_000] * 11
    assert fetch(server.archive(), tmp_path, attempts=2).read_bytes() == CONTENT


def test_a_server_without_ranges_is_asked_for_all_of_it(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [40_000]
    assert fetch(server.archive(), tmp_path).read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server.cuts = [40_000]
    server.files["/a.bin"] = bytes(100_000)
    with pytest.raises(WorkError):
        fetch(server.archive(), tmp_path, attempts=1)
    server.files["/a.bin"], server.tag = CONTENT, '"two"'
    assert fetch(server.archive(), tmp_path).read_bytes() == CONTENT


def test_a_foreign_first_half_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(bytes(40_000))  # without a tag: nothing tells the server
    assert fetch(server.archive(), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("bytes=40000-", None), (None, None)]


@pytest.mark.parametrize("size", [100_000, 120_000])
def test_a_part_that_is_whole_or_too_long_but_wrong_is_fetched_again(server: Server, tmp_path: Path, size: int) -> None:
    (tmp_path / "a.bin.part").write_bytes(bytes(size))
    assert fetch(server.archive(), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_names_both_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    archive = replace(server.archive(), md5="0" * 32)
    found = hashlib.md5(CONTENT).hexdigest()
    with pytest.raises(WorkError, match=f"MD5 is {found}, expected {'0' * 32}"):
        fetch(archive, tmp_path)
    assert left_over(tmp_path) == set()


@pytest.mark.parametrize("stated", [True, False])
def test_too_long_a_body_is_cut_off(server: Server, tmp_path: Path, stated: bool) -> None:
    server.stated = stated
    archive = server.archive()
    server.files["/a.bin"] = CONTENT + b"x" * 5_000_000
    with pytest.raises(WorkError, match="100000"):
        fetch(archive, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100


def test_404_is_final_and_states_the_manual_steps(server: Server, tmp_path: Path) -> None:
    archive = replace(server.archive(), url=server.url + "/gone.bin")
    with pytest.raises(WorkError, match=r"404.*by hand.*100000 bytes") as caught:
        fetch(archive, tmp_path)
    assert str(tmp_path / "a.bin") in str(caught.value)
    assert archive.md5 in str(caught.value)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers = [503, 503]
    assert fetch(server.archive(), tmp_path).read_bytes() == CONTENT
    server.answers = [416]
    (tmp_path / "a.bin").unlink()
    (tmp_path / "a.bin.part").write_bytes(b"x" * 10)
    assert fetch(server.archive(), tmp_path).read_bytes() == CONTENT


def test_a_refused_connection_states_the_manual_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as closed:
        archive = closed.archive()
    with pytest.raises(WorkError, match=r"cannot fetch http://127.*refused.*fetch .* by hand") as caught:
        fetch(archive, tmp_path)
    assert str(tmp_path / "a.bin") in str(caught.value)


def test_a_wrong_file_in_its_place_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(WorkError, match="4 bytes, expected 100000"):
        fetch(server.archive(), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkError, match=r"cannot write .*file"):
        fetch(server.archive(), tmp_path / "file" / "sub")


def test_two_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(server.archive(), tmp_path).read_bytes())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert len(server.asked) == 1


def test_the_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "lock", "fetching"), pytest.raises(Timeout):
        FileLock(tmp_path / "lock", timeout=0).acquire()
    FileLock(tmp_path / "lock", timeout=0).acquire()


def test_without_tag_and_checksum_nothing_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 40_000)
    assert fetch(unknown(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [(None, None)]


def test_the_first_digits_of_a_checksum_are_enough(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(unknown(server, digest[:8]), tmp_path / "a").read_bytes() == CONTENT
    with pytest.raises(WorkError, match=f"SHA-256 is {digest}, expected 00000000; or fetch .* by hand .SHA-256 00"):
        fetch(unknown(server, "00000000"), tmp_path / "b")
    assert left_over(tmp_path / "b") == set()


@pytest.mark.parametrize("stated", [True, False])
def test_nothing_larger_than_allowed_is_fetched(
    server: Server, tmp_path: Path, stated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.data.files.download.LARGEST", 90_000)
    server.stated = stated
    with pytest.raises(WorkError, match="90000"):
        fetch(unknown(server), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100


def test_an_encrypted_address_is_not_left_for_a_plain_one() -> None:
    request = urllib.request.Request("https://a.org/x")
    headers = HTTPMessage()
    with pytest.raises(urllib.error.URLError, match="redirects from https to http"):
        _NoDowngrade().redirect_request(request, BytesIO(), 302, "Found", headers, "http://a.org/x")
    following = _NoDowngrade().redirect_request(request, BytesIO(), 302, "Found", headers, "https://b.org/x")
    assert following is not None
    assert following.full_url == "https://b.org/x"


def test_the_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESNEXT_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_folder() == Path.home() / ".cache" / "resnext"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert data_folder() == Path("/caches/resnext")
    monkeypatch.setenv("RESNEXT_DATA", "/data")
    assert data_folder() == Path("/data")


def test_cifar_is_fetched_and_read(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "cache"))
    layout = make_archive(tmp_path / "a.tar.gz", TEN, make_files(TEN))
    server.files["/c.tar.gz"] = (tmp_path / "a.tar.gz").read_bytes()
    server.cuts = [5_000]
    layout = replace(layout, archive=replace(layout.archive, url=server.url + "/c.tar.gz"))
    source = open_cifar(DataSettings(source="cifar10"), layout)
    assert (len(source.train), len(source.val)) == (30, 4)
    assert left_over(tmp_path / "cache") == {"cifar-10-binary.tar.gz"}
    open_cifar(DataSettings(source="cifar10"), layout)
    assert len(server.asked) == 2


def test_fashion_mnist_is_fetched_and_read(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "cache"))
    write_set(tmp_path / "made")
    server.files = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "made").iterdir()}
    archives = tuple(server.archive(path, content) for path, content in server.files.items())
    data = DataSettings(source="fashion_mnist")
    source = fashion_mnist.open_fashion_mnist(data, archives, SMALL, tmp_path / "none")
    assert (len(source.train), len(source.val), len(server.asked)) == (20, 10, 4)
