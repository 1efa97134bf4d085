"""The page in a real browser, against a stub of the server: what a visitor does, sees and hears."""

import base64
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.page_steps import (
    DETECTOR,
    EVIL,
    PHONE,
    choose,
    find_distance_of_heat,
    read_canvas,
    wait_for_answer,
    write_picture,
)
from tests.serving.page_stub import CELLS, CSP, PAGE, Model, Stub, find_region, write_problem

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

expect = playwright.expect
FIND_OUTLINE = """() => {
    const element = document.activeElement;
    const shown = element.matches("input") && element.offsetWidth < 2 ? element.parentElement : element;
    return element === document.body ? "" : getComputedStyle(shown).outlineStyle;
}"""


# B1: every way in


def give_by_picking(page: Any, path: Path) -> None:
    choose(page, path)


def give_by_keyboard(page: Any, path: Path) -> None:
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "files":
            break
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(path)


def give_by_camera(page: Any, path: Path) -> None:
    assert page.get_attribute("#camera", "capture") == "environment"
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Take a photo").tap()
    chooser.value.set_files(path)


def dispatch_file(page: Any, path: Path, event: str) -> None:
    script = """([data, name, event]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
        const init = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
        const kind = event === "paste" ? ClipboardEvent : DragEvent;
        document.body.dispatchEvent(new kind(event, init));
    }"""
    page.evaluate(script, [base64.b64encode(path.read_bytes()).decode(), path.name, event])


def give_by_dropping(page: Any, path: Path) -> None:
    dispatch_file(page, path, "dragover")
    expect(page.locator("#veil")).to_be_visible()
    dispatch_file(page, path, "drop")
    expect(page.locator("#veil")).to_be_hidden()


def give_by_pasting(page: Any, path: Path) -> None:
    dispatch_file(page, path, "paste")


@pytest.mark.parametrize(
    ("give", "options"),
    [
        (give_by_picking, {}),
        (give_by_keyboard, {}),
        (give_by_dropping, {}),
        (give_by_pasting, {}),
        (give_by_camera, PHONE),
    ],
)
def test_picture_reaches_the_model_unchanged_and_the_focus_goes_to_the_answer(
    give: Callable[..., None], options: dict[str, Any], visit: Callable[..., Any], stub: Stub, picture: Path
) -> None:
    page = visit(**options)
    expect(page.locator("#asked")).to_contain_text("1,000 classes")
    give(page, picture)
    wait_for_answer(page)
    assert [request.body for request in stub.requests] == [picture.read_bytes()]
    assert stub.requests[0].query == {"model": "resnext50", "top": "10", "explain": "1", "view": "1"}
    expect(page.locator(".verdict")).to_be_focused()
    expect(page.locator("#status")).to_have_text("resnext50: tabby, 62.0 %")
    rows = page.locator(".classes tbody tr:visible")
    assert [row.split("\n")[0].split("\t")[0] for row in rows.all_inner_texts()][:2] == ["tabby", "tiger cat"]
    assert rows.count() == 5
    bars = [bar.bounding_box()["width"] for bar in page.locator(".fill:visible").all()]
    assert bars[1] / bars[0] == pytest.approx(0.21 / 0.62, abs=0.01)


def test_picture_on_the_clipboard_is_pasted_by_its_keys(visit: Callable[..., Any], stub: Stub) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#asked")).to_contain_text("1,000 classes")
    page.evaluate("""async () => {
        const canvas = new OffscreenCanvas(40, 30);
        canvas.getContext("2d").fillRect(0, 0, 20, 30);
        const blob = await canvas.convertToBlob({ type: "image/png" });
        await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
    }""")
    page.keyboard.press("ControlOrMeta+v")
    wait_for_answer(page)
    (request,) = stub.requests
    with Image.open(io.BytesIO(request.body)) as image:
        assert image.size == (40, 30)


def test_everything_is_reached_by_keys_alone(visit: Callable[..., Any], stub: Stub, picture: Path) -> None:
    stub.models = [Model("resnext50"), DETECTOR]
    page = visit()
    expect(page.locator("#asked")).to_contain_text("1,000 classes")
    give_by_keyboard(page, picture)
    wait_for_answer(page)
    expect(page.locator(".verdict")).to_be_focused()
    reached, outlines = [], []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(document.activeElement.labels?.[0] ?? document.activeElement).innerText"))
        outlines.append(page.evaluate(FIND_OUTLINE))
    words = " | ".join(reached)
    for name in ("tabby", "Heat map", "Evidence against", "Copy as JSON", "Call this from code", "Side by side"):
        assert name in words, name
    assert [name for name, outline in zip(reached, outlines, strict=True) if outline == "none"] == []


