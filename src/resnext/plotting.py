"""The common style of all plots, and cleaning of text that comes from files."""

import logging
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from resnext.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

INK, MUTED, FAINT, PAPER = "#1f2937", "#6b7280", "#e5e7eb", "#ffffff"
BLUE, RED = "#2f6db5", "#c8402f"
PALE_BLUE, PALE_RED = "#9db8d9", "#edbdb4"
DPI = 130
FALLBACK_FONTS = (  # for characters the first font lacks, if installed
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans", "Noto Sans Arabic"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Segoe UI Symbol", "Arial Unicode MS", "Symbola"),
)


@contextmanager
def plot_style() -> Iterator[None]:
    """Apply matplotlib settings for all plots. ``$`` is an ordinary character: names are not formulas."""
    import matplotlib

    rules: dict[str, Any] = {
        "font.family": ["DejaVu Sans", *_list_installed_fonts()],
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": "#9ca3af",
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(cast(Any, rules)):
        yield


def create_figure(width: float, height: float) -> "Figure":
    """Create an empty figure, size in inches, with the Agg backend: no window, no pyplot state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path | str) -> None:
    """Write a figure as PNG atomically. Raises WorkError if that fails."""
    with atomic_write(Path(path)) as file:
        file.write(encode_figure(figure))


def encode_figure(figure: "Figure", kind: str = "png") -> bytes:
    """Encode a figure as PNG or SVG; the same figure always gives the same bytes."""
    import matplotlib

    none = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    data = BytesIO()
    with plot_style(), matplotlib.rc_context({"svg.hashsalt": "resnext"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # such a glyph is drawn as a box
        figure.savefig(data, format=kind, metadata=cast(Any, none))
    return data.getvalue()


def add_title(figure: "Figure", text: str, under: str = "", *, left: float = 0.15) -> None:
    """Add a heading, ``left`` inches from the left edge, and a smaller line under it."""
    width, height = figure.get_size_inches()
    options: dict[str, Any] = {"ha": "left", "va": "top"}
    figure.text(left / width, 1 - 0.13 / height, text, fontsize=12, fontweight="bold", **options)
    if under:
        figure.text(left / width, 1 - 0.38 / height, under, fontsize=8.5, color=MUTED, **options)


def hide_axes(axes: "Axes") -> None:
    """Hide ticks and frame, for images."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def draw_grid(axes: "Axes") -> None:
    """Draw faint horizontal grid lines behind everything else."""
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def draw_caption(
    figure: "Figure", x: float, top: float, caption: Sequence[tuple[str, str]], *, line: float, size: float
) -> None:
    """Write texts (text, color) below each other from (x, top) inches on; the first of several is bold."""
    width, height = figure.get_size_inches()
    for at, (text, color) in enumerate(caption):
        weight = "bold" if at == 0 and len(caption) > 1 else "normal"
        for part in text.split("\n"):
            figure.text(
                x / width, top / height, part, fontsize=size, color=color, fontweight=weight, va="top", ha="left"
            )
            top -= line


def convert_to_pixels(image: "Tensor") -> np.ndarray:
    """Convert [C, H, W], uint8 or float from 0 to 1, to uint8 [H, W] or [H, W, 3]."""
    if image.is_floating_point():
        image = (image.float().nan_to_num().clamp(0, 1) * 255).round()
    array = image.cpu().numpy().astype(np.uint8)
    return array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)


def shorten_path(path: str, columns: int) -> str:
    """Shorten a path to its end, which distinguishes images better than its beginning."""
    short = clean_text(path, 10_000)
    return short if len(short) <= columns else "…" + short[-columns + 1 :]


def clean_text(text: str, columns: int) -> str:
    """Fit ``text`` on one line of ``columns`` Latin letters: cut with an ellipsis; control characters become spaces."""
    text = unicodedata.normalize("NFC", text)
    clean = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)
    clean = " ".join(clean.split()) or "(no name)"
    if count_columns(clean) <= columns:
        return clean
    kept, used = [], 1
    for letter in clean:
        used += _count_letter_columns(letter)
        if used > columns:
            break
        kept.append(letter)
    return "".join(kept).rstrip() + "…"


def wrap_text(text: str, columns: int, lines: int = 4) -> list[str]:
    """Wrap ``text`` into lines of ``columns`` Latin letters, whole as far as ``lines`` allow.

    It is cleaned as by ``clean_text``. Lines break after spaces and hyphens, and inside words that are too long.
    """
    rest = clean_text(text, 10_000)
    wrapped: list[str] = []
    while rest and len(wrapped) < lines - 1 and count_columns(rest) > columns:
        end, used = 0, 0
        while used + _count_letter_columns(rest[end]) <= columns or not end:
            used += _count_letter_columns(rest[end])
            end += 1
        while end < len(rest) and unicodedata.combining(rest[end]):
            end += 1
        breaks = [
            at
            for at in range(end // 2, end + 1)
            if rest[at - 1 : at] in ("-", "_", "/", " ") or rest[at : at + 1] == " "
        ]
        end = breaks[-1] if breaks else end
        wrapped.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*wrapped, clean_text(rest, columns)] if rest or not wrapped else wrapped


def count_columns(text: str) -> int:
    """Return the width of ``text`` in Latin letters."""
    return sum(map(_count_letter_columns, text))


def _count_letter_columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


@cache
def _list_installed_fonts() -> tuple[str, ...]:
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    from matplotlib.font_manager import get_font_names

    names = set(get_font_names())
    return tuple(name for name in FALLBACK_FONTS if name in names)
