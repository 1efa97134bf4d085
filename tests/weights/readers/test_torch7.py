"""The reader of Torch7 files against what real Torch7 wrote, node by node, and against a writer of our own."""

import gc
import json
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.weights.readers.torch7 import T7Function, T7Key, T7Object, can_be_t7, read_t7
from tests.sample_files import find_torch7, unpack_torch7
from tests.weights.readers import torch7_writer as w
from tests.weights.readers.torch7_writer import dump

DTYPE_OF = {"Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Half": "f2", "Float": "f4", "Double": "f8"}

ENCODINGS: list[dict[str, Any]] = [
    {},
    {"order": ">"},
    {"long_size": 4},
    {"order": ">", "long_size": 4},
    {"ascii": True},
    {"referenced": False},
    {"ascii": True, "referenced": False},
]


@pytest.fixture
def t7() -> Path:
    return unpack_torch7()


def read(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "x.t7"
    path.write_bytes(data)
    return read_t7(path)


class Check:
    """Compares what was read with the description Torch7 itself gave, every node of it."""

    def __init__(self, long_size: int, referenced: bool) -> None:
        self.long, self.referenced = f"i{long_size}", referenced
        self.described: dict[int, dict[str, Any]] = {}
        self.seen: dict[int, Any] = {}
        self.nodes = 0

    def node(self, value: Any, node: dict[str, Any]) -> None:
        self.nodes += 1
        if node["t"] == "ref":
            if self.referenced:
                assert self.same_place(value, self.seen[node["id"]])
            node = self.described[node["id"]]
            if self.referenced:
                return
        if "id" in node:
            self.described[node["id"]], self.seen[node["id"]] = node, value
        getattr(self, node["t"])(value, node)

    @staticmethod
    def same_place(value: Any, other: Any) -> bool:
        if isinstance(value, np.ndarray):
            return value is other or value.__array_interface__ == other.__array_interface__
        return value is other

    def nil(self, value: Any, node: dict[str, Any]) -> None:
        assert value is None, node

    def number(self, value: Any, node: dict[str, Any]) -> None:
        assert type(value) is float
        if node["v"] == "nan":
            assert math.isnan(value)
        else:
            assert struct.pack("<d", value) == struct.pack("<d", float(node["v"]))  # -0.0 too

    def boolean(self, value: Any, node: dict[str, Any]) -> None:
        assert value is node["v"]

    def string(self, value: Any, node: dict[str, Any]) -> None:
        assert value.encode("utf-8", "surrogateescape") == bytes.fromhex(node["hex"])

    def table(self, value: Any, node: dict[str, Any]) -> None:
        assert type(value) is dict
        assert len(value) == len(node["items"]) == node["len"]
        keys = list(value)
        for key_node, item_node in node["items"]:
            key = self.key(keys, key_node)
            self.node(value[key], item_node)

    def key(self, keys: list[Any], node: dict[str, Any]) -> Any:
        if node["t"] == "string":
            return bytes.fromhex(node["hex"]).decode("utf-8", "surrogateescape")
        if node["t"] == "number":
            return float(node["v"])  # equal to an int key
        if node["t"] == "boolean":
            return T7Key(node["v"])
        (key,) = [
            k for k in keys if isinstance(k, T7Key) and isinstance(k.value, np.ndarray) == (node["t"] == "tensor")
        ]
        self.node(key.value, node)
        return key

    def object(self, value: Any, node: dict[str, Any]) -> None:
        assert type(value) is T7Object
        assert (value.class_name, value.version) == (node["class"], node["version"])
        self.table(value.fields, node)

    def storage(self, value: Any, node: dict[str, Any]) -> None:
        kind = node["class"].removeprefix("torch.").removesuffix("Storage")
        assert value.shape == (node["size"],)
        assert value.dtype.newbyteorder("=") == DTYPE_OF.get(kind, self.long)
        self.numbers(value, node["values"])

    def tensor(self, value: Any, node: dict[str, Any]) -> None:
        kind = node["class"].removeprefix("torch.").removesuffix("Tensor")
        assert value.dtype.newbyteorder("=") == DTYPE_OF.get(kind, self.long)
        assert value.shape == (tuple(node["size"]) or (0,))
        if node["size"]:
            assert [s // value.itemsize for s in value.strides] == node["stride"]
        assert not value.flags.writeable or value.size == 0
        self.numbers(value, node["values"])
        storage = node["storage"]
        if value.size and "id" in storage:
            address = value.__array_interface__["data"][0] - (node["offset_1based"] - 1) * value.itemsize
            if storage["t"] == "ref" and self.referenced:
                known = self.seen[storage["id"]]
                assert address == (known if isinstance(known, int) else known.__array_interface__["data"][0])
            elif storage["t"] == "storage":
                self.described[storage["id"]], self.seen[storage["id"]] = storage, self.base(value)
                assert self.base(value).__array_interface__["data"][0] == address
                self.storage(self.base(value), storage)
        elif storage["t"] == "storage":
            self.described[storage["id"]], self.seen[storage["id"]] = storage, None

    @staticmethod
    def base(value: np.ndarray) -> np.ndarray:
        assert isinstance(value.base, np.ndarray)
        return value.base

    @staticmethod
    def numbers(value: np.ndarray, expected: list[Any]) -> None:
        wanted = np.array([float(v) if isinstance(v, str) else v for v in expected], value.dtype.newbyteorder("="))
        np.testing.assert_array_equal(value.ravel(), wanted)
        if value.dtype.kind == "f":
            np.testing.assert_array_equal(
                np.signbit(value.ravel())[~np.isnan(wanted)], np.signbit(wanted)[~np.isnan(wanted)]
            )


@pytest.mark.parametrize("variant", ["", "_ascii", "_bigendian", "_noref", "_b32", "_half", "_objkeys"])
def test_every_node_is_what_torch7_says_it_is(t7: Path, variant: str) -> None:
    own = t7 / f"basics{variant}.json"
    described = json.loads((own if own.exists() else t7 / "basics.json").read_text())["root"]
    check = Check(long_size=4 if variant == "_b32" else 8, referenced=variant != "_noref")
    check.node(read_t7(t7 / f"basics{variant}.t7"), described)
    assert check.nodes > 3


ROOTS = {"emptytable": {}, "false": False, "true": True, "nil": None, "number": -23.5, "string": "root string \0 x"}


@pytest.mark.parametrize(("root", "value"), ROOTS.items())
def test_any_value_can_be_the_root(t7: Path, root: str, value: Any) -> None:
    found = read_t7(str(t7 / f"basics_root_{root}.t7"))
    assert found == value
    assert type(found) is type(value)


def test_a_tensor_or_storage_can_be_the_root(t7: Path) -> None:
    np.testing.assert_array_equal(read_t7(t7 / "basics_root_tensor.t7"), np.array([[1, 3], [2, 4]], "f4"))
    np.testing.assert_array_equal(read_t7(t7 / "basics_root_storage.t7"), [3, 1, 4])


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_empty_tensors_and_storages_at_the_end_of_a_file(tmp_path: Path, encoding: dict[str, Any]) -> None:
    assert read(tmp_path, dump(w.Storage("Float", []), **encoding)).shape == (0,)
    assert read(tmp_path, dump(w.Tensor("Long", None, (), ()), **encoding)).shape == (0,)
    assert read(tmp_path, dump(w.Tensor("Long", w.Storage("Long", []), (2, 0), (1, 1)), **encoding)).shape == (2, 0)


def test_of_two_objects_the_first_is_read(t7: Path) -> None:
    assert read_t7(t7 / "basics_two_objects.t7") == {"first": {1: 7.0}}


TWINS = [
    pair
    for twin in ("B_cifar29", "C_cifar11_dpt_basic")
    if None not in (pair := tuple(find_torch7(f"{twin}_{names}.t7") for names in ("cuda", "float")))
]


@pytest.mark.parametrize("pair", TWINS, ids=lambda pair: pair[0].stem)
def test_cuda_names_hold_the_same_as_their_twins(pair: tuple[Path, Path]) -> None:
    arrays = [_arrays(read_t7(path)) for path in pair]
    assert len(arrays[0]) > 50
    assert arrays[0].keys() == arrays[1].keys()
    for path, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][path])


