import threading
import time

import pytest
import uvicorn
from huggingface_hub import InferenceClient

from resnext.serving.app import make_app
from resnext.serving.routes_hf import make_hf_router
from tests.serving.fakes import make_picture
from tests.serving.test_app import make_service


@pytest.fixture(scope="module")
def address():
    service = make_service()
    config = uvicorn.Config(make_app(service, routers=[make_hf_router(service)]), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/hf"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(make_picture())
    return str(path)


def test_the_client_of_hugging_face_classifies(address, picture):
    client = InferenceClient(model=f"{address}/colors")
    assert [one.label for one in client.image_classification(picture)] == ["red", "green", "blue"]
    (best,) = client.image_classification(picture, top_k=1, function_to_apply="none")
    assert (best.label, best.score) == ("red", pytest.approx(10))


def test_the_client_of_hugging_face_finds_objects(address, picture):
    client = InferenceClient(model=f"{address}/things")
    assert [one.label for one in client.object_detection(picture)] == ["thing"]
    found = client.object_detection(picture, threshold=0.1)
    assert [one.label for one in found] == ["thing", "class 7"]
    assert (found[0].box.xmax, found[0].box.ymax) == (16, 12)
