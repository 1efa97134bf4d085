"""Measure the pages of ``resnext serve`` in Chromium: one row for each figure of the tests B1 to B8.

    python tools/measure_browser.py --out results/browser.csv

The models are networks whose class activation maps are known (tests/serving/known_network.py), exported and served as
any other; a busy and a stopped server are those of the tests. Times depend on what else the machine does: the load
average is in the table.
"""

import argparse
import base64
import csv
import io
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from PIL import Image
from playwright.sync_api import Page, Response, expect
from show_server import open_chromium, serve

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.serving.known_network import CELLS, export_known_network  # noqa: E402
from tests.serving.page_steps import EVIL, PHONE, choose, find_distance_of_heat, write_picture  # noqa: E402
from tests.serving.page_stub import Model, Stub, write_problem  # noqa: E402
from tests.serving.processes import start_server  # noqa: E402
from tests.serving.test_routes_runs import make_run, write_owner  # noqa: E402

from resnext.settings import CropMode  # noqa: E402

FITS: tuple[CropMode, ...] = ("crop", "squash", "pad")
SCREEN = {"viewport": {"width": 1280, "height": 800}}
REPEATS = 10
STEPS = 1_000_000
POLLING_SECONDS = 20
TIME_TO_BARS = """async ([data, way]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
    const bars = new Promise((resolve) => {
        const look = () => {
            if (!document.querySelector(".classes .fill")) return;
            observer.disconnect();
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now()))); // after it was painted
        };
        const observer = new MutationObserver(look);
        observer.observe(document.getElementById("results"), { childList: true, subtree: true });
    });
    const start = performance.now();
    if (way === "pick") {
        document.getElementById("files").files = transfer.files;
        document.getElementById("files").dispatchEvent(new Event("change"));
    } else {
        const init = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
        document.body.dispatchEvent(way === "paste" ? new ClipboardEvent(way, init) : new DragEvent(way, init));
    }
    return (await bars) - start;
}"""


class Row(NamedTuple):
    """One figure."""

    test: str
    what: str
    value: float
    unit: str
    to_reach: str


class Site(NamedTuple):
    """What the measurements share: Chromium, the server of the known networks, and a folder to write in."""

    browser: Any
    address: str
    process: int
    folder: Path


def main() -> None:
    """Measure everything and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("browser.csv"), help="CSV to write")
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = [f"{fit}={export_known_network(folder / f'{fit}.onnx', ('bright', EVIL), fit)}" for fit in FITS]
        make_run(folder / "runs" / "short", steps=500)
        served = serve(*models, "--runs", str(folder / "runs"))
        with served as (address, process), open_chromium() as browser:
            site = Site(browser, address, process, folder)
            for measure in (
                measure_time_to_bars,
                count_violations,
                measure_weight,
                measure_alignment,
                measure_refusals,
                measure_live_points,
                measure_long_run,
                count_elements_of_names,
                count_panels,
            ):
                for row in measure(site):
                    print(*row, sep="  ", flush=True)
                    rows.append(row)
    about = {"load": f"{os.getloadavg()[1]:.1f}", "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*Row._fields, *about), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row._asdict(), "value": format_value(row.value), **about} for row in rows)


def format_value(value: float) -> str:
    """Format a count as it is, anything else with three digits."""
    return str(int(value)) if value == int(value) else f"{value:.3g}"


class Watch:
    """What the server answers to a page, and what the page writes on its console."""

    def __init__(self, page: Page) -> None:
        self.answers: list[Response] = []
        self.lines: list[str] = []
        page.on("response", self.keep_answer)
        page.on("console", lambda message: self.lines.append(message.text))
        page.on("pageerror", lambda error: self.lines.append(str(error)))

    def keep_answer(self, answer: Response) -> None:
        """Keep an answer."""
        self.answers.append(answer)

    def list_sizes(self) -> list[int]:
        """List the bytes that the answers were sent as."""
        return [int(answer.headers.get("content-length", 0)) for answer in self.answers]


def open_page(site: Site, address: str, **options: Any) -> Page:
    """Open an address in a page of its own."""
    page: Page = site.browser.new_page(**{**SCREEN, **options})
    page.goto(address)
    return page


def open_watched(site: Site, address: str) -> tuple[Page, Watch]:
    """Open an address in a page that is watched from the start."""
    page: Page = site.browser.new_page(**SCREEN)
    watch = Watch(page)
    page.goto(address)
    return page, watch


def measure_time_to_bars(site: Site) -> Iterator[Row]:
    """Measure from the event that brings a photo to the bars on the screen, without the server's own time."""
    data = base64.b64encode(make_photo()).decode()
    for way in ("drop", "paste", "pick"):
        times = []
        for _ in range(REPEATS):
            page = open_page(site, site.address)
            expect(page.locator("#asked")).to_contain_text("classes")
            milliseconds = page.evaluate(TIME_TO_BARS, [data, way])
            times.append(milliseconds - float(page.locator(".timings .total dd").inner_text().split()[0]))
            page.close()
        yield Row(
            "B1", f"{way}: until the bars, minus service, median of {REPEATS}", statistics.median(times), "ms", "300"
        )
        yield Row("B1", f"{way}: the slowest", max(times), "ms", "")


