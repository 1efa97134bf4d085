"""What a request names leads nowhere: no address is fetched, no path is opened; and the token is compared blindly."""

import base64
import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from resnext.serving import security
from resnext.serving.app import make_app
from resnext.serving.routes_hf import make_hf_router
from resnext.serving.routes_runs import make_runs_router
from resnext.serving.routes_v2 import make_v2_router
from tests.serving.test_app import RED, make_client, make_service
from tests.serving.test_routes_runs import make_run

ADDRESSES = [
    *("http://127.0.0.1:9/x.png", "https://169.254.169.254/latest", "file:///etc/passwd", "//evil.example/x"),
    *("/etc/passwd", "../../../../etc/passwd", "\\\\evil.example\\share\\x.png", "ftp://evil.example/x.png"),
]


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    (make_run(tmp_path / "runs" / "a") / "report.html").write_text("mine")
    (tmp_path / "secret.html").write_text("secret")
    service = make_service()
    routers = [make_hf_router(service), make_v2_router(service), make_runs_router(tmp_path / "runs")]
    app = make_app(service, routers=routers, has_runs=True)
    return TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_in_place_of_a_picture_is_neither_fetched_nor_opened(
    client: TestClient, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, where: reached.append(where))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: reached.append(where) or [])
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [address]}
    coded = base64.b64encode(address.encode()).decode()
    answers = [
        client.post("/v1/predict", json={"images": [address]}),
        client.post("/v1/predict", json={"images": [coded]}),
        client.post("/v1/predict", json={"url": address, "images": []}),
        client.post("/v1/predict", content=address.encode()),
        client.post("/v1/predict", params={"model": address}, content=RED),
        client.post("/v1/predict", data={"url": address}, files={"other": ("x", address.encode())}),
        client.post("/hf/colors", json={"inputs": address}),
        client.post("/v2/models/colors/infer", json={"inputs": [tensor]}),
        client.post("/v2/models/colors/infer", json={"inputs": [tensor | {"data": [coded]}]}),
        client.get("/v1/runs/" + address.replace("/", "%2f").replace("\\", "%5c") + "/files/report.html"),
    ]
    assert {answer.status_code // 100 for answer in answers} == {4}
    assert not any("root:" in answer.text for answer in answers)
    assert reached == []


@pytest.mark.parametrize("given", ["x", "secret", "secret" * 1000, "Sécret", "sec\0ret", "secret ", " secret"])
def test_a_token_is_compared_in_constant_time_whatever_is_sent(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    compare = security.hmac.compare_digest

    def record(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(security.hmac, "compare_digest", record)
    client = make_client(make_service(), token="secret")
    answer = client.get("/v1/models", headers={"authorization": f"Bearer {given}".encode()})
    assert answer.status_code == (200 if given.strip() == "secret" else 401)
    assert compared == [(32, 32)]


def test_the_token_is_asked_for_before_anything_is_read() -> None:
    client = make_client(make_service(), token="secret")
    for body in (b"", RED, bytes(30_000_000)):
        assert client.post("/v1/predict?model=none&top=no", content=body).status_code == 401
    for path in ("/v1/models", "/v1/runs", "/v1/runs/a/files/report.html", "/openapi.json", "/static2/x", "/nothing"):
        assert client.get(path).status_code == 401
    for path in (
        "/static/../v1/models",
        "/static/%2e%2e/v1/models",
        "//v1/models",
        "/V1/models",
        "/healthz/../v1/models",
    ):
        answer = client.get(path)
        assert answer.status_code in (401, 404)
        assert "colors" not in answer.text


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost@evil.example",
        "127.0.0.1.evil.example",
        "[::1]evil",
        "localhost,evil",
        "evil@localhost",
        "localhost/evil",
    ],
)
def test_a_name_of_others_that_leads_here_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/v1/models", headers={"host": host}).status_code == 421
    assert client.post("/v1/predict", headers={"host": host}, content=RED).status_code == 421


@pytest.mark.parametrize("path", ["/v1/predict", "/hf/colors", "/v2/models/colors/infer"])
def test_a_page_of_another_origin_can_send_nothing(client: TestClient, path: str) -> None:
    headers = {"origin": "https://evil.example", "content-type": "text/plain"}
    assert client.post(path, headers=headers, content=RED).status_code == 403
    asked = headers | {"access-control-request-method": "POST"}
    answer = client.options(path, headers=asked)
    assert answer.status_code in (403, 405)
    assert not any(name.startswith("access-control-") for name in answer.headers)
