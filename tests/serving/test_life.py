"""The whole server with OpenVINO, as ``resnext serve`` runs it: it starts, stops, dies, and leaves nothing behind.

``tools/soak_server.py`` does the same thousands of times.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openvino")

from resnext.bench.serve_children import ServerChild, run_load
from resnext.bench.serve_load import LoadPlan
from resnext.deploy.export import ExportRequest, build_model, describe_export, write_model
from resnext.deploy.fold import fold
from resnext.deploy.signal_stack import preserve_signal_stack
from tests.deploy.networks import lived
from tests.serving.fakes import make_picture, make_preprocessing
from tests.serving.processes import ServerProcess, make_request, read_answer, start_server, wait_until

ROOT = Path(__file__).parents[2]
PICTURE = make_picture(kind="JPEG")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sends signals")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    network = lived("resnext11_2x4d", base_channels=4, num_classes=3)
    network.preprocessing = make_preprocessing(image_size=32, resize=36)
    request = ExportRequest(format="openvino")
    folder = tmp_path_factory.mktemp("life")
    with preserve_signal_stack():
        graph = build_model(fold(network), "openvino", request.get_interface(network.preprocessing))
        write_model(graph, describe_export(network, request, None), folder / "tiny.xml")
    (folder / "one.jpg").write_bytes(PICTURE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNEXT_CACHE", str(folder / "cache"))
        yield folder / "tiny.xml"


def start(model: Path, *words: str) -> ServerChild:
    return ServerChild(["resnext", "serve", str(model), "--port", "0", *words])


def make_plan(model: Path, server: ServerChild, **changes: object) -> LoadPlan:
    values = {"port": server.port, "bodies": (str(model.parent / "one.jpg"),), "clients": 8, "seconds": 1.0}
    return LoadPlan(**(values | changes))  # type: ignore[arg-type]


def test_files_and_threads_stay_the_same_under_load_and_sigterm_ends_it_with_status_0(model: Path) -> None:
    with start(model) as server:
        run_load(server, make_plan(model, server, seconds=0.3))
        view = ServerProcess(server.process, server.port)
        wait_until(lambda: view.read_metric("resnext_connections") == 1)
        before = view.count("fd"), view.count("task")
        result = run_load(server, make_plan(model, server))
        assert {key.split()[1] for key in result.load.latencies} == {"200"}
        assert result.load.count(200) > 8
        wait_until(lambda: view.read_metric("resnext_connections") == 1)
        wait_until(lambda: (view.count("fd"), view.count("task")) == before)
        assert server.stop() == 0


def test_the_port_of_a_killed_server_is_used_by_the_next(model: Path) -> None:
    with start(model) as server:
        held = ServerProcess(server.process, server.port).connect()
        held.sendall(make_request(PICTURE))
        assert read_answer(held)[0] == 200
        held.sendall(make_request(PICTURE)[:-5])
        server.process.send_signal(signal.SIGKILL)
        assert server.process.wait(30) == -signal.SIGKILL
        with start(model, "--port", str(server.port)) as second:
            assert second.port == server.port
            assert ServerProcess(second.process, second.port).ask("POST", "/v1/predict", PICTURE)[0] == 200
            assert second.stop() == 0
        held.close()


def test_threads_follow_the_cores_that_the_process_may_use(model: Path) -> None:
    """On the last core only: a set that does not begin with core 0 has broken OpenVINO (openvino#37051)."""
    cores = os.sched_getaffinity(0)
    counts = []
    for allowed in ({max(cores)}, cores):
        os.sched_setaffinity(0, allowed)  # children inherit it
        try:
            server = start(model, "--max-batch", "1")
        finally:
            os.sched_setaffinity(0, cores)
        with server:
            result = run_load(server, make_plan(model, server, seconds=0.3), has_probes=False)
            assert result.load.count(200) > 0
            counts.append(result.state.threads)
            assert server.stop() == 0
    assert counts[0] <= 1 + 2 + 4
    assert len(cores) == 1 or counts[0] < counts[1] <= len(cores) + max(2, len(cores) // 4) + 4


@pytest.mark.parametrize("cycles", [10, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_model_starts_and_stops_again_and_again(model: Path, cycles: int) -> None:
    """In a process of its own, which says where it hangs after 90 seconds and ends."""
    tool = str(ROOT / "tools" / "soak_server.py")
    command = [sys.executable, "-X", "faulthandler", tool, str(model), "--cycles", str(cycles)]
    variables = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr


def test_the_images_of_clients_who_leave_are_not_computed() -> None:
    with start_server(0.05, "max_wait=60") as server:
        clients = [server.connect() for _ in range(60)]
        for client in clients:
            client.sendall(make_request(PICTURE))
        wait_until(lambda: server.read_metric("resnext_queued_images") >= 45)
        leaving, staying = clients[::2], clients[1::2]
        for client in leaving:
            client.close()
        begun = server.read_metric("resnext_batch_images_sum")
        assert [read_answer(client)[0] for client in staying] == [200] * len(staying)
        wait_until(lambda: server.read_metric("resnext_queued_images") == 0)
        computed = server.read_metric("resnext_batch_images_sum")
        assert computed <= begun + 8 + len(staying)  # 8: the batch in the engine; at most 53 of 60
        assert computed + server.read_metric("resnext_dropped_images_total") <= len(clients)
        assert server.read_metric("resnext_bytes_in_flight") == 0
        for client in staying:
            client.close()
