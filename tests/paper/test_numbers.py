"""The paper's numbers: every network can be built, and every count agrees or has a note why not."""

import csv
from importlib.resources import files

import pytest

from resnext.errors import RequestError
from resnext.model.complexity import complexity
from resnext.paper.entries import Entry, matches_claim
from resnext.paper.numbers import Row, Table, get_table, load_curves, load_figure7_series, load_tables
from resnext.recipe import list_recipes
from tests.model.test_complexity import CIFAR, IMAGENET, giga

ROWS = [(t, row) for t in load_tables().values() for row in t.rows]
IDS = [f"{t.name}-{row.key}" for t, row in ROWS]

# Counted by hand from the release's model definition (parameters with BN, GMACs): an oracle that is not our counter.
EXACT = IMAGENET | CIFAR | {"wrn28-10": (36_479_194, "5.24")}


def test_every_table_and_figure_is_there() -> None:
    wanted = [*(f"table{n}" for n in range(1, 9)), *(f"figure{n}" for n in (5, 6, 7)), "residual", "timing", "ilsvrc"]
    assert list(load_tables())[: len(wanted)] == wanted
    for entry in load_tables().values():
        assert entry.source
        assert len({row.key for row in entry.rows}) == len(entry.rows)


@pytest.mark.parametrize(("entry", "row"), ROWS, ids=IDS)
def test_a_rows_network_has_the_exact_count_and_its_recipe_is_there(entry: Table, row: Row) -> None:
    assert set(row.published) <= {column.key for column in entry.columns}
    assert row.recipe is None or row.recipe in {path.stem for path in list_recipes().values()}
    architecture = row.architecture()
    if architecture is None:
        assert row.family, "says whose network it is"
        return
    assert architecture.stem == ("cifar" if entry.name in ("table7", "figure7") else "imagenet")
    if row.network in EXACT and not row.changes:
        cost = complexity(architecture)
        parameters, gmacs = EXACT[str(row.network)]
        assert cost.parameters == parameters
        assert giga(cost.macs, gmacs) == gmacs


@pytest.mark.parametrize(("entry", "row"), ROWS, ids=IDS)
def test_a_count_that_is_not_what_is_printed_says_why(entry: Table, row: Row) -> None:
    if Entry(row).list_wrong_claims():
        assert row.note, f"{entry.name} {row.key} differs in {Entry(row).list_wrong_claims()} and has no note"


def test_a_claim_is_met_by_what_rounds_to_it() -> None:
    assert matches_claim("25.5 M", 25_503_912)
    assert not matches_claim("25.5 M", 25_557_032)
    assert matches_claim("15 G", 15_460_000_000)
    assert matches_claim("70 k", 69_632)
    assert not matches_claim("70 k", 71_456)
    assert not matches_claim("70 k", None)


def test_table_2_is_solved_for_by_equation_4() -> None:
    t = get_table("table2")
    for row in t.rows:
        entry = Entry(row)
        for column in t.columns:
            assert entry.solve_width(column) == row.published[column.key], row.key


def test_removing_shortcuts_removes_as_many_parameters_as_the_remark_says() -> None:
    rows = {row.key: row.architecture() for row in get_table("residual").rows}
    counts = {key: complexity(a).parameters for key, a in rows.items() if a}
    for setting in ("1x64d/50", "32x4d/50"):
        assert round((counts[setting] - counts[f"{setting}/none"]) / 1e6, 2) == 2.78
    assert "2.78 M" in get_table("residual").remarks[0]


def test_the_curves_are_the_papers() -> None:
    by = {(p.curve, p.split, p.at): p.error for p in load_curves("figure5")}
    assert by["ResNet-50", "val", 30] == 45.08
    assert by["ResNeXt-101-32x4d", "train", 90] == 17.48
    assert get_table("figure5").rows[3].published == {"train": 16.11, "val": 21.19}
    for row in get_table("figure5").rows:
        assert row.published["val"] == by[str(row.curve), "val", 95]
        assert row.published["train"] == by[str(row.curve), "train", 95]
    assert {p.curve for p in load_curves("figure6")} == {row.curve for row in get_table("figure6").rows}


def test_figure_7_has_both_series_with_the_figures_errors() -> None:
    text = (files("resnext.paper") / "fig7_points.csv").read_text()
    points = {row["template"]: row for row in csv.DictReader(text.splitlines())}
    rows = {row.key: row for row in get_table("figure7").rows}
    assert set(points) == set(rows)
    for key, point in points.items():
        assert rows[key].published["top1"] == float(point["test_err_mean"])
        assert rows[key].errors["top1"] == float(point["std_err"])
        assert not Entry(rows[key]).list_wrong_claims(), "parameters agree to 0.01 M"
    assert [len(keys) for keys in load_figure7_series().values()] == [7, 7]


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("table3", "32x4d/50", "32x4d/50"), ("table3", "50/32x4d", "32x4d/50"), ("table3", " 32X4D/50 ", "32x4d/50"),
        ("table3", "resnext101_8x14d", "8x14d/101"), ("table4", "ResNet-200", "1x64d/200"),
        ("residual", "32x4d/50/none", "32x4d/50/none"), ("table7", "8x64d cifar-100", None),
        ("table5", "Inception-v3", "inception-v3"),
    ],
)  # fmt: skip
def test_a_row_is_found_by_what_one_would_type(name: str, text: str, key: str | None) -> None:
    if key is None:
        with pytest.raises(RequestError):
            get_table(name).row(text)
    else:
        assert get_table(name).row(text).key == key


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("table3", "32x5d/50", "did you mean '32x4d/50'"),
        ("table3", "32x4d", "matches several rows of table3: 32x4d/50, 32x4d/101"),
        ("table3", "", "has no row ''"),
    ],
)
def test_a_row_that_is_not_there_or_not_one_is_named_with_its_neighbours(name: str, text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says.replace("(", r"\(")):
        get_table(name).row(text)


def test_a_table_that_is_not_there_names_its_neighbour() -> None:
    with pytest.raises(RequestError, match="did you mean 'table"):
        get_table("tabel3")
