"""The page of runs in a browser: live points, no ghosts, nothing from elsewhere, usable by keyboard and on a phone."""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.serving.runs_server import serve_runs
from tests.serving.test_routes_runs import PNG, make_run, write_owner

sync_api = pytest.importorskip("playwright.sync_api")


class Site:
    """A folder of runs, its server, and pages that fail the test on an error or a request to elsewhere."""

    def __init__(self, browser: Any, folder: Path, held: ExitStack) -> None:
        self.browser, self.folder, self.held = browser, folder, held
        self.paths: list[str] = []
        self.problems: list[str] = []
        self.url = held.enter_context(serve_runs(folder, self.paths))

    def open(self, choice: str = "", url: str = "", **options: Any) -> Any:
        """Open the page and wait for its list."""
        context = self.browser.new_context(**options)
        self.held.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: self.problems.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda request: self.check_place(request.url))
        page.goto((url or self.url) + choice)
        return page

    def check_place(self, url: str) -> None:
        """Note a request that leaves the server."""
        if not url.startswith((self.url.removesuffix("runs"), "blob:")):
            self.problems.append(f"asked for {url}")


@pytest.fixture
def site(browser: Any, tmp_path: Path) -> Iterator[Site]:
    """A site with an empty folder."""
    (tmp_path / "runs").mkdir()
    with ExitStack() as held:
        site = Site(browser, tmp_path / "runs", held)
        yield site
        assert site.problems == []


def append(run: Path, *rows: dict[str, Any]) -> None:
    """Append rows to a log."""
    with open(run / "log.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_step(step: int, loss: float) -> dict[str, Any]:
    """Return the row of a step."""
    return {"kind": "step", "step": step, "epoch": 1, "loss": loss, "lr": 0.1}


def wait_for_loss(page: Any, text: str) -> None:
    """Wait until the chart of the training loss ends with a value."""
    page.wait_for_function("t => document.querySelector('.chart.tall .readout b')?.textContent === t", arg=text)


def test_a_new_point_appears_while_the_page_is_open(site: Site) -> None:
    run = make_run(site.folder / "a", steps=4)
    write_owner(run, os.getpid())
    page = site.open("#smooth=0")
    wait_for_loss(page, "2")
    assert page.locator(".pill").inner_text() == "running"
    append(run, write_step(5, 0.125))
    wait_for_loss(page, "0.125")
    assert "loss 0.125" in page.locator(".values").inner_text()
    assert page.locator(".age").inner_text().startswith("last point ")


def test_a_resume_that_cuts_leaves_no_ghost(site: Site) -> None:
    run = make_run(site.folder / "a", steps=40)
    write_owner(run, os.getpid())
    page = site.open("#smooth=0&axis=step")
    wait_for_loss(page, "2")
    page.locator(".chart.tall .plot").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".chart.tall .position").inner_text() == "step 40"
    page.mouse.move(0, 0)
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)[:10]
    (run / "part").write_text("".join(lines) + json.dumps(write_step(11, 7.5)) + "\n")
    os.replace(run / "part", run / "log.jsonl")
    wait_for_loss(page, "7.5")
    page.locator(".chart.tall .plot").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".chart.tall .position").inner_text() == "step 11"


