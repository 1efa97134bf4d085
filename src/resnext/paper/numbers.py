"""The published numbers: every table and figure as typed rows, with network and recipe. No torch here."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from resnext.errors import RequestError, did_you_mean
from resnext.model.architecture import Architecture

PACKAGE = files("resnext.paper")
WIDE_RESNET = "wrn28-10"  # Zagoruyko and Komodakis (2016): 28 layers, ten times as wide, pre-activation, basic blocks
WIDE_RESNET_FIELDS: dict[str, Any] = {
    "stem": "cifar",
    "block": "basic",
    "pre_activation": True,
    "base_channels": 16,
    "blocks": (4, 4, 4),
    "stage_widths": (160, 320, 640),
    "stage_channels": (160, 320, 640),
}


@dataclass(frozen=True)
class Column:
    """One printed quantity, and the measured quantity it corresponds to."""

    key: str
    heading: str
    unit: str = ""
    decimals: int = 1
    measured: str | None = None  # column of metrics.csv, or key of an evaluation's metrics.json
    view: Mapping[str, Any] = field(default_factory=dict)  # what the protocol of the evaluation must contain
    epoch: int | None = None  # the epoch of the value; None: the last
    scale: float = 1.0  # factor from the measured to the printed unit


@dataclass(frozen=True)
class Row:
    """One row of a table, or one curve or point of a figure: what one run measures."""

    key: str  # the name for --row: 32x4d/50
    label: str
    network: str | None = None  # a name for Architecture.parse; None for other families
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of Architecture that differ from the name
    published: Mapping[str, float] = field(default_factory=dict)  # column key -> value
    errors: Mapping[str, float] = field(default_factory=dict)  # column key -> standard error
    claims: Mapping[str, str] = field(default_factory=dict)  # printed costs, such as "25.5 M"
    recipe: str | None = None  # name of the recipe that measures the row
    family: str | None = None  # family of the network, if not ours
    data: str | None = None
    curve: str | None = None  # its name in the file of curves
    note: str | None = None  # why our count differs from the printed one

    @property
    def setting(self) -> str:
        """C x d as in the paper, if the network is ours; else empty."""
        a = self.architecture()
        return "" if a is None or self.network == WIDE_RESNET else f"{a.cardinality}x{a.width}d"

    @property
    def name(self) -> str:
        """Label with setting: ``ResNet-200 1x64d, deeper``."""
        first, comma, rest = self.label.partition(",")
        return f"{first} {self.setting}".rstrip() + comma + rest

    def architecture(self) -> Architecture | None:
        """Return the network; None if it is of another family."""
        if self.network is None:
            return None
        if self.network == WIDE_RESNET:
            return Architecture(**(WIDE_RESNET_FIELDS | {"num_classes": 10} | dict(self.changes)))
        a = Architecture.parse(self.network, **self.changes)
        return a.change(num_classes=10) if a.stem == "cifar" and "num_classes" not in self.changes else a


@dataclass(frozen=True)
class Table:
    """One table or figure."""

    name: str
    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()

    def row(self, text: str) -> Row:
        """Find a row by its key, ignoring case and word order. Raises RequestError."""
        wanted = _split_words(text)
        exact = [row for row in self.rows if row.key.lower() == text.strip().lower()]
        same = exact or [row for row in self.rows if wanted == _split_words(row.key)]
        names = same or [
            row for row in self.rows if wanted and wanted <= _split_words(f"{row.key}/{row.label}/{row.network}")
        ]
        if len(names) == 1:
            return names[0]
        keys = [row.key for row in names or self.rows]
        if names:
            raise RequestError(f"--row {text!r} matches several rows of {self.name}: {', '.join(keys)}")
        raise RequestError(f"{self.name} has no row {text!r}{did_you_mean(text.lower(), keys)}")


@dataclass(frozen=True)
class CurvePoint:
    """One point of a printed curve."""

    curve: str
    split: str
    at: float  # epochs, or mini-batches
    error: float  # %


def load_tables() -> dict[str, Table]:
    """Load all tables and figures by name, in the paper's order."""
    return dict(_read_tables())


def get_table(name: str) -> Table:
    """Return the table or figure ``name``. Raises RequestError if there is none."""
    known = _read_tables()
    if name not in known:
        raise RequestError(f"the paper has no table or figure {name!r}{did_you_mean(name, known)}")
    return known[name]


@cache
def load_curves(name: str) -> tuple[CurvePoint, ...]:
    """Load the printed curves of ``figure5`` (over epochs) or ``figure6`` (over mini-batches)."""
    at = {"figure5": "epoch", "figure6": "minibatches"}[name]
    rows = _read_csv(f"fig{name[-1]}_curves.csv")
    return tuple(CurvePoint(r["model"], r["split"], float(r[at]), float(r["top1_err"])) for r in rows)


@cache
def load_figure7_series() -> dict[str, tuple[str, ...]]:
    """Load the two lines of Figure 7: the row keys along each, from small to large."""
    series: dict[str, tuple[str, ...]] = {}
    for r in _read_csv("fig7_points.csv"):
        series[r["series"]] = (*series.get(r["series"], ()), r["template"])
    return series


@cache
def _read_tables() -> dict[str, Table]:
    raw = json.loads((PACKAGE / "numbers.json").read_text(encoding="utf-8"))
    return {name: _parse_table(name, values) for name, values in raw.items()}


def _parse_table(name: str, values: Mapping[str, Any]) -> Table:
    rows = values["rows"]
    if name == "figure7":
        points = {r["template"]: r for r in _read_csv("fig7_points.csv")}
        rows = [row | _parse_figure7_point(points[row["key"]]) for row in rows]
    if name == "figure6":
        last = {p.curve: p.error for p in sorted(load_curves("figure6"), key=lambda p: p.at)}
        rows = [row | {"published": {"val": last[row["curve"]]}} for row in rows]
    return Table(
        name,
        values["title"],
        values["source"],
        tuple(Column(**column) for column in values["columns"]),
        tuple(Row(**row) for row in rows),
        tuple(values.get("remarks", ())),
    )


def _parse_figure7_point(point: Mapping[str, str]) -> dict[str, Any]:
    return {
        "published": {"top1": float(point["test_err_mean"])},
        "errors": {"top1": float(point["std_err"])},
        "claims": {"parameters": f"{point['params_M_axis']} M"},
    }


def _read_csv(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((PACKAGE / name).read_text(encoding="utf-8").splitlines()))


def _split_words(text: str) -> set[str]:
    for mark in "/,_-()×":
        text = text.replace(mark, "x" if mark == "×" else " ")
    return set(text.lower().split())
