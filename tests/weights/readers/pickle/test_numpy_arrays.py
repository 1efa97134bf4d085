"""NumPy's arrays out of pickles equal those that NumPy itself restores."""

import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resnext.errors import RequestError
from tests.weights.readers.pickle.pickle_maker import array2, loads, string2

PROTOCOLS = range(6)
CODES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "S3", "U3"]
DTYPES = [order + code for code in CODES for order in "<>"]


def same(found: Any, array: np.ndarray) -> bool:
    return (
        type(found) is np.ndarray
        and found.dtype == array.dtype.newbyteorder("=")
        and found.shape == array.shape
        and found.flags.writeable
        and np.array_equal(found, array, equal_nan=array.dtype.kind in "fc")
    )


@given(
    st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=5))),
    st.sampled_from(PROTOCOLS),
    st.sampled_from(["C", "F", "swapped", "strided"]),
)
@settings(max_examples=300)
def test_arrays_come_back(array: np.ndarray, protocol: int, layout: str) -> None:
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "swapped" and array.ndim > 1:
        array = array.swapaxes(0, 1)
    elif layout == "strided" and array.ndim:
        array = array[::2]
    data = pickle.dumps({"a": [array], "b": array}, protocol)
    found = loads(data)
    assert same(found["a"][0], array)
    assert found["b"] is found["a"][0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_and_dtypes_come_back(protocol: int, dtype: str) -> None:
    scalar = np.array([1]).astype(dtype)[0]
    found = loads(pickle.dumps([scalar, scalar.dtype, np.dtype(dtype)], protocol))
    assert type(found[0]) is type(scalar)
    assert found[0] == scalar
    assert found[2] == np.dtype(dtype)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "|u1"])
def test_large_arrays_come_back(protocol: int, dtype: str) -> None:
    array = np.arange(3 * 5000).reshape(3, 5000).astype(dtype)
    assert same(loads(pickle.dumps(array, protocol)), array)
    assert same(loads(pickle.dumps(array.T, protocol)), array.T)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|u1", "|b1", "|S5"])
@pytest.mark.parametrize("shape", [(0,), (), (3,), (2, 3), (50, 60)])
def test_arrays_of_python_2_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.resize(np.arange(256, dtype=np.uint8), shape).astype(dtype)
    for one in (array, np.asfortranarray(array)):
        data = b"\x80\x02}(" + string2(b"blobs") + b"}" + string2(b"conv1_w") + array2(one) + b"sU\3cfgU\1xu."
        assert same(pickle.loads(data, encoding="latin1")["blobs"]["conv1_w"].copy(), one.copy())  # the oracle
        found = loads(data)
        assert found["cfg"] == "x"
        assert same(found["blobs"]["conv1_w"], one)


START = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85U\1btR"


def dtype_of(code: bytes) -> bytes:
    return b"cnumpy\ndtype\n(" + string2(code) + b"K\0K\1tR"


def state(shape: bytes, code: bytes, numbers: bytes) -> bytes:
    return START + b"(K\1" + shape + dtype_of(code) + b"\x89" + numbers + b"tb."


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pickle.dumps(np.array([{}, 1], dtype=object)), "dtype O8"),
        (pickle.dumps(np.zeros(2, dtype=[("a", "i4")])), "dtype V4"),
        (pickle.dumps(np.zeros(2, dtype="M8[s]")), "dtype M8"),
        (pickle.dumps(np.zeros(2, dtype="g")), "dtype f16"),
        (START.replace(b"ndarray", b"matrix") + b".", "numpy.matrix"),
        (START + b".", "array without data"),
        (state(b"K\2\x85", b"f4", string2(b"1234")), "shape (2,) and float32 with 4 bytes"),
        (state(b"J\xff\xff\xff\xff\x85", b"f4", string2(b"")), "an invalid shape"),
        (state(b"\x88\x85", b"f4", string2(b"1234")), "an invalid shape"),
        (state(b"(" + b"K\1" * 33 + b"t", b"f4", string2(b"1234")), "an invalid shape"),
        (state(b"M\xff\xff" * 3 + b"K\0(" + b"M\xff\xff" * 3 + b"K\0t", b"f4", string2(b"")), "dtype and data"),
        (state(b"(" + b"M\xff\xff" * 3 + b"K\0t", b"f4", string2(b"")), "too large"),
        (state(b"K\1\x85", b"f4", b"]"), "Python objects"),
        (state(b"K\1\x85", b"f4", b"N"), "made of a value of type NoneType"),
        (state(b"K\1\x85", b"f4", b"X\x04\0\0\0\xe2\x82\xacx"), "characters that are not latin-1"),
        (state(b"M\x88\x13\x85", b"u1", b"X" + struct.pack("<I", 5000) + b"x" * 5000), "made of text"),
        (state(b"K\1\x85", b"U1", string2(b"\xff\xff\xff\xff")), "invalid characters"),
        (state(b"K\1\x85", b">f4", string2(b"1234")), "dtype >f4"),  # the order comes by BUILD
        (state(b"K\1\x85", b"f4;import os", string2(b"1234")), "dtype f4;import os"),
        (b"\x80\x02" + dtype_of(b"f4") + b"(K\3U\1<N}N" + b"K\0K\0K\0tb.", "with fields"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "cannot be called"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\0\x85U\1btR.", "of a subclass"),
    ],
)
def test_arrays_that_are_none_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        loads(data)
    assert says in str(caught.value)


def test_bits_that_are_no_bool_become_true() -> None:
    array = loads(state(b"K\3\x85", b"b1", string2(b"\0\1\xff")))
    assert array.view(np.uint8).tolist() == [0, 1, 1]