def test_picture_keeps_its_place_while_the_answer_comes(visit: Callable[..., Any], stub: Stub, picture: Path) -> None:
    page = visit(reduced_motion="reduce")
    stub.gate.clear()
    choose(page, picture)
    expect(page.locator(".verdict")).to_have_text("Looking…")
    before = page.locator(".frame").bounding_box()
    assert before["width"] / before["height"] == pytest.approx(640 / 480, abs=0.01)
    assert page.evaluate("document.getAnimations().length") == 0
    stub.gate.set()
    wait_for_answer(page)
    assert page.locator(".frame").bounding_box() == before


# B3: weight, outside requests, console


@pytest.mark.parametrize("has_runs", [False, True])
def test_page_is_light_asks_nobody_else_and_leaves_the_console_empty(
    visit: Callable[..., Any], stub: Stub, picture: Path, has_runs: bool
) -> None:
    stub.has_runs = has_runs
    stub.models = [Model("resnext50"), DETECTOR]
    page = visit()
    expect(page.locator("#runs-link")).to_be_visible(visible=has_runs)
    choose(page, picture)
    wait_for_answer(page)
    page.get_by_label("Side by side").check()
    page.get_by_role("checkbox", name="cells").check()
    expect(page.locator(".verdict").nth(1)).to_have_text("5 objects")
    assert page.log["console"] == []
    inside = (stub.address, f"blob:{stub.address}", "data:image/png;base64,")
    assert [url for url in page.log["addresses"] if not url.startswith(inside)] == []
    served = {path for path in stub.paths if not path.startswith("/v1/")}
    names = {"index.html" if path == "/" else path.removeprefix("/static/") for path in served}
    assert {"index.html", "page.js", "page.css"} <= names
    assert sum(len((PAGE / name).read_bytes()) for name in names) <= 120_000
    assert "unsafe" not in CSP


# B4: the heat map lies on the object in the displayed picture


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((640, 480), {}),
        ((480, 640), {"upright": False}),
        ((1600, 200), {}),
        pytest.param((200, 1200), {}, marks=pytest.mark.slow),
    ],
    ids=["ordinary", "exif 6", "very wide", "very tall"],
)
def test_heat_map_lies_on_the_object(
    fit: str, size: tuple[int, int], options: dict[str, Any], visit: Callable[..., Any], stub: Stub, tmp_path: Path
) -> None:
    stub.models = [Model("resnext50", fit=fit)]
    region = find_region(fit, *size)
    at = (round(max(region[0], 0)) + 40, round(max(region[1], 0)) + 30)  # the upper left corner of what is seen
    page = visit(color_scheme="dark")  # nothing but the object is bright
    choose(page, write_picture(tmp_path / "corner.jpg", size, at, **options))
    wait_for_answer(page)
    cells = np.array([(region[2] - region[0]) / size[0], (region[3] - region[1]) / size[1]]) / CELLS
    distance = find_distance_of_heat(page) / cells
    assert distance.max() < 0.75, f"{distance} cells from the object"
    canvas = read_canvas(page)
    if fit == "crop":
        scale = canvas.shape[1] / size[0]
        assert canvas[-1, -1, 3] > 150  # greyed: the crop cut it off
        inside = canvas[int((region[3] - 9) * scale), int((region[2] - 9) * scale)]
        assert inside[3] == 0
    else:
        assert canvas[-1, -1, 3] == 0
        expect(page.locator("figcaption").first).to_contain_text("upper left")


def test_class_is_chosen_with_keys_and_the_overlay_follows(visit: Callable[..., Any], picture: Path) -> None:
    page = visit()
    choose(page, picture)
    wait_for_answer(page)
    first = read_canvas(page)
    page.get_by_role("button", name="tabby", exact=True).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    second = page.get_by_role("button", name="tiger cat")
    expect(second).to_be_focused()
    expect(second).to_have_attribute("aria-pressed", "true")
    expect(page.locator("figcaption").first).to_have_text("Evidence for tiger cat: strongest at lower left")
    assert not np.array_equal(read_canvas(page), first)
    page.get_by_label("Heat map").fill("0")
    assert (read_canvas(page)[..., 3] == 0).mean() > 0.4  # only the veil over the cut-off part is left


