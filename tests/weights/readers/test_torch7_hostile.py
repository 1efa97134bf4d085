"""Torch7 files made to hurt: each is read as Torch7 would, or is one RequestError, in bounded time and memory."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.weights.adapters.torch7.network import adapt
from resnext.weights.build import build_network
from resnext.weights.network_spec import RawCheckpoint
from resnext.weights.readers.torch7 import T7Function, T7Key, T7Object, read_t7
from tests.sample_files import unpack_torch7
from tests.weights.readers import torch7_writer as w
from tests.weights.readers.test_torch7 import read
from tests.weights.readers.torch7_writer import dump

T7 = unpack_torch7()
HOSTILE = T7 / "hostile"
LISTED = json.loads((HOSTILE / "hostile.json").read_text())["files"]

LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from resnext.errors import RequestError
from resnext.weights.network_spec import RawCheckpoint
from resnext.weights.readers.torch7 import read_t7
from resnext.weights.adapters.torch7.network import adapt
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
for name in sys.argv[1:]:
    outcome = {"file": name}
    try:
        value = read_t7(name)
        outcome["read"] = type(value).__name__
        outcome["adapted"] = adapt(RawCheckpoint(path=Path(name), file_format="torch7", value=value)).architecture.name
    except RequestError as error:
        outcome["refused"] = str(error)
    print(json.dumps(outcome), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, str]]:
    """What became of every listed file in one process that may take a quarter of a GB and a minute."""
    command = [sys.executable, "-c", LIMITED, *(str(HOSTILE / entry["file"]) for entry in LISTED)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-2000:]
    return {Path(outcome["file"]).name: outcome for outcome in map(json.loads, run.stdout.splitlines())}


def model(name: str) -> RawCheckpoint:
    return RawCheckpoint(path=HOSTILE / name, file_format="torch7", value=read_t7(HOSTILE / name))


def test_the_list_is_whole() -> None:
    assert len(LISTED) == 73
    assert {entry["expect"] for entry in LISTED} == {"reject", "accept", "policy"}


@pytest.mark.parametrize("entry", LISTED, ids=lambda entry: entry["file"])
def test_each_file_ends_as_expected(entry: dict[str, Any], outcomes: dict[str, dict[str, str]]) -> None:
    outcome = outcomes[entry["file"]]
    is_model = entry["file"].startswith("model_")
    if "refused" in outcome:
        assert outcome["refused"].startswith(str(HOSTILE / entry["file"]))
        assert len(outcome["refused"]) < 600
        assert "\n" not in outcome["refused"]
    if entry["expect"] == "reject":
        assert "adapted" not in outcome
        assert is_model or "read" not in outcome
    if entry["expect"] == "accept":
        assert ("adapted" if is_model else "read") in outcome


@pytest.mark.parametrize("entry", [e for e in LISTED if "[" in str(e.get("torch7_forward"))], ids=lambda e: e["file"])
def test_outputs_are_those_of_torch7(entry: dict[str, Any]) -> None:
    """The bias of model_conv_with_bias and the doubles of model_conv_weight_double_dtype are used, not dropped."""
    network = build_network(adapt(model(entry["file"])), "it")
    images = np.fromfile(HOSTILE / "model_tiny_input.bin", "<f4").reshape(1, 3, 32, 32)
    with torch.no_grad():
        outputs = network(torch.from_numpy(images))[0]
    forward = entry["torch7_forward"]
    expected = torch.tensor(json.loads(forward) if isinstance(forward, str) else forward)
    torch.testing.assert_close(outputs, expected.flatten(), rtol=1e-5, atol=1e-6)


def test_accepted_files_mean_what_they_should() -> None:
    cycle = read_t7(HOSTILE / "cycle_table.t7")
    assert cycle["me"] is cycle
    assert cycle["list"][1] is cycle
    assert read_t7(HOSTILE / "nil_value.t7") == {"b": 2.0}
    assert read_t7(HOSTILE / "key_int_and_float.t7") == {1: "x", 1.5: "y", T7Key(True): "true key"}
    level, levels = read_t7(HOSTILE / "shared_doubling_60.t7"), 1
    while isinstance(level.get(1), dict):
        assert level[1] is level[2]
        level, levels = level[1], levels + 1
    assert levels in (60, 61)


def test_what_policy_allows_is_read_like_torch7() -> None:
    for name in ("index_zero", "ref_type_mismatch"):
        table = read_t7(HOSTILE / f"{name}.t7")
        assert table["a"] is table
    functions = read_t7(HOSTILE / "function_type8.t7")
    assert type(functions["f"]) is T7Function
    assert functions["f"] is functions["same"]
    assert functions["after"] == "after the function"
    assert type(read_t7(HOSTILE / "function_type6.t7")) is T7Function
    unknown = read_t7(HOSTILE / "unknown_class.t7")
    assert (unknown["after"], unknown["thing"].class_name) == ("still here", "evil.Thing")
    assert read_t7(HOSTILE / "trailing_garbage.t7") == 3.5
    np.testing.assert_array_equal(read_t7(HOSTILE / "version_99.t7"), [1])


def test_fields_never_become_attributes() -> None:
    odd = read_t7(HOSTILE / "class_dunder.t7")
    assert type(odd) is T7Object
    assert odd.fields == {"__class__": 1.0, "__dict__": {}, "__setattr__": 1.0}
    assert not hasattr(odd, "__dict__")


def test_a_deep_value_can_be_walked_compared_and_freed() -> None:
    for name, deepest in (("deep_10000", 10_000), ("deep_objects_5000", 5_000)):
        value = read_t7(HOSTILE / f"{name}.t7")
        inner, depth = value, 0
        while isinstance(inner, T7Object | dict):
            inner = next(iter((inner.fields if isinstance(inner, T7Object) else inner).values()), None)
            depth += 1
        assert depth >= deepest
        if isinstance(value, dict):
            with pytest.raises(RecursionError):
                assert value == read_t7(HOSTILE / f"{name}.t7")
        del value, inner
        gc.collect()


def test_deeper_than_any_file_of_torch7(tmp_path: Path) -> None:
    level = b"\x03\0\0\0%b\x01\0\0\0\x01\0\0\0" + np.array([1.0]).tobytes()
    value = read(tmp_path, b"".join(level % i.to_bytes(4, "little") for i in range(1, 100_001)) + bytes(4))
    assert list(value) == [1]
    del value
    gc.collect()


def test_an_expanded_tensor_has_its_limit(tmp_path: Path) -> None:
    storage = w.Storage("Float", [5])
    assert read(tmp_path, dump(w.Tensor("Float", storage, (1000, 1000), (0, 0)))).sum() == 5_000_000
    with pytest.raises(RequestError, match="too large for a file of"):
        read(tmp_path, dump(w.Tensor("Float", storage, (2000, 2000), (0, 0))))


@pytest.mark.parametrize(
    "text",
    ["1\n1_0\n", "1\n0x10\n", "1\n", "2\n3\nab", "3\n1\n9999\n", "5\n99999999999\n", "1\n" + "9" * 5000 + "\n", "7"],
)
def test_odd_text_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError, match="is not a complete Torch7 file: at byte"):
        read(tmp_path, text.encode())


def test_text_of_numbers_too_large_for_their_storage(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="too large"):
        read(tmp_path, dump(w.Storage("Int", [1, 2]), ascii=True).replace(b"1 2", b"1 4294967296"))


def end(path: Path) -> str:
    """How reading and adapting ends; anything but a value or a RequestError that names the path is raised."""
    try:
        value = read_t7(path)
        adapt(RawCheckpoint(path=path, file_format="torch7", value=value))
    except RequestError as error:
        assert str(error).startswith(str(path))
        return "refused"
    return "value"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "x.t7"


ORIGINALS = ("basics.t7", "basics_ascii.t7", "basics_b32.t7", "hostile/model_ok_tiny.t7")


@settings(max_examples=150)
@given(name=st.sampled_from(ORIGINALS), share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(scratch: Path, name: str, share: float) -> None:
    data = (T7 / name).read_bytes()
    scratch.write_bytes(data[: int(share * len(data))])
    assert end(scratch) == "refused"
    if "ascii" not in name:  # without its last newline a text is whole
        with pytest.raises(RequestError):
            read_t7(scratch)


@settings(max_examples=300)
@given(
    name=st.sampled_from(ORIGINALS),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_a_file_of_flipped_bytes_is_read_or_refused(scratch: Path, name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray((T7 / name).read_bytes())
    for share, mask in flips:
        data[int(share * len(data))] ^= mask
    scratch.write_bytes(data)
    assert end(scratch) in ("value", "refused")


@settings(max_examples=200)
@given(data=st.one_of(st.binary(max_size=200), st.text("0123456789\n V.-einfa", max_size=100).map(str.encode)))
def test_random_bytes_are_read_or_refused(scratch: Path, data: bytes) -> None:
    scratch.write_bytes(data)
    assert end(scratch) == "refused"
