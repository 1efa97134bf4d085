import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from resnext.serving.app import make_app
from resnext.serving.limits import Limits
from resnext.serving.served_model import ServedModel
from resnext.serving.service import Service
from tests.serving.fakes import FakeClassifier, FakeDetector, make_picture
from tests.serving.page_stub import PAGE

RED, BLUE = make_picture(color=(255, 0, 0)), make_picture(color=(0, 0, 255))


def make_service(model: FakeClassifier | None = None, **limits) -> Service:
    service = Service(Limits(**limits))
    service.add_model(ServedModel("colors", model or FakeClassifier()))
    service.add_model(ServedModel("things", FakeDetector(), "detection"))
    service.is_ready = True
    return service


def make_client(service: Service, **options) -> TestClient:
    return TestClient(make_app(service, **options), base_url="http://localhost:8000", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return make_client(make_service())


def check_problem(answer, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    values = answer.json()
    assert (values["type"], values["status"]) == ("about:blank", status)
    assert words in values["detail"]
    assert values["title"]


def test_a_raw_picture_is_classified(client):
    answer = client.post("/v1/predict?top=2", content=RED)
    assert answer.status_code == 200
    values = answer.json()
    assert (values["model"], values["task"]) == ("colors", "classification")
    (entry,) = values["predictions"]
    shares = np.exp([10.0, 0, 0]) / np.exp([10.0, 0, 0]).sum()
    assert entry["name"] is None
    assert entry["size"] == [16, 12]
    assert [(one["class"], one["index"]) for one in entry["top"]] == [("red", 0), ("green", 1)]
    np.testing.assert_allclose([one["probability"] for one in entry["top"]], shares[:2], rtol=1e-6)
    assert "cam" not in entry
    assert "view" not in entry
    assert set(values["milliseconds"]) == {"decode", "queue", "network", "total"}


def test_a_form_has_names_and_one_bad_picture_does_not_fail_the_others(client):
    files = [("file", ("a.png", RED)), ("file", ("no.txt", b"hello")), ("x", ("b.jpg", make_picture(kind="JPEG")))]
    entries = client.post("/v1/predict", files=files).json()["predictions"]
    assert [entry["name"] for entry in entries] == ["a.png", "no.txt", "b.jpg"]
    assert "not a picture" in entries[1]["error"]
    assert entries[0]["top"][0]["class"] == entries[2]["top"][0]["class"] == "red"


def test_json_takes_base64_and_data_urls(client):
    text = base64.b64encode(BLUE).decode()
    images = [text, f"data:image/png;base64,{text}", "?", 7]
    entries = client.post("/v1/predict", json={"images": images}).json()["predictions"]
    assert [entry["top"][0]["class"] for entry in entries[:2]] == ["blue", "blue"]
    assert "not valid base64" in entries[2]["error"]
    assert "not int" in entries[3]["error"]


def test_explain_gives_a_map_for_each_class_and_the_region_it_covers(client):
    picture = Image.new("RGB", (16, 8), (255, 0, 0))
    picture.paste((0, 0, 255), (4, 0, 8, 4))  # upper left quarter of the centre crop
    file = io.BytesIO()
    picture.save(file, "PNG")
    answer = client.post("/v1/predict?explain=1&top=2", content=file.getvalue()).json()
    (entry,) = answer["predictions"]
    cam = entry["cam"]
    assert [one["class"] for one in entry["top"]] == ["red", "blue"]
    assert (cam["height"], cam["width"], cam["region"]) == (2, 2, [4, 0, 12, 8])
    assert cam["maps"] == [[0, 10, 10, 10], [10, 0, 0, 0]]


def test_the_view_is_what_the_network_saw(client):
    entry = client.post("/v1/predict?view=1", content=BLUE).json()["predictions"][0]
    head, _, text = entry["view"].partition(",")
    assert head == "data:image/png;base64"
    view = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    np.testing.assert_array_equal(view, np.full((8, 8, 3), [0, 0, 255], np.uint8))


def test_the_picture_is_turned_upright(client):
    tags = Image.Exif()
    tags[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (20, 10)).save(file, "JPEG", exif=tags)
    assert client.post("/v1/predict", content=file.getvalue()).json()["predictions"][0]["size"] == [10, 20]


def test_a_detector_gives_boxes_above_the_score(client):
    answer = client.post("/v1/predict?model=things", content=RED).json()
    assert answer["task"] == "detection"
    (entry,) = answer["predictions"]
    assert entry["boxes"] == [{"class": "thing", "index": 0, "score": 0.875, "box": [0, 0, 16, 12]}]
    low = client.post("/v1/predict?model=things&score=0.1", content=RED).json()["predictions"][0]["boxes"]
    assert [box["class"] for box in low] == ["thing", "class 7"]


def test_models_are_described_without_places_on_this_machine(client):
    colors, things = client.get("/v1/models").json()["models"]
    assert colors == {
        "name": "colors", "task": "classification", "architecture": "", "classes": 3, "image_size": 8, "channels": 3,
        "engine": "fp32 on numpy", "has_cam": True, "provenance": {"source": "fake"},
    }  # fmt: skip
    assert things["task"] == "detection"
    assert client.get("/v1/models?classes=1").json()["models"][0]["classes"] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("query", "body", "headers", "status", "words"),
    [
        ("", b"", {}, 422, "empty"),
        ("", b"hello", {}, 415, "JPEG, PNG, WEBP and GIF"),
        ("", b"\0\0\0\x18ftypheic" + bytes(40), {}, 415, "HEIC"),
        ("", RED[:50], {}, 422, "cannot be read"),
        ("?model=color", RED, {}, 404, "did you mean 'colors'"),
        ("?model=../../etc/passwd", RED, {}, 404, "there is no model"),
        ("?top=0", RED, {}, 422, "top"),
        ("?top=many", RED, {}, 422, "top"),
        ("?explain=1&top=1000", RED, {}, 422, "explain"),
        ("?model=things&score=nan", RED, {}, 422, "score"),
        ("", RED, {"content-encoding": "gzip"}, 415, "content-encoding"),
        ("", b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "form"),
        ("", b"{", {"content-type": "application/json"}, 400, "JSON"),
        ("", b"[" * 1_000_000, {"content-type": "application/json"}, 400, "values"),
        ("", b"[" * 150, {"content-type": "application/json"}, 400, "JSON"),
        ("", b'{"images": NaN}', {"content-type": "application/json"}, 400, "NaN"),
        ("", b'{"images": 1%s}' % (b"0" * 9999), {"content-type": "application/json"}, 400, "JSON"),
        ("", b'{"images": []}', {"content-type": "application/json"}, 422, "no picture"),
        ("", b'{"images": "x"}', {"content-type": "application/json"}, 422, "list"),
        ("", b"[1]", {"content-type": "application/json"}, 422, "object"),
        ("", b"\xff\xfe", {"content-type": "application/json"}, 400, "JSON"),
        ("", b"x", {"content-type": "multipart/form-data"}, 400, "form"),
        ("", b"x", {"content-type": "multipart/form-data; boundary=b"}, 400, "form"),
        ("", b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}, 422, "no picture"),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(client, query, body, headers, status, words):
    check_problem(client.post(f"/v1/predict{query}", content=body, headers=headers), status, words)


def test_counts_are_limited(client):
    many = {"images": ["AA=="] * 17}
    check_problem(client.post("/v1/predict", json=many), 413, "at most 16")
    check_problem(client.post("/v1/predict", files=[("f", ("a", b"x"))] * 1001), 413, "Too many files")
    check_problem(client.post("/v1/predict", data={f"k{n}": "v" for n in range(100)}, files={"f": RED}), 400, "fields")


def test_a_large_body_is_refused_by_its_length_and_by_its_bytes():
    client = make_client(make_service(body_bytes=1000))
    check_problem(client.post("/v1/predict", content=bytes(1001)), 413, "larger than")
    parts = (bytes(100) for _ in range(11))
    check_problem(client.post("/v1/predict", content=parts), 413, "larger than")  # chunked: no length is given


def test_what_all_requests_hold_is_limited():
    service = make_service(total_body_bytes=100)
    answer = make_client(service).post("/v1/predict", content=bytes(101))
    check_problem(answer, 429, "busy")
    assert answer.headers["retry-after"] == "1"
    assert service.body_budget.used == 0


def test_unknown_addresses_and_methods_are_problems(client):
    check_problem(client.get("/nothing"), 404, "nothing at this address")
    check_problem(client.get("/static/../app.py"), 404, "")
    check_problem(client.get("/static/%2e%2e%2fapp.py"), 404, "")
    answer = client.get("/v1/predict")
    check_problem(answer, 405, "method")
    assert answer.headers["allow"] == "POST"
    assert client.get("/docs").status_code == 404


def test_a_failing_network_is_500_for_its_requests_and_unready_after_several():
    model = FakeClassifier()
    client = make_client(make_service(model))
    model.failure = ValueError("numbers <b>everywhere</b>")
    for _ in range(3):
        check_problem(client.post("/v1/predict?model=colors", content=RED), 500, "numbers")
    check_problem(client.get("/readyz"), 503, "colors: the last 3 batches failed")
    assert client.get("/healthz").status_code == 200
    check_problem(client.post("/v1/predict?model=colors", content=RED), 503, "cannot answer")
    assert client.post("/v1/predict?model=things", content=RED).status_code == 200


def test_a_network_that_works_again_is_ready_again(monkeypatch):
    monkeypatch.setattr("resnext.serving.batcher.PROBE_SECONDS", 0.01)
    model = FakeClassifier()
    client = make_client(make_service(model))
    model.failure = ValueError("out of luck")
    for _ in range(3):
        check_problem(client.post("/v1/predict?model=colors", content=RED), 500, "luck")
    check_problem(client.get("/readyz"), 503, "colors")
    model.failure = None
    end = time.monotonic() + 30
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end
    assert client.post("/v1/predict?model=colors", content=RED).status_code == 200


def test_a_dead_worker_is_said_by_readyz_until_the_server_is_restarted(monkeypatch):
    monkeypatch.setattr("resnext.serving.batcher.PROBE_SECONDS", 0.01)
    model = FakeClassifier()
    client = make_client(make_service(model))
    model.failure = SystemExit("gone")
    check_problem(client.post("/v1/predict?model=colors", content=RED), 500, "ended: SystemExit")
    model.failure = None
    for _ in range(3):
        check_problem(client.get("/readyz"), 503, "worker thread colors-stream-0 ended: SystemExit: gone")
        check_problem(client.post("/v1/predict?model=colors", content=RED), 503, "cannot answer")
    assert client.get("/healthz").status_code == 200


def test_a_network_that_gives_no_numbers_is_an_error_of_its_image(monkeypatch):
    model = FakeClassifier()
    outputs = model.infer
    client = make_client(make_service(model))
    monkeypatch.setattr(
        model, "infer", lambda pixels: outputs(pixels)._replace(logits=np.full((len(pixels), 3), np.nan))
    )
    check_problem(client.post("/v1/predict", content=RED), 500, "not finite")


def test_an_error_of_the_program_is_a_problem_too(monkeypatch, caplog):
    service = make_service()
    monkeypatch.setattr(service, "find_model", lambda name: 1 / 0)
    check_problem(make_client(service).post("/v1/predict", content=RED), 500, "its log says why")
    assert "ZeroDivisionError" in caplog.text


def test_before_models_are_loaded_and_after_the_stop_requests_are_told_to_come_back():
    service = Service()
    client = make_client(service)
    for answer in (client.get("/readyz"), client.post("/v1/predict", content=RED)):
        check_problem(answer, 503, "load")
        assert int(answer.headers["retry-after"]) >= 1
    service = make_service()
    service.begin_stop()
    client = make_client(service)
    for answer in (client.get("/readyz"), client.post("/v1/predict", content=RED)):
        check_problem(answer, 503, "stopping")
        assert answer.headers["connection"] == "close"


def test_a_long_queue_is_429_with_the_time_to_come_back():
    model = FakeClassifier()
    service = make_service(model, max_wait=2.0)
    client = make_client(service)
    batcher = service.models["colors"].batcher
    batcher.seconds_per_image = 1.5
    model.gate.clear()
    with client, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.post, "/v1/predict", content=RED) for _ in range(2)]
        while batcher.load < 2:
            time.sleep(0.001)
        answer = client.post("/v1/predict", content=RED)
        check_problem(answer, 429, "predicted wait is 3.0 seconds")
        assert answer.headers["retry-after"] == "3"
        model.gate.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        assert client.post("/v1/predict", content=RED).status_code == 200


