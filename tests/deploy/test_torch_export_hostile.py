"""Tests of hostile and damaged .pt2 files: nothing in them is executed, and memory stays bounded."""

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnext import RequestError, WorkError
from resnext.deploy import torch_trial
from resnext.deploy.torch_export_reader import CONSTANTS, MODEL, WEIGHTS
from resnext.deploy.torch_operators import CHECKS, OPERATORS
from tests.deploy.torch_archives import (
    Entries,
    change_json,
    get_nodes,
    make_network,
    open_engine,
    pack,
    read_entries,
    write,
)

pytestmark = pytest.mark.usefixtures("one_thread")
Attack = Callable[[Entries, Path], Entries]


class Payload:
    """Unpickling it creates the file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    return read_entries(write(make_network(), tmp_path_factory.mktemp("good") / "m.pt2"))


@pytest.fixture(scope="module")
def picture_entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    return read_entries(write(make_network(), tmp_path_factory.mktemp("picture") / "m.pt2", input="picture"))


def get_refusal(data: bytes, folder: Path) -> str:
    """The sentence in which the file is refused."""
    path = folder / "hostile.pt2"
    path.write_bytes(data)
    with pytest.raises(RequestError) as caught:
        open_engine(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def save(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickle_weight(entries: Entries, mark: Path) -> Entries:
    def change(config: Any) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    return change_json(entries, WEIGHTS, change) | {"data/weights/weight_0": save(Payload(mark))}


def add_constant(prefix: str, data: Callable[[Payload], bytes]) -> Attack:
    def change(entries: Entries, mark: Path) -> Entries:
        meta = {"path_name": f"{prefix}0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        changed = change_json(entries, CONSTANTS, lambda config: config["config"].update(x=meta))
        return changed | {f"data/constants/{prefix}0": data(Payload(mark))}

    return change


def pickle_example(entries: Entries, mark: Path) -> Entries:
    return entries | {"data/sample_inputs/model.pt": save(Payload(mark))}


def hide_expression(entries: Entries, mark: Path) -> Entries:
    text = f"__import__('pathlib').Path({str(mark)!r}).touch() or 1"

    def change(program: Any) -> None:
        values = program["graph_module"]["graph"]["tensor_values"]
        expression = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}
        for value in values.values():
            value["sizes"][0] = expression
        program["guards_code"] = [text]

    return change_json(entries, MODEL, change)


def call_system(entries: Entries, mark: Path) -> Entries:
    def change(program: Any) -> None:
        node = get_nodes(program)[0]
        node["target"] = "torch.os.system"
        node["inputs"] = [{"name": "command", "arg": {"as_string": f"touch {mark}"}, "kind": 1}]

    return change_json(entries, MODEL, change)


EXECUTED: dict[str, Attack] = {  # torch.export.load, which we do not use, executes these
    "constant": add_constant("tensor_", save),
    "opaque object": add_constant("opaque_obj_", lambda payload: pickle.dumps(payload)),
}
ATTACKS = EXECUTED | {
    "weight": pickle_weight,
    "custom object": add_constant("custom_obj_", save),
    "operator": call_system,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_code_in_a_file_is_refused_and_not_executed(name: str, entries: Entries, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    get_refusal(pack(ATTACKS[name](entries, mark)), tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", EXECUTED)
def test_the_attacks_are_real(name: str, entries: Entries, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "m.pt2").write_bytes(pack(EXECUTED[name](entries, mark)))
    with suppress(Exception):
        torch.export.load(tmp_path / "m.pt2")
    assert mark.exists()


@pytest.mark.parametrize("attack", [hide_expression, pickle_example])
def test_code_in_parts_that_are_not_read_is_not_executed(attack: Attack, entries: Entries, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "m.pt2").write_bytes(pack(attack(entries, mark)))
    engine = open_engine(tmp_path / "m.pt2")
    engine(np.zeros((1, 32, 32, 3), np.uint8))
    assert not mark.exists()


def change_node(**changes: object) -> Callable[[Any], None]:
    return lambda program: get_nodes(program)[-3].update(changes)


def set_argument(target: str, name: str, value: object) -> Callable[[Any], None]:
    def change(program: Any) -> None:
        node = next(node for node in get_nodes(program) if node["target"] == f"torch.ops.aten.{target}")
        pair = next((pair for pair in node["inputs"] if pair["name"] == name), None)
        if pair is None:
            pair = {"name": name, "kind": 1}
            node["inputs"].append(pair)
        pair["arg"] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_node(target="torch.ops.higher_order.cond"), "has the operator 'torch.ops.higher_order.cond'"),
        (change_node(target="torch.ops.aten.set_.source_Tensor"), "only the operators that resnext export writes"),
        (change_node(target="torch.ops.aten.relu.default\n"), "has the operator"),
        (change_node(outputs=[]), "has 0 results"),
        (change_node(inputs=[]), "lacks the argument"),
        (change_node(inputs="self"), "lacks 'inputs'"),
        (set_argument("relu.default", "self", {"as_graph": {"name": "x", "graph": {}}}), "of another kind than tensor"),
        (set_argument("relu.default", "self", {"as_tensor": {"name": "later"}}), "which nothing computes before"),
        (set_argument("relu.default", "out", {"as_tensor": {"name": "images"}}), "argument 'out', which is not"),
        (set_argument("conv2d.default", "stride", {"as_ints": [0, 0]}), "a number outside of 1 to"),
        (set_argument("conv2d.default", "stride", {"as_ints": [2**70]}), "a number outside of 1 to"),
        (set_argument("conv2d.default", "groups", {"as_int": 10**6}), "its graph cannot be run"),
        (set_argument("conv2d.default", "padding", {"as_ints": [10**6, 10**6]}), "takes more than 4 GB for each image"),
        (set_argument("conv2d.default", "padding", {"as_string": "same"}), "of another kind than ints"),
        (set_argument("mean.dim", "dim", {"as_ints": [7]}), "its graph cannot be run: Dimension out of range"),
        (set_argument("softmax.int", "dim", {"as_int": True}), "a number outside of"),
        (lambda program: program["schema_version"].update(major=9), "schema 9, but this program reads schema 8"),
        (lambda program: program.pop("graph_module"), "no schema version, or no graph"),
        (lambda program: program["graph_module"]["graph"].update(outputs=[]), "no outputs"),
        (
            lambda program: program["graph_module"]["graph"].update(
                outputs=program["graph_module"]["graph"]["outputs"][:1]
            ),
            "has 1 outputs, not logits, probabilities",
        ),
        (
            lambda program: program["graph_module"]["graph"].update(nodes=[{}] * 20_001),
            "operators; at most 20,000 are read",
        ),
        (lambda program: get_nodes(program).append(get_nodes(program)[-1]), "twice"),
    ],
)
def test_a_graph_that_we_do_not_write_is_one_sentence(
    change: Callable[[Any], None], sentence: str, entries: Entries, tmp_path: Path
) -> None:
    assert sentence in get_refusal(pack(change_json(entries, MODEL, change)), tmp_path)


def first_weight(**changes: object) -> Callable[[Any], None]:
    return lambda config: next(iter(config["config"].values())).update(changes)


def first_meta(**changes: object) -> Callable[[Any], None]:
    return lambda config: next(iter(config["config"].values()))["tensor_meta"].update(changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (first_weight(path_name="../models/model.json"), "is missing"),
        (first_weight(path_name="weight_999"), "is missing"),
        (first_meta(storage_offset={"as_int": 1}), "is not stored as plain numbers"),
        (first_meta(sizes=[{"as_int": 2**39}], strides=[{"as_int": 1}]), "is larger than its bytes"),
        (first_meta(sizes=[{"as_int": -1}]), "is not a list of whole numbers"),
        (first_meta(strides=[{"as_int": 7}]), "is not stored as plain numbers"),
        (first_meta(dtype=16), "is not stored as plain numbers"),
        (lambda config: config["config"].clear(), "is not stored as plain numbers"),
    ],
)
def test_weights_that_we_do_not_write_are_one_sentence(
    change: Callable[[Any], None], sentence: str, entries: Entries, tmp_path: Path
) -> None:
    assert sentence in get_refusal(pack(change_json(entries, WEIGHTS, change)), tmp_path)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"../../etc/passwd": b""}, "leads out of the archive"),
        ({"data/aotinductor/model/x.so": b""}, "has the entry data/aotinductor/model/x.so, which no file"),
        ({"models/other.json": b"{}"}, "has the entry models/other.json"),
        ({"data/weights/weight_1.so": b""}, "has the entry data/weights/weight_1.so"),
        ({"serialized_exported_program.json": b"{}"}, "written by torch 2.8 or before"),
        ({"data/weights/model.pt": b""}, "written by torch 2.8 or before"),
        ({"archive_format": b"pt3"}, "its archive_format is not pt2"),
        ({"archive_version": b"1"}, "its archive_version is not 0"),
        ({"byteorder": b"big"}, "not in the byte order little"),
        ({MODEL: b"[" * 100_000}, "is not JSON"),
        ({MODEL: b"\xff"}, "is not text"),
        ({MODEL: b"[" + b"1," * (7 << 20)}, "bytes; at most"),
        ({"extra/resnext.json": b"{}"}, "has no schema number"),
    ],
)
def test_entries_that_we_do_not_write_are_one_sentence(
    extra: Entries, sentence: str, entries: Entries, tmp_path: Path
) -> None:
    assert sentence in get_refusal(pack(entries | extra), tmp_path)


def test_a_program_of_others_is_not_ours(entries: Entries, tmp_path: Path) -> None:
    others = {name: data for name, data in entries.items() if not name.startswith("extra/")}
    assert "was not written by resnext export" in get_refusal(pack(others), tmp_path)


def test_compressed_entries_are_refused_before_they_are_unpacked(entries: Entries, tmp_path: Path) -> None:
    bomb = pack(entries | {"data/weights/weight_0": bytes(200 << 20)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    assert "compressed zip entry" in get_refusal(bomb, tmp_path)


def test_a_truncated_file_is_refused_at_any_length(entries: Entries, tmp_path: Path) -> None:
    data = pack(entries)
    for length in (0, 1, 4, 100, len(data) // 2, len(data) - 1):
        get_refusal(data[:length], tmp_path)


def test_an_info_with_an_absurd_batch_is_refused(entries: Entries, tmp_path: Path) -> None:
    for batch in (0, -1, 10**30):
        changed = change_json(entries, "extra/resnext.json", lambda info, batch=batch: info.update(batch=batch))
        assert f"its batch {batch} is not between" in get_refusal(pack(changed), tmp_path)


def test_a_hostile_file_is_refused_in_bounded_memory(entries: Entries, tmp_path: Path) -> None:
    huge = change_json(entries, MODEL, set_argument("conv2d.default", "padding", {"as_ints": [3 * 10**4, 3 * 10**4]}))
    lists = entries | {MODEL: b"[" + b"[]," * (3 << 20) + b"[]]"}
    for i, one in enumerate((huge, lists)):
        (tmp_path / f"{i}.pt2").write_bytes(pack(one))
    code = (
        "import resource, sys; from tests.deploy.torch_archives import open_engine; from pathlib import Path;"
        "from resnext import RequestError; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: open_engine(Path(path)); print('opened')\n"
        "    except RequestError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    paths = [str(tmp_path / f"{i}.pt2") for i in range(2)]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500 << 10


def test_a_file_has_only_operators_of_the_table(entries: Entries, picture_entries: Entries) -> None:
    for one in (entries, picture_entries):
        targets = {node["target"] for node in get_nodes(json.loads(one[MODEL]))}
        assert targets <= OPERATORS.keys() | CHECKS


def open_and_run(path: Path, shape: tuple[int, ...]) -> None:
    """Open and run a file; it may be refused in a sentence, and nothing else."""
    with suppress(RequestError, WorkError):
        open_engine(path)(np.zeros(shape, np.uint8))


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(data=st.data())
def test_any_changed_byte_is_refused_or_harmless(data: st.DataObject, entries: Entries, tmp_path: Path) -> None:
    packed = bytearray(pack(entries))
    for _ in range(data.draw(st.integers(1, 4))):
        tail = data.draw(st.booleans())  # the directory, at the end, is where damage is not seen by a checksum
        start = max(0, len(packed) - 2000) if tail else 0
        packed[data.draw(st.integers(start, len(packed) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.pt2").write_bytes(packed)
    open_and_run(tmp_path / "m.pt2", (1, 32, 32, 3))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def draw_change(data: st.DataObject, program: Any) -> None:
    """Replace, drop or duplicate a part of a JSON."""
    value, path = program, []
    while isinstance(value, list | dict) and value and (not path or data.draw(st.integers(0, 9))):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = data.draw(st.sampled_from(keys))
        path.append((value, key))
        value = value[key]
    if not path:
        return
    parent, key = path[-1]
    kind = data.draw(st.sampled_from(["replace", "drop", "swap", "number"]))
    if kind == "drop":
        del parent[key]
    elif kind == "swap":
        other = data.draw(st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent))))
        parent[key], parent[other] = parent[other], parent[key]
    else:
        parent[key] = data.draw(VALUES if kind == "replace" else st.integers(-3, 300))


@pytest.mark.parametrize("is_picture", [False, True])
@FUZZ
@given(data=st.data())
def test_any_changed_program_is_refused_or_runs(
    is_picture: bool, data: st.DataObject, entries: Entries, picture_entries: Entries, tmp_path: Path
) -> None:
    good = picture_entries if is_picture else entries
    name = data.draw(st.sampled_from([MODEL, MODEL, MODEL, WEIGHTS, "extra/resnext.json"]))
    program = json.loads(good[name])
    if name == MODEL and data.draw(st.booleans()):
        nodes = get_nodes(program)
        draw_change(data, nodes[data.draw(st.integers(0, len(nodes) - 1))]["inputs"])
    else:
        draw_change(data, program)
    (tmp_path / "m.pt2").write_bytes(pack(good | {name: json.dumps(program).encode()}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_trial, "MAX_LIVE_BYTES", 64 << 20)
        open_and_run(tmp_path / "m.pt2", (1, 32, 32, 3))
