"""Every state of the page is accessible, and fits a phone (B2)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving.page_steps import DETECTOR, PHONE, choose, wait_for_answer
from tests.serving.page_stub import Model, Stub, write_problem

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def show_nothing(page: Any, stub: Stub, picture: Path) -> None:  # noqa: ARG001
    expect(page.locator("#asked")).to_contain_text("classes")


def show_classes(page: Any, stub: Stub, picture: Path) -> None:  # noqa: ARG001
    choose(page, picture, picture)
    wait_for_answer(page)
    page.get_by_label("Evidence against").check()
    page.get_by_text("Where it comes from").click()
    page.get_by_text("Call this from code").click()


def show_boxes(page: Any, stub: Stub, picture: Path) -> None:  # noqa: ARG001
    page.get_by_role("radio", name="cells").check()
    choose(page, picture)
    wait_for_answer(page, "5 objects")


def show_waiting(page: Any, stub: Stub, picture: Path) -> None:
    stub.replies["resnext50"] = [write_problem(429, "Later.", Retry_After="60")]
    choose(page, picture)
    expect(page.locator(".notice.wait")).to_be_visible()


def show_refusal(page: Any, stub: Stub, picture: Path) -> None:
    stub.replies["cells"] = [write_problem(422, "The picture is broken.")]
    page.get_by_label("Side by side").check()
    page.get_by_role("checkbox", name="cells").check()
    choose(page, picture)
    expect(page.locator(".notice.failure:visible")).to_be_visible()
    wait_for_answer(page)


def show_token(page: Any, stub: Stub, picture: Path) -> None:  # noqa: ARG001
    stub.token = "secret"
    page.reload()
    expect(page.locator("#token")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["screen", "phone"])
@pytest.mark.parametrize(
    "show",
    [
        show_nothing,
        show_classes,
        pytest.param(show_boxes, marks=pytest.mark.slow),
        pytest.param(show_waiting, marks=pytest.mark.slow),
        pytest.param(show_refusal, marks=pytest.mark.slow),
        pytest.param(show_token, marks=pytest.mark.slow),
    ],
)
def test_every_state_is_accessible_and_fits_the_screen(
    show: Callable[..., None], phone: bool, scheme: str, visit: Callable[..., Any], stub: Stub, picture: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    stub.has_runs = True
    stub.models = [Model("resnext50"), DETECTOR]
    page = visit(color_scheme=scheme, **(PHONE if phone else {}))
    show(page, stub, picture)
    violations = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
