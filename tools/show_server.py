"""Take the screenshots of the pages of ``resnext serve`` that the documentation shows.

    python tools/show_server.py cifar=cifar.onnx cells=cells.onnx --runs runs --picture cat.jpg --cells blood.jpg

The first model is a classifier with class activation maps; the model called "cells", a detector, is shown with --cells.
Chromium is that of the system, moved by Playwright. Pictures are written as WebP. Look at each, no test sees what is
ugly; serve-page, serve-boxes and serve-runs belong into docs/pictures.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
LARGEST = 150_000  # bytes of a picture in the documentation
SCREEN = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
DARK = {"color_scheme": "dark"}
DETECTOR = "cells"


def main() -> None:
    """Serve the models and take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="as for resnext serve")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="training runs to show")
    parser.add_argument("--picture", type=Path, required=True, help="picture for the classifiers")
    parser.add_argument("--cells", type=Path, help="picture for the detector")
    parser.add_argument("--out", type=Path, default=Path("screenshots"), metavar="DIR")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = [model.partition("=")[0] for model in args.models]
    classifiers = [name for name in names if name != DETECTOR]
    with serve(*args.models, "--runs", str(args.runs)) as (address, _), open_chromium() as browser:

        def take(name: str, page: Page, full: bool = False) -> None:
            save(page.screenshot(full_page=full, animations="disabled"), args.out / f"{name}.webp")
            page.close()

        take("serve-page", show(browser, f"{address}?model={classifiers[0]}", args.picture, **SCREEN))
        take(
            "serve-phone", show(browser, f"{address}?model={classifiers[0]}", args.picture, **PHONE, **DARK), full=True
        )
        beside = "&".join(f"model={name}" for name in classifiers[:2])
        take("serve-beside", show(browser, f"{address}?{beside}", args.picture, **SCREEN))
        if args.cells is not None:
            take("serve-boxes", show(browser, f"{address}?model={DETECTOR}", args.cells, **SCREEN))
        take("serve-start", show(browser, address, None, **SCREEN))
        for name, options in (("serve-runs", SCREEN), ("serve-runs-phone", {**PHONE, **DARK})):
            take(name, show_runs(browser, f"{address}runs", **options), full=name.endswith("phone"))


def show(browser: Any, address: str, picture: Path | None, **options: Any) -> Page:
    """Open the page, give it a picture, and wait for the answers."""
    page: Page = browser.new_page(**options)
    page.goto(address)
    expect(page.locator("#asked")).to_contain_text("class")
    if picture is None:
        return page
    page.set_input_files("#files", picture)
    expect(page.locator(".verdict.pending")).to_have_count(0)
    expect(page.locator(".verdict").first).to_be_visible()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_load_state("networkidle")
    return page


def show_runs(browser: Any, address: str, **options: Any) -> Page:
    """Open the page of runs with the first two chosen, and wait for their curves."""
    page: Page = browser.new_page(**options)
    page.goto(address)
    boxes = page.locator("#run-list input")
    boxes.first.wait_for()
    for box in boxes.all()[:2]:
        box.check()
    page.locator(".chart.tall .u-over").wait_for()
    page.wait_for_timeout(3000)  # a poll
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    return page


def save(shot: bytes, path: Path) -> None:
    """Write a screenshot as WebP of at most LARGEST bytes."""
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    for quality in (92, 85, 75, 60):
        image.save(path, quality=quality, method=6)
        if path.stat().st_size <= LARGEST:
            break
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size:,} bytes, quality {quality}")


@contextmanager
def serve(*arguments: str) -> Iterator[tuple[str, int]]:
    """Run ``resnext serve`` on a free port; yield its address, with a slash, and the number of its process."""
    command = [sys.executable, "-m", "resnext", "serve", *arguments, "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            while not (line := server.stdout.readline()).startswith("http"):
                if not line:
                    sys.exit("the server did not start")
            yield line.split()[0] + "/", server.pid
        finally:
            server.terminate()


@contextmanager
def open_chromium() -> Iterator[Any]:
    """Start the system's Chromium without a window, and without a network."""
    with sync_playwright() as manager:
        blocked = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        path = shutil.which("chromium") or sys.exit("chromium is not installed")
        browser = manager.chromium.launch(executable_path=path, args=["--no-sandbox", blocked])
        yield browser
        browser.close()


if __name__ == "__main__":
    main()