@pytest.mark.slow
def test_a_million_steps_come_in_small_answers_and_a_resume_in_their_middle_leaves_no_ghost(site: Site) -> None:
    run = make_run(site.folder / "a")
    write_owner(run, os.getpid())
    lines = [
        json.dumps({"kind": "step", "step": s, "epoch": 1 + s // 1000, "loss": 2 + math.sin(s) / 3, "lr": 0.1 / s})
        + "\n"
        for s in range(1, 1_000_001)
    ]
    (run / "log.jsonl").write_text("".join(lines))
    page = site.open("#smooth=0&axis=step")
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
    page.reload()
    read_last_step(page, "step 1,000,000")
    asked = len(sizes)
    assert max(sizes) <= 200_000
    append(run, write_step(1_000_001, 0.125))
    wait_for_loss(page, "0.125")
    assert max(sizes[asked:]) < 5_000  # only what is new
    (run / "part").write_text("".join(lines[:500_000]) + json.dumps(write_step(500_001, 7.5)) + "\n")
    os.replace(run / "part", run / "log.jsonl")
    wait_for_loss(page, "7.5")
    read_last_step(page, "step 500,001")
    assert max(sizes) <= 200_000


def read_last_step(page: Any, words: str) -> None:
    """Wait until the last point of the chart of the training loss is at a step."""
    plot = page.locator(".chart.tall .plot")
    plot.wait_for()
    for _ in range(100):
        plot.focus()
        page.keyboard.press("ArrowRight")  # at most to the last point
        if page.locator(".chart.tall .position").inner_text() == words:
            return
        plot.blur()
        page.wait_for_timeout(300)
    assert page.locator(".chart.tall .position").inner_text() == words


def test_a_run_that_begins_is_found_and_a_removed_one_goes(site: Site) -> None:
    page = site.open()
    page.get_by_text("No runs in this folder yet").wait_for()
    make_run(site.folder / "new")
    page.get_by_role("checkbox", name="new, interrupted").wait_for()
    shutil.rmtree(site.folder / "new")
    page.get_by_role("checkbox", name="new, interrupted").wait_for(state="detached")


def test_runs_are_compared_by_what_differs(site: Site) -> None:
    make_run(site.folder / "a", recipe="train: {epochs: 4, seed: 1}\noptimizer: {lr: 0.1}\n")
    make_run(site.folder / "b", epochs=2, recipe="train: {epochs: 4, seed: 1}\noptimizer: {lr: 0.05}\n")
    page = site.open("#runs=a")
    page.get_by_role("checkbox", name="b, interrupted").check()
    page.locator("#settings-table td").first.wait_for()
    rows = page.locator("#settings-table tbody tr")
    assert rows.count() == 1
    assert rows.inner_text().split() == ["optimizer.lr", "0.1", "0.05"]
    assert page.locator("#results-table tbody tr").count() == 2
    page.locator(".chart.tall .readout li").nth(1).wait_for()
    assert "runs=a%2Cb" in page.url
    page.get_by_role("checkbox", name="a, interrupted").uncheck()
    page.locator("#settings-table table").wait_for(state="detached")


def test_names_are_shown_as_text(site: Site) -> None:
    name = "<img src=x onerror=alert(1)>"
    make_run(site.folder / name, recipe=f"model: {{name: '{name}'}}\n")
    page = site.open()
    page.locator("#results-table td").first.wait_for()
    assert page.locator(".run-title").inner_text() == name
    assert page.locator("#results-table td").first.inner_text() == name
    assert page.locator("img[src=x]").count() == 0


def test_pictures_and_the_report_of_a_run_are_shown(site: Site) -> None:
    run = make_run(site.folder / "a")
    (run / "evaluation").mkdir()
    dot = bytes.fromhex(
        "0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
    )
    (run / "evaluation" / "worst.png").write_bytes(PNG + dot)
    (run / "report.html").write_text(
        "<title>mine</title><style>body{color:red}</style><script>document.title='bad'</script>"
    )
    page = site.open()
    page.wait_for_function("() => document.querySelector('figure img')?.naturalWidth === 1")
    with page.expect_popup() as popup:
        page.get_by_role("link", name="Report").click()
    popup.value.wait_for_load_state()
    assert popup.value.title() == "mine"


def test_the_token_is_asked_for_and_used_for_pictures_too(browser: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a")
    (run / "report.html").write_text("report")
    paths: list[str] = []
    with serve_runs(tmp_path / "runs", paths, token="secret") as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_label("Token").fill("secret")
        page.get_by_role("button", name="Use this token").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the report").click()
        assert Path(download.value.path()).read_text() == "report"
        assert page.locator("#server-notice").is_hidden()
        page.close()


def test_a_page_says_that_the_server_is_gone_and_goes_on_when_it_is_back(browser: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a")
    with ExitStack() as held:
        page = browser.new_page()
        held.callback(page.close)
        with serve_runs(tmp_path / "runs", []) as url:
            page.goto(url + "#smooth=0")
            wait_for_loss(page, "2")
        page.get_by_text("The server cannot be reached").wait_for()
        append(run, write_step(6, 0.5))
        held.enter_context(serve_runs(tmp_path / "runs", [], port=int(url.split(":")[2].split("/")[0])))
        wait_for_loss(page, "0.5")
        assert page.locator("#server-notice").is_hidden()


def test_dragging_and_keys_zoom_and_all_is_shown_again(site: Site) -> None:
    make_run(site.folder / "a", steps=100)
    page = site.open()
    wait_for_loss_chart = page.locator(".chart.tall .u-over")
    wait_for_loss_chart.wait_for()
    box = wait_for_loss_chart.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 50, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Show all").wait_for()
    assert page.get_by_label("Show", exact=True).input_value() == "chosen"
    page.get_by_role("button", name="Show all").click()
    page.get_by_role("button", name="Show all").wait_for(state="hidden")
    page.locator(".chart.tall .plot").focus()
    page.keyboard.press("+")
    page.get_by_role("button", name="Show all").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Show all").wait_for(state="hidden")


def test_a_hidden_tab_asks_for_nothing(site: Site) -> None:
    make_run(site.folder / "a")
    page = site.open()
    page.locator(".chart.tall .u-over").wait_for()
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_timeout(500)
    before = len(site.paths)
    page.wait_for_timeout(3000)
    assert len(site.paths) == before
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(500)
    assert len(site.paths) > before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (320, 640)])
def test_the_page_fits_its_window_and_axe_finds_nothing_serious(
    site: Site, scheme: str, width: int, height: int
) -> None:
    for name in ("a", "sweep/with-a-rather-long-name-of-a-run-0.1"):
        make_run(site.folder / name, steps=50, epochs=3, recipe=f"model: {{name: {name}}}\ntrain: {{epochs: 4}}\n")
    page = site.open("#axis=epoch", viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True)
    page.locator(".chart.tall .u-over").wait_for()
    for box in page.get_by_role("checkbox").all()[:2]:
        box.check()
    page.locator("#settings-table td").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    violations = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")] == []


def test_series_are_smoothed_and_converted_as_a_loop_does() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    page = Path(__file__).parents[2] / "src" / "resnext" / "serving" / "page"
    script = f"""
import {{ RunSeries, smooth }} from {json.dumps((page / "run_series.js").as_uri())};
const run = new RunSeries("a");
const answer = {{generation: "g", after: 0, next: 9, more: false, mean: null, steps: {{step: [1, 2], loss: [4, 2]}},
  rate: {{step: [1, 2], lr: [1, 1]}}, epochs: {{epoch: [1, 2], step: [10, 20], ap: [null, 0.5]}},
  speed: {{epoch: [1, 2], seconds: [3600, 1800]}}}};
run.take(answer);
run.take({{...answer, after: 9, next: 12,
  steps: {{step: [3], loss: [null]}}, epochs: {{epoch: [3], step: [30], ar: [1]}}}});
const hours = run.convertSteps("time");
console.log(JSON.stringify([run.steps, run.epochs, run.listEpochs("ap", "epoch"),
  [0, 5, 10, 20, 30].map(hours), smooth([1, 2, 3, 4], [4, 2, null, 1], 0.5)]));
run.take({{...answer, generation: "h"}});
console.log(JSON.stringify(run.steps.step));
"""
    done = subprocess.run([node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first[0] == {"step": [1, 2, 3], "loss": [4, 2, None]}
    assert first[1] == {"epoch": [1, 2, 3], "step": [10, 20, 30], "ap": [None, 0.5, None], "ar": [None, None, 1]}
    assert first[2] == [[2], [0.5]]
    assert first[3] == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert first[4][0] == 4
    assert first[4][1] == pytest.approx((0.5 * 4 + 2) / 1.5)
    assert first[4][2] is None
    assert first[4][3] == pytest.approx((0.125 * 4 + 0.25 * 2 + 0.75 / 0.5) / (0.125 + 0.25 + 0.75 / 0.5))
    assert second == [1, 2]
