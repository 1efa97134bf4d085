"""MATLAB's struct arrays: read as SciPy reads them, and no damage does worse than an error."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from resnext.data.sources.matlab import read_structs

FIELDS = ("ILSVRC2012_ID", "WNID", "num_children", "children")
KIND = [(name, "O") for name in FIELDS]
CELL = st.tuples(
    st.one_of(st.integers(-(2**31), 2**31), st.floats(-1e300, 1e300), st.integers(0, 255).map(np.uint8)),
    st.text("aZé0 漢", min_size=1, max_size=20),
    st.integers(0, 2**15).map(float),
    st.lists(st.floats(0, 9), min_size=2, max_size=4).map(np.array),
)


def saved(rows: list[tuple[Any, ...]], compressed: bool = True, name: str = "synsets") -> bytes:
    file = io.BytesIO()
    array = np.empty((len(rows), 1), dtype=KIND)
    for i, row in enumerate(rows):
        array[i, 0] = row
    savemat(file, {"first": np.arange(3.0), name: array}, do_compression=compressed)
    return file.getvalue()


ROWS = [(1.0, "n01440764", 0.0, np.zeros(2)), (2.0, "n01443537", 3.0, np.ones(3))]


@settings(deadline=None)
@given(st.lists(CELL, min_size=1, max_size=4), st.booleans())
def test_numbers_and_words_are_those_that_scipy_reads(rows: list[tuple[Any, ...]], compressed: bool) -> None:
    content = saved(rows, compressed)
    theirs = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"].reshape(-1)
    for ours, entry in zip(read_structs(content, "synsets", FIELDS), theirs, strict=True):
        assert ours[0] == entry["ILSVRC2012_ID"]
        assert ours[1] == str(entry["WNID"])
        assert ours[2:] == (entry["num_children"], None)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_damaged_file_is_a_value_error_or_other_values(data: st.DataObject) -> None:
    content = bytearray(saved(ROWS, compressed=False))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    try:
        rows = read_structs(bytes(content), "synsets", FIELDS)
    except ValueError:
        return
    assert all(value is None or isinstance(value, float | str) for row in rows for value in row)


def bomb() -> bytes:
    packed = zlib.compress(bytes(1 << 25))
    return saved(ROWS)[:128] + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header"),
        (saved(ROWS)[:-9], "beyond the end"),
        (saved(ROWS, name="other"), "it has no synsets"),
        (saved(ROWS, compressed=False).replace(b"WNID", b"wnid"), "has no field WNID, only ILSVRC2012_ID"),
        (bomb(), "grows beyond 16777216 bytes"),
        (saved(ROWS)[:128] + struct.pack("<II", 15, 4) + b"abcd", "incorrect header check"),
        (saved(ROWS)[:128] + struct.pack("<II", 9, 8) + bytes(8), "kind 9 is no matrix"),
        (
            saved(ROWS, compressed=False).replace(struct.pack("<III", 8, 2, 1), struct.pack("<III", 8, 2**31 - 1, 1)),
            "no array of 1 to 100000 structs",
        ),
        (
            saved(ROWS, compressed=False).replace(struct.pack("<III", 8, 2, 1), struct.pack("<III", 8, 3, 1)),
            "ends early",
        ),
    ],
)
def test_what_cannot_be_read_is_said(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_structs(content, "synsets", FIELDS)
