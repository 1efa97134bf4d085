"""``resnext bench serve``: every load gives a row; the load generator sends and counts what its plan says."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime")

from resnext.bench.results import read_rows
from resnext.bench.serve_children import ServerChild
from resnext.bench.serve_load import LoadPlan, LoadResult, run_plan
from resnext.bench.serve_overload import find_recovery
from resnext.bench.serve_pictures import write_pictures
from resnext.bench.serve_rows import compute_percentile
from resnext.cli import main
from resnext.deploy.export import ExportRequest, build_model, describe_export, write_model
from resnext.deploy.fold import fold
from resnext.errors import RequestError, WorkError
from tests.deploy.networks import lived
from tests.serving.fakes import make_picture, make_preprocessing


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network in an ONNX file, which is served without torch."""
    pytest.importorskip("onnx")
    network = lived("resnext11_2x4d", base_channels=4, num_classes=3)
    network.preprocessing = make_preprocessing(image_size=32, resize=36)
    network.classes = ("ant", "bee", "cat")
    request = ExportRequest(format="onnx")
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    graph = build_model(fold(network), "onnx", request.get_interface(network.preprocessing))
    write_model(graph, describe_export(network, request, None), path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))


def test_every_load_gives_a_row_beside_its_ceiling(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(model), "--clients", "2", "--seconds", "0.4", "--rounds", "1", "--naive", "--overload", "2"]
    assert main(["bench", "serve", *words, "--out", str(tmp_path)]) == 0
    rows = read_rows(tmp_path / "bench-serve.csv")
    naive = "JPEG to naive FastAPI"
    assert [(row["sent"], row["clients"]) for row in rows] == [
        ("JPEG, no server", ""),
        ("tensors, no server", ""),
        ("JPEG", "2"),
        ("tensors", "8"),
        (naive, "2"),
        ("JPEG at 0.5 times capacity", "open loop"),
        ("JPEG at 2 times capacity", "open loop"),
        ("JPEG at 0.5 times capacity", "open loop"),
    ]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    closed = rows[2:5]
    for row in closed:
        assert row["statuses"] == f"200: {row['answers']}"  # nothing was refused, lost or failed
        assert float(row["of_ceiling"]) > 0
        assert float(row["p50_ms"]) <= float(row["p99_ms"])
    assert {row["model"].split()[0] for row in rows} == {"resnext11_2x4d"}
    assert {row["engine"] for row in rows} == {"fp32 on onnxruntime"}
    assert {row["pictures"] for row in rows} == {"8 JPEGs of noise, 500x375"}
    assert (tmp_path / "bench-serve.png").read_bytes().startswith(b"\x89PNG")
    assert "JPEG at 2 times capacity" in capsys.readouterr().out


class Handler(BaseHTTPRequestHandler):
    """Answers 200, or 429 to each third request of a connection; records what came."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: Counter[tuple[str, str, bytes]]
    statuses: Counter[int]
    lock = threading.Lock()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.lock:
            self.seen[self.command, self.path, body] += 1
            status = 429 if sum(self.seen.values()) % 3 == 0 else 200
            self.statuses[status] += 1
        self.send_response(status)
        self.send_header("x-other-content-length", "9999")  # not the length of the body
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    do_GET = do_POST = answer  # noqa: N815  # names of http.server

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.seen, Handler.statuses = Counter(), Counter()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_closed_loop_sends_all_bodies_to_all_paths_and_counts_the_answers(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    bodies = [tmp_path / name for name in "abc"]
    for path in bodies:
        path.write_text(path.name * 1000)
    plan = LoadPlan(port=server.server_port, paths=("/x", "/y"), bodies=tuple(map(str, bodies)), clients=4, seconds=0.5)
    result = run_plan(plan)
    expected = {("POST", path, name.encode() * 1000) for path in ("/x", "/y") for name in "abc"}
    assert set(Handler.seen) == expected
    for status in (200, 429):
        assert 0 <= Handler.statuses[status] - result.count(status) <= plan.clients  # the rest was on its way
        assert len(result.list_latencies(status)) == result.count(status)
    assert set(result.latencies) == {"/x 200", "/x 429", "/y 200", "/y 429"}
    assert len(result.times) == result.count(200)
    assert (result.lost, result.reset, result.unsent) == (0, 0, 0)


def test_an_open_loop_sends_at_its_rate_whatever_comes_back(server: ThreadingHTTPServer) -> None:
    result = run_plan(LoadPlan(port=server.server_port, method="GET", paths=("/p",), rate=50, seconds=1.0))
    assert set(Handler.seen) == {("GET", "/p", b"")}
    assert 0 < result.count() <= 51
    assert sum(Handler.seen.values()) <= 52


def test_closed_connections_are_counted_and_opened_again(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()
    result = run_plan(LoadPlan(port=server.server_port, clients=2, seconds=0.5))
    assert result.count() == 0
    assert result.reset > 2
    assert result.lost == 0


def make_load(*answers: tuple[float, float]) -> LoadResult:
    waits = sorted(wait for _, wait in answers)
    return LoadResult(
        seconds=3.0,
        times=[time for time, _ in answers],
        waits=[wait for _, wait in answers],
        latencies={"/ 200": waits},
    )


def test_recovery_is_the_first_half_second_without_a_slow_answer() -> None:
    normal = make_load((0.1, 0.01), (0.2, 0.01), (0.3, 0.02))
    assert find_recovery(make_load((0.1, 0.03), (0.7, 0.04)), normal) == 0
    assert find_recovery(make_load((0.1, 2.0), (0.6, 0.01), (0.7, 0.5), (1.2, 0.04)), normal) == 1.0
    assert find_recovery(make_load((0.1, 2.0), (2.9, 2.0)), normal) is None


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (compute_percentile(values, 50), compute_percentile(values, 99)) == (51.0, 100.0)
    assert compute_percentile([], 99) is None


def test_pictures_are_jpeg_files_of_the_folder(tmp_path: Path) -> None:
    (folder := tmp_path / "in").mkdir()
    (out := tmp_path / "out").mkdir()
    (folder / "a.jpg").write_bytes(make_picture(kind="JPEG"))
    (folder / "b.jpg").write_bytes(make_picture(kind="PNG"))
    paths, words = write_pictures(str(folder), out)
    assert [Path(path).read_bytes() for path in paths] == [(folder / "a.jpg").read_bytes()]
    assert words.startswith("1 JPEGs")
    (folder / "a.jpg").unlink()
    with pytest.raises(RequestError, match="has no JPEG file"):
        write_pictures(str(folder), out)


@pytest.mark.parametrize(("status", "kind"), [(2, RequestError), (1, WorkError)])
def test_a_server_that_does_not_start_says_why(
    status: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import sys\nprint('noise', file=sys.stderr)\nprint('no such model', file=sys.stderr)\nsys.exit({status})"
    (tmp_path / "broken_server.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(kind, match=r"^broken_server ended: no such model$"), ServerChild(["broken_server"]):
        pass