def test_an_answer_that_takes_too_long_is_503():
    model = FakeClassifier()
    service = make_service(model, answer_seconds=0.05)
    model.gate.clear()
    check_problem(make_client(service).post("/v1/predict", content=RED), 503, "took more than")
    model.gate.set()


def test_requests_that_wait_are_computed_in_batches_of_prepared_sizes():
    model = FakeClassifier()
    service = make_service(model)
    assert model.warmed == [1, 2, 4, 8]
    client = make_client(service)
    model.gate.clear()
    with client, ThreadPoolExecutor(11) as pool:
        waiting = [pool.submit(client.post, "/v1/predict", content=RED) for _ in range(11)]
        while service.models["colors"].batcher.load < 11:
            time.sleep(0.001)
        model.batches.clear()
        model.gate.set()
        assert all(future.result().status_code == 200 for future in waiting)
    assert set(model.batches) <= {1, 2, 4, 8}
    assert max(model.batches) > 1


def test_only_the_token_opens_what_computes():
    client = make_client(make_service(), token="secret")
    for path in ("/healthz", "/readyz", "/", "/static/base.css"):
        assert client.get(path).status_code in (200, 404)
    for path in ("/metrics", "/v1/models", "/openapi.json"):
        answer = client.get(path)
        check_problem(answer, 401, "token")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    tries = [
        "Bearer wrong",
        "Bearer secre",
        "Bearer secrets",
        "Basic secret",
        "Bearer",
        "secret",
        "Bearer " + "x" * 9999,
    ]
    for words in tries:
        check_problem(client.post("/v1/predict", content=RED, headers={"authorization": words}), 401, "token")
    headers = {"authorization": "Bearer secret"}
    assert client.post("/v1/predict", content=RED, headers=headers).status_code == 200
    assert client.post("/v1/predict?token=secret", content=RED).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "a]b"}, 421),
        ({"host": ""}, 421),
        ({"host": "192.168.0.7:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "models.example:8000"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "https://models.example"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403),
    ],
)
def test_other_hosts_and_origins_are_refused(headers, status):
    client = make_client(make_service(), hosts=["models.example"])
    answer = client.get("/v1/models", headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_keeps_the_page_to_itself(client):
    for answer in (client.get("/healthz"), client.get("/nothing"), client.post("/v1/predict", content=b"<html>")):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not answer.headers["content-type"].startswith("text/html")


def test_metrics_can_be_parsed_and_count():
    client = make_client(make_service())
    client.post("/v1/predict", content=RED)
    client.post("/v1/predict", content=b"hello")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["resnext_requests_total", "/v1/predict", "200"] == 1
    assert found["resnext_requests_total", "/v1/predict", "415"] == 1
    assert found["resnext_problems_total", "format"] == 1
    assert found["resnext_images_total", "answered", "colors"] == 1
    assert found["resnext_images_total", "colors", "refused"] == 1
    assert found["resnext_decoded_pixels_total",] == 16 * 12
    assert found["resnext_ready",] == 1
    assert found["resnext_batch_images_sum", "colors"] == 1
    assert found["resnext_body_bytes_total",] == len(RED) + 5
    assert ("process_resident_memory_bytes",) in found
    assert ("resnext_queued_images", "colors") in found


def test_openapi_describes_the_routes(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/predict", "/v1/models", "/healthz", "/readyz", "/metrics"} <= set(paths)
    assert "multipart/form-data" in paths["/v1/predict"]["post"]["requestBody"]["content"]


def test_page_files_are_sent_with_a_tag_that_saves_sending_them_again(client):
    page = client.get("/")
    assert page.status_code == 200
    if page.headers["content-type"].startswith("text/html"):
        again = client.get("/", headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_page_files_are_compressed_for_those_who_say_that_they_take_it(client):
    plain = client.get("/static/page.js", headers={"accept-encoding": "identity"})
    small = client.get("/static/page.js", headers={"accept-encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert small.content == plain.content == (PAGE / "page.js").read_bytes()


def test_requests_are_logged_as_plain_facts():
    lines = []
    client = make_client(make_service(), log_request=lines.append)
    client.post("/v1/predict?top=1", content=RED)
    (facts,) = json.loads(json.dumps(lines))
    assert (facts["method"], facts["path"], facts["query"], facts["status"]) == ("POST", "/v1/predict", "top=1", 200)


@pytest.mark.parametrize("limits", [{"large_pixels": 1000}, {"small_size": 1000}])
def test_decoding_a_large_picture_does_not_stop_small_ones(limits):
    service = make_service(**limits)
    client = make_client(service)
    large, held, go = make_picture((100, 100)), threading.Event(), threading.Event()
    model = service.models["colors"].predictor
    prepare = model.prepare

    def hold_large(image):
        if image.size == (100, 100):
            held.set()
            assert go.wait(30)
        return prepare(image)

    model.prepare = hold_large
    with client, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(client.post, "/v1/predict", content=large) for _ in range(8)]
        assert held.wait(30)
        assert client.post("/v1/predict", content=RED).status_code == 200
        go.set()
        assert [future.result().status_code for future in waiting] == [200] * 8
    assert service.pixel_budget.used == 0
    assert service.decode_load.waiting == 0
