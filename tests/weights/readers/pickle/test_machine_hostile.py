"""Nothing in a pickle is executed, and none takes more time or memory than its size allows."""

import gc
import os
import pickle
import resource
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.weights.readers.pickle.values import MAX_DEPTH
from resnext.weights.readers.torch_tensors import ALLOWED_NAMES
from tests.weights.readers.pickle.pickle_maker import Evil, array2, loads, string2
from tests.weights.readers.torch_maker import flip_bits


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def refused(data: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        loads(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def harmless(data: bytes) -> None:
    try:
        loads(data)
    except RequestError as error:
        assert "\n" not in str(error)
        assert str(error)


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


# every way a pickle has to call something; %s are the module, the name and the argument
ROUTES = {
    "GLOBAL REDUCE": lambda m, n, a: b"c%s\n%s\n(%stR." % (m, n, text(a)),
    "STACK_GLOBAL REDUCE": lambda m, n, a: text(m.decode()) + text(n.decode()) + b"\x93(" + text(a) + b"tR.",
    "INST": lambda m, n, a: b"(%si%s\n%s\n." % (text(a), m, n),
    "OBJ": lambda m, n, a: b"(c%s\n%s\n%so." % (m, n, text(a)),
    "NEWOBJ": lambda m, n, a: b"\x80\x02c%s\n%s\n(%st\x81." % (m, n, text(a)),
    "NEWOBJ_EX": lambda m, n, a: b"\x80\x04c%s\n%s\n(%st}\x92." % (m, n, text(a)),
    "BUILD": lambda m, n, a: b"\x80\x02c%s\n%s\n)\x81}%sNsb." % (m, n, text("__setstate__")),
    "as a key": lambda m, n, a: b"}c%s\n%s\nNs." % (m, n),
    "as data": lambda m, n, a: b"](c%s\n%s\ne." % (m, n),
    "dropped": lambda m, n, a: b"c%s\n%s\n0N." % (m, n),
}
NAMED = [
    "os:system", "posix:system", "nt:system", "builtins:eval", "__builtin__:exec", "builtins:getattr",
    "builtins:__import__", "builtins:object.__subclasses__", "collections:OrderedDict.__init__.__globals__",
    "subprocess:Popen", "torch.hub:load", "torch:load", "torch.storage:_load_from_bytes", "torch.serialization:load",
    "torch._utils:_rebuild_tensor.__globals__", "numpy:load", "numpy.testing._private.utils:runstring",
    "copyreg:add_extension", "copyreg:__newobj__", "operator:attrgetter", "functools:partial", "timeit:timeit",
    "runpy:run_path", ":",
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("named", NAMED)
def test_no_route_reaches_a_name_outside_of_the_list(route: str, named: str, canary: Path) -> None:
    module, name = named.split(":")
    said = refused(ROUTES[route](module.encode(), name.encode(), f"touch {canary}"))
    assert f"refers to {module}.{name}, which is not data; nothing was executed" in said
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_what_runs_in_an_ordinary_unpickler_does_not_run_here(protocol: int, canary: Path) -> None:
    data = pickle.dumps({"state_dict": Evil(f"touch {canary}")}, protocol)
    assert f"{os.system.__module__}.system" in refused(data)
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()  # so the pickle does what it says


@pytest.mark.parametrize("extension", [b"\x82\1", b"\x83\1\0", b"\x84\1\0\0\0"])
def test_extension_codes_are_refused(extension: bytes) -> None:
    assert "extension code" in refused(b"\x80\x02" + extension + b".")


def test_buffers_and_identities_outside_of_the_file_are_refused() -> None:
    assert "buffer" in refused(b"\x80\x05\x97.")
    assert "buffer" in refused(b"\x80\x05C\1x\x98.")
    assert "persistent" in refused(b"Pos.system\n.")


def test_a_nasty_name_stays_on_one_line_of_the_terminal() -> None:
    said = refused(text("os\n\x1b[2J") + text("x" * 3000) + b"\x93.")
    assert "os\\n\\x1b[2J" in said


@pytest.mark.parametrize("arguments", [
    b")", b"N\x85", b"}\x85", b"]\x85", b"(K\1K\2K\3t", b"X\1\0\0\0a\x85", b"((tttt", b"(NNNNNNt", b"\x8f\x85",
    b"(X\1\0\0\0aX\6\0\0\0latin1t", b"(]]a}]NNNt", b"(G\x7f\xf0\0\0\0\0\0\0\x89t", b"K\1\x85\x85",
])  # fmt: skip
def test_an_allowed_name_with_any_arguments_gives_a_value_or_an_error(arguments: bytes) -> None:
    endings = (b"R.", b"R}b.", b"R(K\3X\1\0\0\0<NNNK\1K\1K\0tb.", b"\x81}X\1\0\0\0aNsb.", b"RNb.", b"R)b.")
    for name in ALLOWED_NAMES:
        module, _, last = name.rpartition(".")
        for ending in endings:
            harmless(b"\x80\x04" + b"c%s\n%s\n" % (module.encode(), last.encode()) + arguments + ending)


def test_attributes_of_an_object_are_entries_of_a_table() -> None:
    for attribute in ("__class__", "__dict__", "__setstate__", "build", "items"):
        found = loads(b"\x80\x02cargparse\nNamespace\n)\x81}" + text(attribute) + b"K\1sb.")
        assert found == {attribute: 1}
        assert isinstance(found, dict)
        assert callable(found.items)


# sizes that are not there

SIZES = {
    "memo": b"Nr\xff\xff\xff\x7f.",
    "memo in text": b"Np2147483648\n.",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 10**15) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**64 - 1) + b"x.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 10**15) + b"x.",
    "short bytes": b"B\xff\xff\xff\xffx.",
    "python 2": b"T\xff\xff\xff\x7fx.",
    "long": b"\x80\x02\x8b\xff\xff\xff\x7fx.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 10**15) + b"N\x8e" + struct.pack("<Q", 10**15) + b".",
    "array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85U\1btR(K\1J\xff\xff\xff\x7f\x85"
    b"cnumpy\ndtype\n(U\2f8K\0K\1tR\x89U\1xtb.",
}


@pytest.mark.parametrize("what", SIZES)
def test_a_declared_size_allocates_nothing(what: str) -> None:
    gc.collect()
    tracemalloc.start()
    refused(SIZES[what])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


GROWING = {
    "lists of a list": b"]q\0(" + b"N" * 50_000 + b"e" + b"](" + b"cbuiltins\nlist\nh\0\x85R" * 5000 + b"e.",
    "sets of a list": b"]q\0(" + b"N" * 50_000 + b"e" + b"](" + b"cbuiltins\nset\nh\0\x85R" * 5000 + b"e.",
    "tables of a table": b"}q\0(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(9999)) + b"u("
    + b"ccollections\nCounter\nh\0\x85R" * 5000 + b"t.",
    "records of a table": b"}q\0(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(9999)) + b"u("
    + b"cargparse\nNamespace\n)\x81h\0b" * 5000 + b"t.",
    "bytes of text": text("x" * 100_000) + b"q\0(" + b"c_codecs\nencode\n(h\0X\6\0\0\0latin1tR" * 5000 + b"t.",
    "paths": text("x" * 4000) + b"q\0((" + b"h\0" * 1000 + b"tq\1" + b"cpathlib\nPosixPath\nh\1R" * 5000 + b"t.",
    "arrays": b"\x80\x02" + string2(b"x" * 100_000) + b"q\0(" + (
        array2(np.zeros(100_000, np.uint8)).replace(string2(b"\0" * 100_000), b"h\0")) * 5000 + b"t.",
}  # fmt: skip


@pytest.mark.parametrize("what", GROWING)
def test_copies_of_copies_are_refused_before_they_fill_the_memory(what: str) -> None:
    gc.collect()
    tracemalloc.start()
    said = refused(GROWING[what])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "copies its own parts" in said
    assert peak < 100 << 20


# shapes of values

NESTED = {
    "lists": lambda n: b"]" * n + b"a" * (n - 1) + b".",
    "tuples": lambda n: b")" + b"\x85" * (n - 1) + b".",
    "tables": lambda n: b"}" + b"K\0}" * (n - 1) + b"s" * (n - 1) + b".",
    "records": lambda n: b"cargparse\nNamespace\nq\0)R" + b"K\0h\0)R" * (n - 1) + b"s" * (n - 1) + b".",
    "states": lambda n: b"cargparse\nNamespace\nq\0)R" + b"}K\0h\0)R" * (n - 1) + b"sb" * (n - 1) + b".",
    "marks": lambda n: b"(" * n + b"t" * n + b".",
}


@pytest.mark.parametrize("what", NESTED)
def test_deep_nesting_is_refused_and_can_be_freed(what: str) -> None:
    assert repr(loads(NESTED[what](MAX_DEPTH)))  # by recursion
    for depth in (MAX_DEPTH + 2, 10_000, 100_000):  # the innermost is empty and does not count
        assert "deep" in refused(NESTED[what](depth))
    gc.collect()


def test_parts_shared_without_end_are_refused() -> None:
    assert "expands" in refused(b"]" + b"q\0]h\0ah\0a" * 60 + b".")
    assert "expands" in refused(b")" + b"q\0h\0\x86" * 60 + b".")


def test_a_value_inside_itself_is_refused() -> None:
    inside: list[object] = []
    inside.append({"a": (inside,)})
    for protocol in range(6):
        assert "contains itself" in refused(pickle.dumps(inside, protocol))


def test_nested_tuples_as_keys_are_refused_unhashed() -> None:
    """2^60 hashes."""
    nested = b")" + b"q\0h\0\x86" * 60
    for data in (b"}" + nested + b"Ns.", b"\x8f(" + nested + b"\x90.", b"(" + nested + b"\x91."):
        assert "as a key" in refused(data) or "short tuple" in refused(data)
    assert "as a key" in refused(b"cbuiltins\nset\n]" + nested + b"a\x85R.")


@pytest.mark.slow
def test_torch_itself_hangs_on_nested_tuples_as_keys(tmp_path: Path) -> None:
    """Why torch.load(weights_only=True) is not enough. Should this fail one day, torch has been mended."""
    path = tmp_path / "bomb.pth"
    program = (
        "import io, struct, sys, zipfile, torch\n"
        "data = b'\\x80\\x02})' + b'q\\0h\\0\\x86' * 60 + b'Ns.'\n"
        "torch.save({}, sys.argv[1])\n"
        "new = io.BytesIO()\n"
        "with zipfile.ZipFile(sys.argv[1]) as old, zipfile.ZipFile(new, 'w') as out:\n"
        "    for name in old.namelist():\n"
        "        out.writestr(name, data if name.endswith('data.pkl') else old.read(name))\n"
        "open(sys.argv[1], 'wb').write(new.getvalue())\n"
        "print('made', flush=True)\n"
        "torch.load(sys.argv[1], weights_only=True)\n"
        "print('loaded', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            return
        pytest.fail(f"torch.load came back: {process.stdout.read()}")


def test_keys_whose_hashes_collide_are_refused_by_their_number() -> None:
    """Multiples of 2^61 - 1 all have the hash 0."""
    collide = b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(1, 20_000))
    assert "keys that are not text" in refused(b"\x80\x02}(" + collide + b"u.")
    floats = b"".join(b"G" + struct.pack(">d", 2.0**i) for i in range(-1000, 1000)) * 6
    assert "keys that are not text" in refused(b"\x80\x04\x8f(" + floats + b"\x90.")


def test_too_many_instructions_are_refused() -> None:
    assert "instructions" in refused(b"]" + b"Na" * 600_000 + b".")


def test_many_sets_stay_within_bounds() -> None:
    """The instruction that takes most memory by the byte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(loads(b"\x80\x04](" + b"\x8f" * 100_000 + b"e.")) == 100_000
    for one in (b"\x8f", b"(\x91"):
        assert "copies its own parts" in refused(b"\x80\x04](" + one * 500_000 + b"e.")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize("empty", [b"]", b"}", b")"])
def test_a_million_empty_tables_stay_within_bounds(empty: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(loads(b"](" + empty * 1_000_000 + b"e.")) == 1_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10


# anything

SAMPLE = pickle.dumps(
    {"state": {"a": np.arange(3.0), "b": [1, None, "x", b"y", (1.5, True)]}, "n": {1, 2}, "l": 2**80}, 2
)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_cut_off_anywhere_is_refused(protocol: int) -> None:
    data = pickle.dumps(pickle.loads(SAMPLE), protocol)
    for end in range(len(data)):
        refused(data[:end])


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_bytes_give_a_value_or_an_error(data: bytes) -> None:
    harmless(data)


@given(st.integers(0, len(SAMPLE) * 8 - 1), st.integers(0, len(SAMPLE) * 8 - 1), st.sampled_from(range(6)))
@settings(max_examples=500)
def test_flipped_bits_give_a_value_or_an_error(first: int, second: int, protocol: int) -> None:
    harmless(flip_bits(pickle.dumps(pickle.loads(SAMPLE), protocol), (first, second)))


PIECES = [bytes([b]) for b in b"()]}.0129abdeghilmoprstuNQR\x81\x85\x86\x87\x88\x8f\x90\x91\x92\x93\x94"]
PIECES += [b"q\0", b"h\0", b"q\1", b"h\1", b"K\1", b"I01\n", b"F1.5\n", b"X\1\0\0\0a", b"U\1b", b"C\1c", b"\x8a\1\xff"]
PIECES += [b"c%s\n%s\n" % tuple(part.encode() for part in name.rsplit(".", 1)) for name in ALLOWED_NAMES]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
@settings(max_examples=1000)
def test_any_instructions_give_a_value_or_an_error(data: bytes) -> None:
    harmless(data + b".")
