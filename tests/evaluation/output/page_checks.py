"""What every page that is written as a file must hold on a phone: checked in a browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
LONG_NAMES = (
    "Gemeiner_Rosskastanienminiermottenbefall",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "日本語のとても長いクラス名前です植物学のための名前です",
    "🌻 Sonnenblume mit Bienen 🐝",
    "زهرة الشمس الجميلة في الحديقة",
    "x",
)
# texts that leave the window although no box of their own scrolls, or that a box cuts off
FIND_CUT_TEXTS = """() => {
  const cut = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, range = document.createRange();
    if (!node.data.trim() || node.parentElement.closest('.heads')) continue;
    range.selectNodeContents(node);
    const rectangles = [...range.getClientRects()];
    let [low, high, scrolls] = [0, innerWidth, false];
    for (let box = node.parentElement; box; box = box.parentElement) {
      const style = getComputedStyle(box), own = box.getBoundingClientRect();
      if (style.textOverflow === 'ellipsis') cut.push(node.data);
      if (['auto', 'scroll'].includes(style.overflowX)) { scrolls = true; break; }
      if (!['hidden', 'clip'].includes(style.overflowX)) continue;
      [low, high] = [Math.max(low, own.left), Math.min(high, own.right)];
    }
    if (!scrolls && rectangles.some((r) => r.width && (r.left < low - 1 || r.right > high + 1))) cut.push(node.data);
  }
  return cut;
}"""


@contextmanager
def open_file(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    """Open a page from the disk."""
    context = browser.new_context(**options, bypass_csp=True)  # axe is a script, which the page's policy forbids
    page = context.new_page()
    page.goto(path.as_uri())
    yield page
    context.close()


def check_layout(page: Any, width: int) -> None:
    """Check that the page is no wider than its window, and that no text is cut, with all its parts unfolded."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(FIND_CUT_TEXTS) == []


def check_accessibility(page: Any) -> None:
    """Check that axe finds nothing serious."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    violations = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")] == []
