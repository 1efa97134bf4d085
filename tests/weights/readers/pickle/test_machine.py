"""Our pickle interpreter gives what Python's own gives for plain data, and Python 2's strings as they were meant."""

import argparse
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from pathlib import PurePosixPath
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.weights.readers.pickle.values import LONG_STRING_BYTES
from tests.weights.readers.pickle.pickle_maker import loads, string2

PROTOCOLS = range(6)

KEYS = st.one_of(
    st.text(max_size=8),
    st.binary(max_size=8),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False),
    st.tuples(st.integers(), st.text(max_size=3)),
)
LEAVES = st.one_of(
    KEYS,
    st.text(st.characters(), max_size=30),
    st.integers(-(2**600), 2**600),
    st.binary(max_size=300).map(bytearray),
    st.complex_numbers(allow_nan=False),
    st.sets(KEYS, max_size=4),
    st.frozensets(KEYS, max_size=4),
)
PLAIN = st.recursive(
    LEAVES,
    lambda inside: st.one_of(
        st.lists(inside, max_size=5),
        st.lists(inside, max_size=5).map(tuple),
        st.dictionaries(KEYS, inside, max_size=5),
        st.dictionaries(KEYS, inside, max_size=5).map(OrderedDict),
    ),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from(PROTOCOLS))
@settings(max_examples=300)
def test_plain_data_comes_back_as_by_pythons_own(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = loads(data)
    assert repr(found) == repr(pickle.loads(data))  # repr sees 1 and True, 0.0 and -0.0, tuples and lists apart
    assert found == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("length", [255, 256, LONG_STRING_BYTES - 1, LONG_STRING_BYTES, 70_000])
def test_long_strings_come_back_wherever_they_stand(protocol: int, length: int) -> None:
    text, data = "ü\n€'" * (length // 4), bytes(range(256)) * (length // 256 + 1)
    value = {"a": [text, (data, (text,), bytearray(data))], "b": {"c": data}, "d": text}
    assert loads(pickle.dumps(value, protocol)) == value
    assert loads(pickle.dumps(text, protocol)) == text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_parts_stay_shared(protocol: int) -> None:
    part = ["x"]
    found = loads(pickle.dumps({"a": part, "b": (part, part)}, protocol))
    assert found["a"] is found["b"][0] is found["b"][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_training_scripts_keep_comes_back_inert(protocol: int) -> None:
    factory = defaultdict(list)
    factory["a"].append(1)
    state = OrderedDict(x=1)
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    kept = {
        "args": argparse.Namespace(lr=0.1, data="/x", nested=argparse.Namespace(a=[1])),
        "counter": Counter("aab"),
        "default": factory,
        "path": PurePosixPath("/data/x"),
        "relative": PurePosixPath("data/x"),
        "state": state,
        "dtype": torch.float16,
        "device": torch.device("cuda", 1),
        "size": torch.Size([2, 3]),
    }
    found = loads(pickle.dumps(kept, protocol))
    assert found["args"] == {"lr": 0.1, "data": "/x", "nested": {"a": [1]}}
    assert isinstance(found["args"], dict)
    assert (found["counter"], found["default"]) == ({"a": 2, "b": 1}, {"a": [1]})
    assert type(found["counter"]) is type(found["default"]) is dict
    assert (found["path"], found["relative"]) == ("/data/x", "data/x")
    assert type(found["state"]) is OrderedDict
    assert found["state"] == {"x": 1}
    assert (found["dtype"], found["device"], found["size"]) == (torch.float16, "cuda:1", (2, 3))


def test_python_2_strings_are_text_in_latin_1() -> None:
    assert loads(b"\x80\x02]" + string2(b"conv1_w") + b"a" + string2(b"\xe9" * 5000) + b"a.") == ["conv1_w", "é" * 5000]
    assert loads(b"(lp0\nS'it\\'s \\xe9\\n'\np1\na.") == ["it's é\n"]
    assert loads(b'S"it\'s"\n.') == "it's"


def test_python_2_ordered_dicts_are_lists_of_pairs() -> None:
    pairs = b"](]" + string2(b"a") + b"aK\1a]" + string2(b"b") + b"aK\2ae"
    assert loads(b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R.") == OrderedDict(a=1, b=2)


def test_python_2_numbers() -> None:
    assert loads(b"(I1\nI-2\nI00\nI01\nL12345678901234567890L\nF1.5\nFnan\nt.")[:6] == (
        1, -2, False, True, 12345678901234567890, 1.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends early"),
        (b".", "a value from an empty stack"),
        (b"\x80\x06.", "protocol 6"),
        (b"\xff.", "0xff, which is not a pickle instruction, at byte 0"),
        (b"K", "ends early"),
        (b"a.", "an empty stack"),
        (b"Na.", "an empty stack"),
        (b"NNa.", "adds to a value of type NoneType as if it were a list"),
        (b"(N0N.", None),  # POP
        (b"1.", "never set"),
        (b"t.", "never set"),
        (b"(Nd.", "without a value"),
        (b"]NNs.", "sets a key of a value of type list"),
        (b"}]Ns.", "a value of type list as a key"),
        (b"h\0.", "from the memo that was never stored"),
        (b"gx\n.", "a malformed whole number"),
        (b"I1_0\n.", "a malformed whole number"),
        (b"I" + b"9" * 2000 + b"\n.", "no newline"),
        (b"Fabc\n.", "a malformed number"),
        (b"S'abc\n.", "without its quotes"),
        (b"S'a\\x'\n.", "invalid escape"),
        (b"V\\u12\n.", "invalid escape"),
        (b"X\1\0\0\0\xff.", "not UTF-8"),
        (b"X" + struct.pack("<I", 5000) + b"\xff" * 5000 + b".", "not UTF-8"),
        (b"c\xff\nx\n.", "a name that is not text"),
        (b"NN\x93.", "a name that is not text"),
        (b"T\xff\xff\xff\xff.", "a string of -1 bytes"),
        (b"\x8b\xff\xff\xff\xff.", "a whole number of -1 bytes"),
        (b"Q.", "outside of the pickle"),
        (b"NNQ.", "outside of the pickle"),
        (b"NNb.", "sets the state of a value of type NoneType"),
        (b"N)R.", "calls a value of type NoneType"),
        (b"ccollections\nOrderedDict\nNR.", "expected a tuple"),
        (b"ccollections\nOrderedDict\n.", "holds collections.OrderedDict where data was expected"),
        (b"]\x94h\0a.", "contains itself"),
    ],
)
def test_a_broken_pickle_says_what_is_wrong(data: bytes, says: str | None) -> None:
    if says is None:
        assert loads(data) is None
        return
    with pytest.raises(RequestError, match=r"^[^\n]+\Z") as caught:
        loads(data)
    assert says in str(caught.value)
