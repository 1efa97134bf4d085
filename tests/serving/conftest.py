"""Fixtures of the tests in a browser: Chromium, the stub of the server, and a page that is open."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.page_steps import write_picture
from tests.serving.page_stub import Stub

VIOLATIONS = "document.addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective));"


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    stub.start()
    yield stub
    stub.gate.set()
    stub.stop()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address; options are those of a browser context. ``page.log`` has console, errors, requests, answers."""
    contexts = []

    def open_address(address: str, script: str = "", **options: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(8000)
        page.log = {"console": [], "addresses": [], "answers": []}
        page.on("console", lambda message: page.log["console"].append(message.text))
        page.on("pageerror", lambda error: page.log["console"].append(str(error)))
        page.on("request", lambda request: page.log["addresses"].append(request.url))
        page.on("response", lambda answer: page.log["answers"].append(answer))
        page.on("filechooser", lambda _: None)  # intercepted from the start: later, a key may come first
        page.add_init_script(VIOLATIONS + script)
        page.goto(address)
        return page

    yield open_address
    for context in contexts:
        context.close()


@pytest.fixture
def visit(open_page: Callable[..., Any], stub: Stub) -> Callable[..., Any]:
    """Open the page of the stub, with a query."""
    return lambda query="", **options: open_page(stub.address + query, **options)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return write_picture(tmp_path / "one.jpg")