def test_signed_view_shows_evidence_against_in_blue(visit: Callable[..., Any], picture: Path) -> None:
    page = visit()
    choose(page, picture)
    wait_for_answer(page)
    assert read_canvas(page)[300, 400, 3] == 0  # negative evidence, not shown
    page.get_by_label("Evidence against").check()
    red, _, blue, opacity = read_canvas(page)[300, 400].astype(int)
    assert opacity > 0
    assert blue > red


# B5: busy, not ready, gone


@pytest.mark.parametrize(("status", "words"), [(429, "busy (429)"), (503, "not ready (503)")])
def test_busy_server_is_asked_again_after_its_wait(
    status: int, words: str, visit: Callable[..., Any], stub: Stub, picture: Path
) -> None:
    stub.replies["resnext50"] = [write_problem(status, "it has much to do", Retry_After="2")]
    page = visit()
    choose(page, picture)
    expect(page.locator(".notice.wait")).to_contain_text(
        f"The server is {words}: it has much to do. Trying again in 2 seconds."
    )
    expect(page.locator("#status")).to_contain_text("Trying again")
    expect(page.locator(".frame img")).to_be_visible()
    assert len(stub.requests) == 1
    wait_for_answer(page)
    expect(page.locator(".panel .notice")).to_be_hidden()
    assert [request.body for request in stub.requests] == [picture.read_bytes()] * 2


def test_server_that_is_gone_is_said_and_asked_again(visit: Callable[..., Any], stub: Stub, picture: Path) -> None:
    page = visit()
    expect(page.locator("#asked")).to_contain_text("1,000 classes")
    port = stub.stop()
    choose(page, picture)
    expect(page.locator(".notice.failure:visible")).to_contain_text("cannot be reached")
    expect(page.locator(".frame img")).to_be_visible()
    stub.start(port)
    page.get_by_role("button", name="Try again").click()
    wait_for_answer(page)
    expect(page.locator(".verdict")).to_be_focused()


def test_refusal_is_shown_in_the_servers_words(
    visit: Callable[..., Any], stub: Stub, picture: Path, tmp_path: Path
) -> None:
    stub.replies["resnext50"] = [write_problem(413, f"The picture has 21 MB; the limit is 20 MB. {EVIL}")]
    page = visit()
    choose(page, picture)
    expect(page.locator(".notice.failure:visible p")).to_have_text(f"The picture has 21 MB; the limit is 20 MB. {EVIL}")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.7")
    choose(page, tmp_path / "notes.pdf")
    expect(page.locator("#refusal")).to_have_text("Not a picture: notes.pdf")
    assert len(stub.requests) == 1


def test_token_is_asked_for_and_kept_for_the_session(visit: Callable[..., Any], stub: Stub, picture: Path) -> None:
    stub.token = "secret"
    page = visit()
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#server-words")).to_have_text("The server did not accept this token.")
    page.get_by_label("Token").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator("#server-notice")).to_be_hidden()
    choose(page, picture)
    wait_for_answer(page)
    assert stub.requests[-1].headers["Authorization"] == "Bearer secret"
    page.reload()
    expect(page.locator("#asked")).to_contain_text("1,000 classes")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


# B7: names are text


def test_names_are_shown_as_text(visit: Callable[..., Any], stub: Stub, tmp_path: Path) -> None:
    stub.models = [Model(EVIL, names=(EVIL, *Model("").names[1:])), Model("other")]
    page = visit()
    choose(page, write_picture(tmp_path / f"{EVIL}.jpg"), write_picture(tmp_path / "b.jpg"))
    wait_for_answer(page, EVIL)
    expect(page.locator(".panel h2")).to_have_text(EVIL)
    expect(page.locator("#current")).to_contain_text(f"{EVIL}.jpg")
    expect(page.get_by_role("button", name=EVIL, exact=True)).to_be_visible()
    expect(page.get_by_role("button", name=f"{EVIL}.jpg", exact=True)).to_be_visible()
    page.get_by_text("Call this from code").click()
    assert page.evaluate("[window.hacked, document.querySelectorAll('img[src=x]').length]") == [None, 0]


