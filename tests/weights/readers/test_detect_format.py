"""Files are known by what they hold, whatever they are called; what holds no weights says what it is."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save, save_file

import resnext
from resnext.errors import RequestError
from resnext.weights.readers.detect_format import read_weights_file
from resnext.weights.readers.safetensors_file import DTYPES, MAX_HEADER_BYTES
from tests.weights.readers import torch_maker
from tests.weights.readers.pickle.pickle_maker import Evil, array2, string2
from tests.weights.readers.torch7_writer import dump
from tests.weights.readers.torch_maker import LEGACY, check_value_or_error, read_error, torch_bytes

STATE = {"conv1.weight": torch.arange(6.0).reshape(1, 2, 3), "fc.bias": torch.tensor([1.0])}
ARRAYS = {name: tensor.numpy() for name, tensor in STATE.items()}
KINDS = {
    "safetensors": ("safetensors", save(STATE)),
    "zip": ("torch zip", torch_bytes(STATE)),
    **{f"legacy in protocol {p}": ("torch legacy", torch_bytes(STATE, pickle_protocol=p, **LEGACY)) for p in (1, 2, 4)},
    "tar": ("torch tar", torch_maker.tar_bytes(STATE, list(STATE.values()))),
    **{f"pickle in protocol {p}": ("pickle", pickle.dumps(ARRAYS, p)) for p in range(6)},
    "pickle of Python 2": (
        "pickle",
        b"}(" + b"".join(string2(name.encode()) + array2(array) for name, array in ARRAYS.items()) + b"u.",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["w.pth", "w.t7", "w.safetensors", "w"])
def test_a_file_is_known_by_its_content(tmp_path: Path, kind: str, name: str) -> None:
    container, data = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(data)
    raw = read_weights_file(path)
    assert (raw.path, raw.file_format, raw.config) == (path, container, None)
    assert isinstance(raw.value, dict)
    assert raw.value.keys() == STATE.keys()
    assert all(np.array_equal(raw.value[key], tensor) for key, tensor in STATE.items())


def test_torch7_files_are_given_to_their_reader(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(struct.pack("<iiii", 3, 1, 1, 2) + struct.pack("<i", 1) + b"a" + struct.pack("<id", 1, 1.5))
    raw = read_weights_file(path)
    assert (raw.file_format, raw.value) == ("torch7", {"a": 1.5})
    path.write_bytes(path.read_bytes()[:-3])
    assert read_error(path)


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


NOT_WEIGHTS = {
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "contains only zeros"),
    "page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page, not weights: the download failed"),
    "page in capitals": (b"\n  <HTML><BODY>Sign in", "is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is XML"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="model" version="11">', "is an OpenVINO model"),
    "gzip": (gzip.compress(KINDS["zip"][1]), "compressed by gzip; unpack it first"),
    "xz": (lzma.compress(KINDS["zip"][1]), "compressed by xz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "compressed by zstd"),
    "bzip2": (bz2.compress(KINDS["zip"][1]), "compressed by bzip2"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x10\x0a\x0e" + bytes(14), "is an ONNX model"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file (Keras)"),
    "saved model": (b"\x08\x01\x12\xa0\x01" + bytes(100), "is a TensorFlow SavedModel"),
    "graph": (b"\n\x2c\n\x05input\x12\x0bPlaceholder*\x0b\n\x05dtype", "is a TensorFlow graph"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "is a TensorFlow Lite model"),
    "executorch": (b"\x30\0\0\0ET12" + bytes(100), "is an ExecuTorch program"),
    "png": (picture("PNG"), "is a PNG image"),
    "jpeg": (picture("JPEG"), "is a JPEG image"),
    "webp": (picture("WEBP"), "is a WebP image"),
    "json": (b'{"weight_map": {}}', "is JSON, not weights"),
    "yaml": ("# Überschrift\nmodel: resnext50\n".encode(), "is text, not weights"),
    "prose": (b"(In this folder lie the weights.\nSee below.", "is text, not weights"),
    "npy": (b"\x93NUMPY\x01\0", "is a single NumPy array"),
    "program": (b"\x7fELF" + bytes(100), "is a program"),
    "noise": (bytes(range(128, 255)), "is not a known weights file"),
    "zip": (b"PK\x03\x04" + bytes(100), "not a complete zip archive"),
    "truncated table": (b"\xff\xff\0\0\0\0\0\0{", "its header declares 65,535 bytes"),
}


@pytest.mark.parametrize("what", NOT_WEIGHTS)
def test_what_holds_no_weights_says_what_it_is(tmp_path: Path, what: str) -> None:
    data, sentence = NOT_WEIGHTS[what]
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    assert sentence in read_error(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe, socket or device" in read_error(tmp_path / "pipe")
    assert "a pipe, socket or device" in read_error(Path("/dev/zero"))
    assert "No such file" in read_error(tmp_path / "none")
    assert "is not a run directory and has no model.safetensors" in read_error(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "in several files" in read_error(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in read_error(tmp_path / "loop")
    (tmp_path / "model.safetensors").mkdir()
    assert "in several files" in read_error(tmp_path)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed(tmp_path: Path, protocol: int) -> None:
    path, canary = tmp_path / "w.pth", tmp_path / "executed"
    for value in (Evil(f"touch {canary}"), {"x": Evil(f"touch {canary}")}, [Evil(f"touch {canary}")]):
        path.write_bytes(pickle.dumps(value, protocol))
        assert f"refers to {os.system.__module__}.system, which is not data" in read_error(path)
    assert not canary.exists()


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.geteuid() == 0:  # root may read all

        def denied(*_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", denied)
    assert "cannot be read: Permission denied" in read_error(path)
    path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_gives_its_file_and_its_config(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(KINDS["safetensors" if name.startswith("model") else "zip"][1])
    assert read_weights_file(tmp_path).config is None
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnext50_32x4d"}))
    for path in (tmp_path, tmp_path / name):
        raw = read_weights_file(path)
        assert raw.path == tmp_path / name
        assert raw.config == {"architecture": "resnext50_32x4d"}
        assert isinstance(raw.value, dict)
        assert raw.value.keys() == STATE.keys()
    other = tmp_path / "other.bin"
    other.write_bytes(KINDS["zip"][1])
    assert read_weights_file(other).config is None  # the config is not about it


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (b"[1]", "is JSON, but not an object"),
        (b"{", "is not JSON"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b"\xff\xfe\0", "is not JSON"),
        (b" " * (5 << 20), "is larger than"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, config: bytes, sentence: str) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(RequestError) as caught:
        read_weights_file(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'} {sentence}")


# safetensors


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_safetensors_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "w"
    tensors = {"a": torch.arange(6).reshape(2, 3), "b": torch.ones(()), "c": torch.ones(0, 3)}
    state = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(state, path, metadata={"format": "pt"})
    raw, oracle = read_weights_file(path), load_file(path)
    assert raw.metadata == {"format": "pt"}
    assert isinstance(raw.value, dict)
    assert raw.value.keys() == oracle.keys()
    for name, tensor in oracle.items():
        assert raw.value[name].dtype == tensor.dtype
        assert torch.equal(raw.value[name], tensor)
    path.write_bytes(b"")
    assert raw.value["a"].tolist() == state["a"].tolist()


@pytest.mark.parametrize("metadata", [None, {}])
def test_safetensors_with_empty_metadata_come_back(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    entries = {"__metadata__": metadata, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    path = tmp_path / "w"
    path.write_bytes(table(entries, struct.pack("<2f", 1, 2)))
    assert read_weights_file(path).metadata == {}
    assert read_weights_file(path).value["a"].tolist() == [1, 2]


def table(entries: dict[str, Any], numbers: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + numbers


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (table({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(4)), "not a complete safetensors"),
        (table({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)), "not a complete safetensors"),
        (table({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 8]}}, bytes(8)), "not a complete"),
        (table({"a": {"dtype": "U32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "has a of dtype U32"),
        (table({"a": 1}), "not a complete safetensors"),
        (b"\x02\0\0\0\0\0\0\0{]", "not a complete safetensors"),
        (b"\xff\xff\xff\xff\xff\0\0\0{" + bytes(20), "its header declares"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{" + b" " * MAX_HEADER_BYTES, "at most 16,777,216 are supported"),
        (struct.pack("<Q", 500_000) + b'{"":' * 125_000, "not a complete safetensors"),
    ],
)  # fmt: skip
def test_broken_safetensors_say_what_is_wrong(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(data)
    assert sentence in read_error(path)


def test_a_table_of_torch7_with_123_pairs_is_no_safetensors(tmp_path: Path) -> None:
    """Its ninth byte is the brace that opens a table of safetensors."""
    path = tmp_path / "w"
    path.write_bytes(dump(dict.fromkeys(range(1, 124), True)))
    assert path.read_bytes()[8:9] == b"{"
    assert read_weights_file(path).value == dict.fromkeys(range(1, 124), True)


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 2], [2**60, 0], [1] * 33])
def test_safetensors_of_impossible_shapes_are_refused(tmp_path: Path, shape: list[int]) -> None:
    size = 0 if 0 in shape else 4
    (tmp_path / "w").write_bytes(table({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}, bytes(size)))
    assert "has a with too many dimensions or elements" in read_error(tmp_path / "w")


def run_directory(path: Path, name: str | None) -> Path:
    """A run whose best checkpoint says that its weights are in ``name``; for None its state is a pipe."""
    best = path / "checkpoints" / "best"
    best.mkdir(parents=True)
    if name is None:
        os.mkfifo(best / "state.json")
    else:
        state = {"format": "resnext-checkpoint", "files": {"model": {"name": name}}}
        (best / "state.json").write_text(json.dumps(state))
    return path


NAMES = ("../w.safetensors", "/w.safetensors", "a\0.safetensors", "\ud800.safetensors", "..", "")


@pytest.mark.parametrize("name", [*NAMES, None])
def test_a_runs_state_names_no_file_outside_and_is_no_pipe_to_wait_for(tmp_path: Path, name: str | None) -> None:
    says = "is not a regular file of at most" if name is None else "names no usable model file"
    with pytest.raises(RequestError, match=rf"state\.json {says}"):
        resnext.load(run_directory(tmp_path, name))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\udcff", "a\nb"])
def test_names_that_no_file_can_have_or_has_are_named_on_one_line(name: str) -> None:
    with pytest.raises(RequestError, match="there is no weights file or run directory") as caught:
        resnext.load(name)
    assert str(caught.value).isprintable()


# anything


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy in protocol 2"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    data = KINDS[kind][1]
    for end in range(len(data)):
        (tmp_path / "w").write_bytes(data[:end])
        read_error(tmp_path / "w")


@given(st.sampled_from(list(KINDS)), st.lists(st.integers(0, 2**18), min_size=1, max_size=3), st.integers(0, 40))
@settings(max_examples=300)
def test_flipped_bits_give_a_value_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, bits: list[int], near: int
) -> None:
    bits = [bit if bit % 2 else 8 * near + bit % 8 for bit in bits]  # the first bytes decide the kind
    check_value_or_error(tmp_path_factory.getbasetemp() / "flipped", torch_maker.flip_bits(KINDS[kind][1], bits))


@given(
    st.binary(max_size=600), st.sampled_from([b"", b"\x80\x02", b"PK\3\4", b"(", b"}q", b"\x08\0\0\0\0\0\0\0{", b"3\n"])
)
@settings(max_examples=300)
def test_any_bytes_give_a_value_or_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes) -> None:
    check_value_or_error(tmp_path_factory.getbasetemp() / "any", head + data)