def _arrays(root: Any) -> dict[str, np.ndarray]:
    """All arrays by a path to them, each once."""
    found, seen, waiting = {}, set(), [("", root)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, np.ndarray):
            found[path] = value
            continue
        table = value.fields if isinstance(value, T7Object) else value
        if isinstance(table, dict) and id(table) not in seen:
            seen.add(id(table))
            waiting += [(f"{path}.{key}", item) for key, item in sorted(table.items(), key=lambda p: str(p[0]))]
    return found


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("kind", sorted(w.DTYPES))
def test_every_kind_of_tensor_in_every_encoding(tmp_path: Path, kind: str, encoding: dict[str, Any]) -> None:
    values = np.array([0, 1, 2, 100, 5, 6]).reshape(2, 3)
    found = read(tmp_path, dump({"t": w.make_tensor(values, kind), "s": w.Storage(kind, [7, 8])}, **encoding))
    expected = "i4" if encoding.get("long_size") == 4 and w.DTYPES[kind] == "i8" else w.DTYPES[kind]
    assert found["t"].dtype.newbyteorder("=") == np.dtype(expected)
    np.testing.assert_array_equal(found["t"], values)
    np.testing.assert_array_equal(found["s"], [7, 8])


def test_tensors_of_one_storage_share_its_memory(tmp_path: Path) -> None:
    storage = w.Storage("Double", np.arange(6))
    tensors = {"a": w.Tensor("Double", storage, (2, 3), (3, 1)), "b": w.Tensor("Double", storage, (2,), (2,), 4)}
    found = read(tmp_path, dump(tensors | {"s": storage}))
    assert np.shares_memory(found["a"], found["b"])
    assert np.shares_memory(found["a"], found["s"])
    np.testing.assert_array_equal(found["b"], [3, 5])