def make_photo() -> bytes:
    """Return a JPEG of 500 x 375 pixels and about 100 kB, as photos have."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (150, 200, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def count_violations(site: Site) -> Iterator[Row]:
    """Count what axe-core calls serious or critical: start, answers, runs; light and dark, on a screen and a phone."""
    states = violations = 0
    picture = write_picture(site.folder / "axe.jpg")
    for scheme in ("light", "dark"):
        for size in (SCREEN, PHONE):
            for path in ("", "?" + "&".join(f"model={fit}" for fit in FITS), "runs"):
                page = open_page(site, site.address + path, color_scheme=scheme, bypass_csp=True, **size)
                page.locator(".chart.tall .u-over" if path == "runs" else "#asked:has-text('classes')").wait_for()
                if path.startswith("?"):
                    choose(page, picture)
                    expect(page.locator(".classes")).to_have_count(len(FITS))
                found = Axe().run(page).response["violations"]
                violations += sum(one["impact"] in ("serious", "critical") for one in found)
                states += 1
                page.close()
    yield Row("B2", f"serious or critical violations in {states} states", violations, "", "0")


def measure_weight(site: Site) -> Iterator[Row]:
    """Measure both pages' files, and count requests to elsewhere and lines on the console."""
    for path, ready in (("", "#asked:has-text('classes')"), ("runs", ".chart.tall .u-over")):
        page, watch = open_watched(site, site.address + path)
        page.locator(ready).wait_for()
        files = [answer for answer in watch.answers if "/v1/" not in answer.url]
        name = path or "predict"
        sent = sum(int(answer.headers["content-length"]) for answer in files)
        yield Row("B3", f"{name}: bytes sent (gzip)", sent, "B", "120000")
        yield Row("B3", f"{name}: bytes of the files", sum(len(answer.body()) for answer in files), "B", "")
        outside = [answer.url for answer in watch.answers if not answer.url.startswith(site.address)]
        yield Row("B3", f"{name}: requests to elsewhere", len(outside), "", "0")
        yield Row("B3", f"{name}: lines on the console, violations of the policy too", len(watch.lines), "", "0")
        page.close()


def measure_alignment(site: Site) -> Iterator[Row]:
    """Measure how far the heat map's peak lies from the only object, on the screen, in cells of the map."""
    cases: dict[str, tuple[tuple[int, int], tuple[int, int], dict[str, Any]]] = {
        "ordinary": ((640, 480), (150, 70), {}),
        "EXIF 6": ((480, 640), (90, 520), {"upright": False}),
        "very wide": ((1600, 200), (760, 45), {}),
    }
    for name, (size, at, options) in cases.items():
        page = open_page(site, site.address + "?" + "&".join(f"model={fit}" for fit in FITS), color_scheme="dark")
        choose(page, write_picture(site.folder / "corner.jpg", size, at, **options))
        expect(page.locator(".classes")).to_have_count(len(FITS))
        for panel, fit in enumerate(FITS):
            width, height = size
            side = {"crop": min(size) * 64 / 72, "pad": max(size)}.get(fit)
            cells = np.array([side or width, side or height]) / CELLS
            distance = find_distance_of_heat(page, panel) * size / cells
            yield Row("B4", f"{name}, {fit}: peak to object", float(distance.max()), "cells of 16", "1")
        page.close()


def measure_refusals(site: Site) -> Iterator[Row]:
    """Count what a busy server refuses and what it answers in the end; restart a stopped one."""
    paths = [write_picture(site.folder / f"{i}.jpg", (160, 120), (20 + 15 * i, 40)) for i in range(5)]
    with start_server(0.4, "max_wait=0.5") as server:
        page, watch = open_watched(site, f"http://127.0.0.1:{server.port}/")
        choose(page, *paths)
        done = page.locator(".strip li[data-state=done]")
        expect(done).to_have_count(5, timeout=60_000)
        refused = [answer for answer in watch.answers if answer.status == 429]
        yield Row("B5", "busy server: requests refused with 429", len(refused), "", "")
        yield Row("B5", "busy server: pictures answered in the end, of 5", done.count(), "", "5")
        page.close()
    stub = Stub()
    stub.start()
    page = open_page(site, stub.address)
    expect(page.locator("#asked")).to_contain_text("classes")
    port = stub.stop()
    choose(page, paths[0])
    expect(page.locator(".notice.failure:visible")).to_contain_text("cannot be reached")
    stub.start(port)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".classes")).to_have_count(1)
    yield Row("B5", "server gone and back: the picture answered, of 1", page.locator(".classes").count(), "", "1")
    page.close()
    stub.stop()


