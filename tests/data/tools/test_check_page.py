"""The page of a data check: complete, self-contained, the same each time, and safe whatever names files have."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from resnext.data.tools import check_page
from resnext.data.tools.check_folder import check_image_folder
from resnext.data.tools.check_page import choose_pictures, write_check_page
from resnext.data.tools.findings import CheckReport
from resnext.settings import DataSettings
from tests.data.sources.test_image_folder import write_image

ODD = "<script>alert('ü')&amp;"


class Page(HTMLParser):
    """The elements of a page, the pictures in it, and whether all were closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.pictures, self.tags = [""], list[dict[str, str | None]](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def report(tmp_path: Path) -> CheckReport:
    for name, count in ((ODD, 30), ("dog", 3)):
        for number in range(count):
            write_image(
                tmp_path / f"data/{name}/patient{number // 3}_{number}.png", 100 * count + number, (40 + number, 50)
            )
    (tmp_path / "data/dog/patient0_1.png").write_bytes(b"")
    return check_image_folder(DataSettings(source="folder", path=str(tmp_path / "data")), workers=1)


def test_the_page_has_classes_sizes_pictures_findings_and_advice(tmp_path: Path, report: CheckReport) -> None:
    write_check_page(tmp_path / "page.html", report)
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.open == [""]
    assert "script" not in page.tags
    assert len(page.pictures) == check_page.MOST_PER_CLASS + 2
    assert all(str(picture["src"]).startswith("data:image/jpeg;base64,") for picture in page.pictures)
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing is loaded from elsewhere
    for part in (
        "patient0_1.png</b>: the file is empty",
        "smallest 40 x 50",
        "--data.group &#39;(patient[0-9]+)&#39;</code>",
    ):
        assert part in text
    assert "cannot be read, such as" in text
    write_check_page(tmp_path / "again.html", report)
    assert (tmp_path / "again.html").read_text() == text


def test_pictures_are_drawn_by_their_paths_whatever_their_order(report: CheckReport) -> None:
    drawn = choose_pictures(report.pictures, 5)
    assert [one.path for one in choose_pictures(report.pictures[::-1], 5)] == [one.path for one in drawn]
    assert [one.path for one in drawn] != [one.path for one in report.pictures[:5]]


def test_many_classes_share_the_pictures_of_the_page(
    tmp_path: Path, report: CheckReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_page, "MAX_THUMBNAILS", 1)
    write_check_page(tmp_path / "page.html", report)
    text = (tmp_path / "page.html").read_text()
    assert len(Page(text).pictures) == 1
    assert "The 1 largest classes are shown" in text


def test_a_picture_that_is_gone_meanwhile_is_left_out(tmp_path: Path, report: CheckReport) -> None:
    for path in (tmp_path / "data/dog").iterdir():
        path.unlink()
    write_check_page(tmp_path / "page.html", report)
    assert len(Page((tmp_path / "page.html").read_text()).pictures) == check_page.MOST_PER_CLASS


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_at_the_width_of_a_phone(tmp_path: Path, report: CheckReport, browser: Any, width: int) -> None:
    write_check_page(tmp_path / "page.html", report)
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(f"file://{tmp_path}/page.html")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth)"
    assert page.evaluate(f"{cut}.map(e => e.className || e.tagName)") == []
    page.close()