def test_arrays_outlive_the_table_and_cannot_be_written(tmp_path: Path) -> None:
    array = read(tmp_path, dump({"t": w.make_tensor(np.arange(3.0))}))["t"]
    gc.collect()
    np.testing.assert_array_equal(array, [0, 1, 2])
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_keys_that_are_equal_in_python_are_not_in_lua(tmp_path: Path) -> None:
    pairs = w.Pairs([(1.0, "one"), (True, "true"), (False, "false"), (0.0, "zero"), (1.5, "more"), ("1", "text")])
    found = read(tmp_path, dump(pairs))
    assert found == {1: "one", T7Key(True): "true", T7Key(False): "false", 0: "zero", 1.5: "more", "1": "text"}
    assert type(next(iter(found))) is int


def test_a_later_nil_removes_an_earlier_value(tmp_path: Path) -> None:
    assert read(tmp_path, dump(w.Pairs([("a", 1.0), ("a", None), ("b", 2.0)]))) == {"b": 2.0}


@pytest.mark.parametrize("kind", [6, 7, 8])
def test_functions_are_skipped(tmp_path: Path, kind: int) -> None:
    function = w.Function(b"os.execute('false')\0\xff", kind, {1: {"name": "up", "value": 3.0}})
    found = read(tmp_path, dump({1: function, 2: function, 3: "after"}))
    assert type(found[1]) is T7Function
    assert (found[1] is found[2]) == (kind != 6)
    assert found[3] == "after"


@pytest.mark.parametrize("version", [None, 0, 1, 2, 3])
def test_versions_of_a_class(tmp_path: Path, version: int | None) -> None:
    before = {1: 1.0, 2: 2.0} if version in (2, 3) else None
    wrapper = w.Object("nn.DataParallelTable", {"dimension": 1.0}, version, before)
    found = read(tmp_path, dump({1: wrapper, 2: "after"}))
    assert (found[1].class_name, found[1].version, found[2]) == ("nn.DataParallelTable", version or 0, "after")
    assert found[1].fields == {"dimension": 1.0} | ({"gpuAssignments": before} if before else {})


def test_a_cycle_through_the_fields_of_an_object(tmp_path: Path) -> None:
    wrapper = w.Object("nn.DataParallelTable", {}, 3, {1: 1.0})
    wrapper.fields["impl"] = w.Object("nn.DataParallelTable.Basic", {"dpt": wrapper})
    found = read(tmp_path, dump(wrapper))
    assert found.fields["impl"].fields["dpt"] is found
    assert "2 fields" in repr(found)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8).map(lambda b: b.decode("utf-8", "surrogateescape")),
)


