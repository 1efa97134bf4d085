"""Text is printed as given: no markup, nothing cut, words kept whole."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from resnext.cli import main
from resnext.screen import MAX_PATH_COLUMNS, MAX_WORD_COLUMNS, make_screen

SOURCES = [*(Path(__file__).parents[1] / "src").rglob("*.py"), *(Path(__file__).parents[1] / "tools").rglob("*.py")]
NAMES = ("exp[small]", "x[/a]", "[bold]", ":smile:", "https://a.b/c", "'3.5'", "resnext[openvino]", "\\[red]x[/red]")
LETTERS = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/\\")
TEXT = st.text(LETTERS, min_size=1, max_size=MAX_WORD_COLUMNS)


def printed(console_width: int | None, *objects: object, capsys: pytest.CaptureFixture[str]) -> str:
    """Print ``objects`` on a terminal of this width and return the text; None is a pipe."""
    console = make_screen()
    if console_width is not None:
        console.size = (console_width, 25)  # type: ignore[assignment]
    capsys.readouterr()
    console.print(*objects)
    return capsys.readouterr().out


def network_table(*names: str) -> Table:
    table = Table("network", "about it", box=None, header_style="bold")
    for heading in ("parameters", "without BN", "GMACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        table.add_row(name, "a few words about it, and a few more", "25.03M", "24.99M", "4.23")
    return table


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(None, name, capsys=capsys) == f"{name}\n"
    table = Table(name, title=name, caption=name, box=None)
    table.add_row(name)
    assert printed(None, table, capsys=capsys).split() == [name] * 4


def test_no_name_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name, spelled = "a\x1b[2J\rb\u202ec\udce9", "a\\x1b[2J\\rb\\u202ec\\udce9"
    table = Table(name, title=name, box=None)
    table.add_row(name)
    assert printed(None, f"{name}\n{name}", table, capsys=capsys).split() == [spelled] * 5


@pytest.mark.parametrize("name", NAMES)
def test_no_status_is_markup(name: str) -> None:
    with make_screen().status(name) as status:
        assert str(status.renderable.text) == name  # type: ignore[union-attr]
        status.update(f"{name} 2")
        assert str(status.renderable.text) == f"{name} 2"  # type: ignore[union-attr]


@settings(max_examples=40)
@given(words=st.lists(TEXT, min_size=1, max_size=4), width=st.integers(1, 120))
def test_every_word_of_a_table_is_whole_on_every_terminal(words: list[str], width: int) -> None:
    console = make_screen()
    console.size = (width, 25)  # type: ignore[assignment]
    with console.capture() as capture:
        console.print(network_table(*words))
    shown = capture.get().split()
    assert "…" not in capture.get()
    for word in (*words, "25.03M", "24.99M", "4.23", "about", "more", "parameters"):
        assert word in shown


@pytest.mark.parametrize("width", [None, 80, 40])
def test_a_long_path_is_in_the_table_with_every_letter(width: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["/folder"] * 20)
    shown = printed(width, network_table(path), capsys=capsys)
    first_column = "".join(line[: MAX_PATH_COLUMNS + 1].strip() for line in shown.splitlines())
    assert path in (shown if width is None else first_column)


def test_in_a_pipe_a_row_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = printed(None, network_table("resnext101_32x4d", "x" * 300), "y" * 300, capsys=capsys)
    assert len(shown.splitlines()) == 4


def test_a_narrow_terminal_wraps_between_words_and_stays_within_its_width_where_it_can(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = printed(70, network_table("resnext101_32x4d"), capsys=capsys)
    assert max(map(len, shown.splitlines())) <= 70
    assert len(shown.splitlines()) > 2


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_console_is_ours_and_no_text_is_marked_up(path: Path) -> None:
    """All consoles come from ``make_screen``, and texts of progress bars are not markup."""
    if path.name == "screen.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        assert name not in ("Console", "from_markup", "track"), f"line {node.lineno}: use resnext.screen"
        if name == "TextColumn" and "{" in ast.unparse(node.args[0]):
            assert any(keyword.arg == "markup" for keyword in node.keywords), f"line {node.lineno}: markup=False"


LONG_NAME = "a-recipe-with-a-rather-long-name-of-one-word"


@pytest.mark.parametrize("is_terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("models resnext101*", ("resnext101_32x48d", "without", "parameters", "activations")),
        ("models --pretrained resnext50*", ("resnext50_32x4d.fb_swsl_ig1b_ft_in1k", "bsd-3-clause", "pixels")),
        ("info resnext29_8x64d --layers", ("[1x1,512;", "3x3,512,C=8;", "layer3.2.conv3")),
        ("doctor", ("torchvision", "onnxruntime", "imagecorruptions")),
        (f"paper cost --recipe {LONG_NAME}.yaml", (LONG_NAME, "GPU-hours", "images/s")),
    ],
)
def test_a_command_cuts_no_name_in_a_narrow_terminal_or_a_pipe(
    command: str,
    names: tuple[str, ...],
    is_terminal: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / f"{LONG_NAME}.yaml").write_text("model: {name: resnext50_32x4d}\ndata: {source: imagenet}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    assert main(command.split()) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "…" not in shown
    assert set(names) <= set(shown.split())
