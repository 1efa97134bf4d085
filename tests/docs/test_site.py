"""The site builds strictly (dead links, anchors and failing notebooks are errors); pages need nothing from outside."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow
OUTSIDE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]*\"", re.IGNORECASE)
CSS_OUTSIDE = re.compile(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//", re.IGNORECASE)


def build(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build as ``make docs`` does."""
    variables = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", *options]
    return subprocess.run([*command, ".", str(out)], cwd=source, env=variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, its notebooks executed."""
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_builds_strictly_with_every_page(site: Path) -> None:
    for page in (ROOT / "docs").glob("**/*.md"):
        assert (site / page.relative_to(ROOT).with_suffix(".html")).is_file()
    assert "docs/index.html" in (site / "index.html").read_text()


def test_the_pages_load_nothing_from_outside(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert OUTSIDE.findall(page.read_text(encoding="utf-8")) == [], page
    for sheet in [*site.rglob("*.css"), *site.rglob("*.js")]:
        assert CSS_OUTSIDE.search(sheet.read_text(encoding="utf-8")) is None, sheet


def test_the_reference_links_types_to_their_pages(site: Path) -> None:
    page = (site / "docs/api-reference.html").read_text(encoding="utf-8")
    assert 'id="resnext.evaluate"' in page
    assert 'href="#resnext.EvalOptions"' in page
    assert 'href="#resnext.RequestError"' in page
    assert 'id="train-epochs"' in (site / "docs/settings.html").read_text(encoding="utf-8")


def test_the_search_index_has_the_settings(site: Path) -> None:
    assert "checkpoint_url" in (site / "searchindex.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "says"), [("photos", "[34] of the 4 wrong labels are among these 8"), ("cardinality", "outputs differ by")]
)
def test_the_tutorials_ran_and_are_shown_with_their_results_and_pictures(site: Path, name: str, says: str) -> None:
    page = (site / f"docs/tutorials/{name}.html").read_text(encoding="utf-8")
    assert re.search(says, re.sub(r"<[^>]*>", "", page))
    assert len(re.findall(r"<img[^>]*_images/", page)) >= 2


@pytest.mark.parametrize("link", ["[x](guide.md#no-such-heading)", "[x](no-such-page.md)"])
def test_a_dead_link_fails_the_build(link: str, tmp_path: Path) -> None:
    pytest.importorskip("myst_nb")
    source = tmp_path / "source"
    for name in ("docs/conf.py", "docs/guide.md"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text((ROOT / name).read_text(encoding="utf-8"))
    for name in ("docs/site", "tools", "src"):
        (source / name).symlink_to(ROOT / name)
    (source / "docs/guide.md").write_text("# Guide\n")
    (source / "docs/index.md").write_text(f"# Index\n\n{link}\n\n```{{toctree}}\nguide\n```\n")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    assert "no-such" in done.stderr
