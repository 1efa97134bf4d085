"""The pages of a real ``resnext serve`` in a browser: exported networks, the token, the policy, a busy server."""

import base64
import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.known_network import CELLS, compute_known_map, export_known_network
from tests.serving.page_steps import EVIL, choose, find_distance_of_heat, wait_for_answer, write_picture
from tests.serving.processes import start_server
from tests.serving.test_routes_runs import make_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
for package in ("fastapi", "onnx", "onnxruntime"):
    pytest.importorskip(package)

expect = playwright.expect
FITS = ("crop", "squash", "pad")
TOKEN = "secret"
GIVE_TOKEN = f"sessionStorage.setItem('resnext-token', '{TOKEN}');"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with one known network for each crop mode, and a run; it wants a token."""
    folder = tmp_path_factory.mktemp("served")
    models = [f"{fit}={export_known_network(folder / f'{fit}.onnx', ('bright', EVIL), fit)}" for fit in FITS]
    make_run(folder / "runs" / "finished")
    command = [sys.executable, "-m", "resnext", "serve", *models, "--runs", str(folder / "runs"), "--port", "0"]
    environment = os.environ | {"RESNEXT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            while not (line := server.stdout.readline()).startswith("http"):
                assert line, "the server ended"
            yield line.split()[0] + "/"
        finally:
            server.terminate()
            assert server.wait(60) == 0


def ask_for_map(address: str, model: str, picture: Path) -> dict[str, Any]:
    """Ask the server as the page does."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"{address}v1/predict?model={model}&explain=1&view=1"
    with urllib.request.urlopen(urllib.request.Request(url, picture.read_bytes(), headers), timeout=60) as answer:
        prediction: dict[str, Any] = json.load(answer)["predictions"][0]
    return prediction


@pytest.mark.parametrize(
    ("size", "at", "options"),
    [((640, 480), (150, 70), {}), ((480, 640), (90, 520), {"upright": False}), ((1600, 200), (760, 45), {})],
    ids=["ordinary", "exif 6", "very wide"],
)
def test_heat_map_of_an_exported_network_lies_on_the_object_in_every_crop_mode(
    size: tuple[int, int],
    at: tuple[int, int],
    options: dict[str, Any],
    address: str,
    open_page: Callable[..., Any],
    tmp_path: Path,
) -> None:
    query = "?" + "&".join(f"model={fit}" for fit in FITS)
    page = open_page(address + query, GIVE_TOKEN, color_scheme="dark")  # nothing but the object is bright
    picture = write_picture(tmp_path / f"{EVIL}.jpg", size, at, **options)
    choose(page, picture)
    for panel, fit in enumerate(FITS):
        expect(page.locator(".verdict").nth(panel)).to_contain_text("bright")
        prediction = ask_for_map(address, fit, picture)
        assert prediction["size"] == list(size)
        cam = prediction["cam"]
        view = np.asarray(Image.open(io.BytesIO(base64.b64decode(prediction["view"].partition(",")[2]))))
        np.testing.assert_allclose(
            np.reshape(cam["maps"][0], (CELLS, CELLS)), compute_known_map(view), rtol=1e-3, atol=1e-3
        )
        x0, y0, x1, y1 = cam["region"]
        distance = find_distance_of_heat(page, panel) * size / np.array([x1 - x0, y1 - y0]) * CELLS
        assert distance.max() < 0.75, f"{fit}: {distance} cells from the object"
    assert page.log["console"] == []
    expect(page.get_by_text(EVIL, exact=True).first).to_be_visible()
    assert page.evaluate("[window.hacked, document.querySelectorAll('img[src=x]').length]") == [None, 0]


def test_one_token_opens_both_pages_for_the_session(
    address: str, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(address)
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#server-words")).to_have_text("The server did not accept this token.")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    choose(page, write_picture(tmp_path / "a.jpg"))
    wait_for_answer(page, "bright")
    page.get_by_role("link", name="Runs").click()
    expect(page.locator(".run-title")).to_have_text("finished")
    expect(page.locator("#server-notice")).to_be_hidden()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]

    other = open_page(address + "runs")  # another tab
    expect(other.get_by_label("Token")).to_be_focused()
    other.wait_for_timeout(2500)  # longer than between two polls
    assert len([url for url in other.log["addresses"] if url.endswith("/v1/runs")]) == 1
    other.get_by_label("Token").fill(TOKEN)
    other.keyboard.press("Enter")
    expect(other.locator(".run-title")).to_have_text("finished")
    expect(other.locator("#server-notice")).to_be_hidden()
    other.get_by_role("link", name="Predict").click()
    expect(other.locator("#asked")).to_contain_text("2 classes")


def test_the_token_holds_where_storage_is_forbidden(
    address: str, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    forbid = (
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError') } });"
    )
    page = open_page(address, forbid)
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    choose(page, write_picture(tmp_path / "a.jpg"))
    wait_for_answer(page, "bright")


@pytest.mark.parametrize(("path", "ready"), [("", "#asked:has-text('classes')"), ("runs", ".chart.tall .u-over")])
def test_both_pages_are_light_and_load_nothing_from_elsewhere(
    path: str, ready: str, address: str, open_page: Callable[..., Any]
) -> None:
    page = open_page(address + path, GIVE_TOKEN)
    page.locator(ready).wait_for()
    assert [url for url in page.log["addresses"] if not url.startswith(address)] == []
    files = [answer for answer in page.log["answers"] if "/v1/" not in answer.url]
    assert len(files) > 5
    assert sum(int(answer.headers["content-length"]) for answer in files) <= 120_000
    policies = {answer.headers["content-security-policy"] for answer in files}
    assert len(policies) == 1
    assert policies.pop().startswith("default-src 'self'; img-src 'self' blob: data:; object-src 'none'")
    assert page.log["console"] == []


def test_a_busy_server_answers_every_picture_in_the_end(open_page: Callable[..., Any], tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / f"{i}.jpg", (160, 120), (20 + 15 * i, 40)) for i in range(5)]
    with start_server(0.4, "max_wait=0.5") as server:
        page = open_page(f"http://127.0.0.1:{server.port}/")
        choose(page, *paths)
        expect(page.locator(".strip li[data-state=done]")).to_have_count(5, timeout=60_000)
        refused = [answer for answer in page.log["answers"] if answer.status == 429]
        assert refused
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert server.read_metric("resnext_images_total") == 5