def measure_live_points(site: Site) -> Iterator[Row]:
    """Measure from a point on the disk to the point on the page, which polls every 2 s."""
    run = site.folder / "runs" / "short"
    write_owner(run, os.getpid())
    page = open_page(site, f"{site.address}runs#runs=short&smooth=0")
    page.locator(".chart.tall .u-over").wait_for()
    times = []
    for i in range(REPEATS):
        page.wait_for_timeout(370 * i % 2000)  # at any time between two polls
        loss = 0.25 + i / 8
        with open(run / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "step", "step": 501 + i, "epoch": 2, "loss": loss, "lr": 0.1}) + "\n")
        start = time.monotonic()
        readout = "text => document.querySelector('.chart.tall .readout b')?.textContent === text"
        page.wait_for_function(readout, arg=f"{loss:.4g}", timeout=30_000)
        times.append(time.monotonic() - start)
    yield Row("B6", f"new point on the page, median of {REPEATS}", statistics.median(times), "s", "")
    yield Row("B6", "new point on the page, the slowest", max(times), "s", "4")
    page.close()


def measure_long_run(site: Site) -> Iterator[Row]:
    """Measure the page of a run of a million steps."""
    run = make_run(site.folder / "runs" / "long")
    write_owner(run, os.getpid())
    with open(run / "log.jsonl", "w", encoding="utf-8") as file:
        for step in range(1, STEPS + 1):
            values = {
                "kind": "step",
                "step": step,
                "epoch": 1 + step // 1000,
                "loss": 2 + math.sin(step) / 3,
                "lr": 1 / step,
            }
            file.write(json.dumps(values) + "\n")
    for visit in ("first", "second"):
        start = time.monotonic()
        page, watch = open_watched(site, f"{site.address}runs#runs=long&axis=step")
        page.locator(".chart.tall .u-over").wait_for(timeout=60_000)
        seconds = time.monotonic() - start
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        yield Row("B6", f"{STEPS:,} steps, {visit} visit: first paint", paint, "s", "1")
        yield Row("B6", f"{STEPS:,} steps, {visit} visit: first curve", seconds, "s", "")
        page.locator(".chart.tall .plot").focus()
        while page.locator(".chart.tall .position").inner_text() != f"step {STEPS:,}":
            page.keyboard.press("ArrowRight")  # at most to the last point
            page.wait_for_timeout(500)
        yield Row("B6", f"{STEPS:,} steps, {visit} visit: largest answer", max(watch.list_sizes()), "B", "200000")
        if visit == "second":
            before = read_cpu_seconds(site.process)
            page.wait_for_timeout(1000 * POLLING_SECONDS)
            share = 100 * (read_cpu_seconds(site.process) - before) / POLLING_SECONDS
            yield Row("B6", f"{STEPS:,} steps: server's share of a core while a page polls", share, "%", "2")
        page.close()


def read_cpu_seconds(process: int) -> float:
    """Read the seconds that a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def count_elements_of_names(site: Site) -> Iterator[Row]:
    """Count the elements that names with HTML in them became."""
    page = open_page(site, site.address)
    choose(page, write_picture(site.folder / f"{EVIL}.jpg"))
    expect(page.get_by_text(EVIL, exact=True).first).to_be_visible()
    found = page.locator("img[src=x]").count() + int(page.evaluate("window.hacked ?? 0"))
    yield Row("B7", "elements and scripts made of a class name and a file name", found, "", "0")
    page.close()


def count_panels(site: Site) -> Iterator[Row]:
    """Count the panels of two models of which one fails."""
    stub = Stub(models=[Model("good"), Model("bad")])
    stub.replies["bad"] = [write_problem(500, "The network failed.")]
    stub.start()
    page = open_page(site, f"{stub.address}?model=good&model=bad")
    choose(page, write_picture(site.folder / "two.jpg"))
    expect(page.locator(".panel .notice:visible")).to_have_count(1)
    expect(page.locator(".classes")).to_have_count(1)
    yield Row("B8", "panels with an answer while the other model fails", page.locator(".classes").count(), "", "1")
    page.close()
    stub.stop()


if __name__ == "__main__":
    main()