@st.composite
def tensors(draw: st.DrawFn) -> w.Tensor:
    kind = draw(st.sampled_from(["Byte", "Char", "Short", "Int", "Long", "Float", "Double", "Cuda"]))
    values = draw(st.lists(st.integers(-100, 100) if kind != "Byte" else st.integers(0, 255), min_size=1, max_size=12))
    sizes, strides, last = [], [], draw(st.integers(0, len(values) - 1))
    offset = last
    for _ in range(draw(st.integers(0, 4))):
        stride = draw(st.integers(0, 3))
        size = draw(st.integers(1, 3))
        if last + (size - 1) * stride >= len(values):
            size = 1
        last += (size - 1) * stride
        sizes.append(size)
        strides.append(stride)
    return w.Tensor(kind, w.Storage(kind, values), tuple(sizes), tuple(strides), offset + 1)


VALUES = st.recursive(
    st.one_of(SCALARS, tensors()),
    lambda inner: st.one_of(
        st.dictionaries(st.one_of(st.text(max_size=4), st.floats(allow_nan=False)), inner, max_size=4),
        st.builds(
            w.Object,
            st.sampled_from(["nn.Linear", "demo.Point", "os.system"]),
            st.dictionaries(st.text(max_size=4), inner, max_size=3),
            st.sampled_from([None, 0, 1, 12]),
        ),
    ),
    max_leaves=12,
)


def simple(value: Any) -> Any:
    """What was read, as ``t7_writer.plain`` says it."""
    if isinstance(value, T7Object):
        return (value.class_name, value.version, simple(value.fields))
    if isinstance(value, dict):
        return {key: simple(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@settings(max_examples=150)
@given(value=VALUES, encoding=st.sampled_from(ENCODINGS))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, value: Any, encoding: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("t7") / "x.t7"
    path.write_bytes(dump(value, **encoding))
    assert simple(read_t7(path)) == w.to_plain(value)


def test_torch7_files_are_recognised_by_their_first_bytes(t7: Path) -> None:
    files = [*t7.glob("*.t7"), *t7.glob("checkpoint*/*.t7")]
    assert len(files) > 16
    for path in files:
        assert can_be_t7(path.read_bytes()[:64]), path.name


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x80\x02}q\0(X\x05\0\0\0",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        b"}q\x01(U\x05blobs",
        b"PK\x03\x04" + bytes(60),
        b"\x02" + bytes(7) + b"{}",
        b"\x03" + bytes(7) + b"{ }",
        b"\x08" + bytes(7) + b"{}      ",
        b"\xd8\x04" + bytes(6) + b'{"__metadata__":',
        b"<!DOCTYPE html><html>",
        b"3\nlines of\ntext",
        b"4\n1\n2\n3\n4\n5\n6\n",
        b"1,2,3\n",
        b"{}",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\xff\xd8\xff\xe0",
        b"\0\0\x08\x03\0\0\xea\x60\0\0\0\x1c",
        b"\0\0\0\x18ftypmp42",
        b"\0asm\1\0\0\0",
        bytes(64),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"model.ckpt\0" + bytes(60),
    ],
)
def test_other_files_are_not_taken_for_torch7(head: bytes) -> None:
    assert not can_be_t7(head)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.t7"):
        with pytest.raises(RequestError, match="is not a file"):
            read_t7(path)


def test_numbers_in_text_take_no_more_memory_than_the_array(tmp_path: Path) -> None:
    data = dump(w.Storage("Float", np.full(200_000, 12)), ascii=True)
    tracemalloc.start()
    assert read(tmp_path, data).sum() == 2_400_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 << 20


def test_more_dimensions_than_any_numpy_has_are_refused(tmp_path: Path) -> None:
    most, too_many = (w.Tensor("Float", w.Storage("Float", [1.0]), (1,) * n, (1,) * n) for n in (32, 33))
    assert read(tmp_path, dump(most)).shape == (1,) * 32
    with pytest.raises(RequestError, match="at most 32 dimensions, found 33"):
        read(tmp_path, dump(too_many))