# B8: several models


def test_one_failing_model_does_not_hide_the_other(visit: Callable[..., Any], stub: Stub, picture: Path) -> None:
    stub.models = [Model("good"), Model("bad")]
    stub.replies["bad"] = [write_problem(500, "The network failed.")]
    page = visit("?model=good&model=bad")
    choose(page, picture)
    panels = page.locator(".panel")
    expect(panels.nth(0).locator(".verdict")).to_contain_text("tabby")
    expect(panels.nth(1).locator(".notice")).to_contain_text("The network failed.")
    boxes = [panel.locator(".frame").bounding_box() for panel in panels.all()]
    assert boxes[0]["width"] == boxes[1]["width"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    page.get_by_role("button", name="Try again").click()
    expect(panels.nth(1).locator(".verdict")).to_contain_text("tabby")
    assert [request.query["model"] for request in stub.requests].count("good") == 1
    page.get_by_role("checkbox", name="bad").uncheck()
    expect(panels).to_have_count(1)
    assert page.url.endswith("?model=good")
    page.get_by_label("Side by side").uncheck()
    page.get_by_role("radio", name="bad").check()  # one instead of the other; its answer is still known
    expect(page.locator(".panel h2")).to_have_text("bad")
    wait_for_answer(page)
    assert len(stub.requests) == 3


# Detection, several pictures, copies


def test_boxes_follow_the_score_in_the_colours_of_their_classes(
    visit: Callable[..., Any], stub: Stub, picture: Path
) -> None:
    stub.models = [DETECTOR]
    page = visit()
    choose(page, picture)
    rows = page.locator(".classes tbody tr:visible")
    wait_for_answer(page, "5 objects")
    expect(rows).to_have_count(5)
    assert stub.requests[0].query == {"model": "cells", "score": "0.05", "view": "1"}
    page.get_by_label("Score at least").fill("0.9")
    wait_for_answer(page, "1 object")
    expect(rows).to_have_count(1)
    canvas = read_canvas(page)
    x, y = 0.08, 0.3 + 0.26 / 2  # on the left edge of the first box
    column = canvas[round(y * canvas.shape[0]), round(x * canvas.shape[1])]
    assert column.tolist() == [0x00, 0x72, 0xB2, 255]
    assert (canvas[..., 3] > 0).mean() < 0.05  # nothing else is drawn


def test_several_pictures_are_answered_and_kept(visit: Callable[..., Any], stub: Stub, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / f"{i}.jpg", at=(150 + 60 * i, 90)) for i in range(6)]
    page = visit()
    choose(page, *paths)
    items = page.locator(".strip li")
    expect(items).to_have_count(6)
    expect(page.locator(".strip li[data-state=done]")).to_have_count(6)
    assert sorted(request.body for request in stub.requests) == sorted(path.read_bytes() for path in paths)
    page.get_by_role("button", name="4.jpg", exact=True).click()
    expect(page.locator("#current")).to_contain_text("4.jpg")
    items.nth(4).hover()
    page.get_by_role("button", name="Remove 4.jpg").click()
    expect(items).to_have_count(5)
    expect(page.locator("#current")).to_contain_text("5.jpg")
    assert len(stub.requests) == 6


def test_result_and_code_can_be_copied(visit: Callable[..., Any], stub: Stub, picture: Path) -> None:
    stub.models = [Model('it\'s a "model"')]
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    choose(page, picture)
    wait_for_answer(page)
    page.get_by_role("button", name="Copy as JSON").click()
    copy = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copy["predictions"][0]["name"] == "one.jpg"
    assert copy["predictions"][0]["top"][0] == {"class": "tabby", "index": 10, "probability": 0.62}
    page.get_by_text("Call this from code").click()
    curl, python = page.locator("pre").all_inner_texts()
    words = shlex.split(curl)
    assert words[:3] == ["curl", "-F", "file=@picture.jpg"]
    assert words[3] == f"{stub.address}v1/predict?model=it%27s+a+%22model%22&top=5"
    compile(python, "snippet", "exec")
    assert f'"{stub.address}v1/predict"' in python
