"""Archives of torch that are broken or lie give one error, in the time and memory that their size allows."""

import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.weights.readers import torch_maker
from tests.weights.readers.pickle.pickle_maker import Evil
from tests.weights.readers.torch_maker import LEGACY, check_value_or_error, read_error, rewrite_zip, save_torch

VALUE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1), "n": 1}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save_torch(tmp_path / "w.pth", VALUE)


def test_nothing_is_executed(good: Path, tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    evil = {"state_dict": VALUE, "x": Evil(f"touch {canary}")}
    program = pickle.dumps(evil["x"], 2)
    torch.save(evil, tmp_path / "zip")
    torch.save(evil, tmp_path / "legacy", **LEGACY)
    for path in (tmp_path / "zip", tmp_path / "legacy", rewrite_zip(good, lambda e: e.update({"data.pkl": program}))):
        assert ".system, which is not data; nothing was executed" in read_error(path)
    for name in ("byteorder", "version", ".format_version", "data/0"):  # programs where none belong
        save_torch(good, VALUE)
        check_value_or_error(rewrite_zip(good, lambda e, name=name: e.update({name: program})))
    assert not canary.exists()


def replace(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], Any]:
    return lambda entries: entries.update({"data.pkl": entries["data.pkl"].replace(old, new)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda e: e.pop("data/0"), "needs 24 bytes in its entry data/0, which is missing"),
        (lambda e: e.pop("data.pkl"), "it has no data.pkl"),
        (lambda e: e.update({"data/0": b"x" * 20}), "needs 24 bytes in its entry data/0, which has 20"),
        (lambda e: e.update({"../../x": b""}), "leads out of the archive"),
        (lambda e: e.update({"a\\b": b""}), "leads out of the archive"),
        (lambda e: e.update({"!/etc/x": b""}), "leads out of the archive"),
        (lambda e: e.update({"!other/x": b""}), "more than one folder"),
        (lambda e: e.update({"constants.pkl": b""}), "TorchScript"),
        (lambda e: e.update({"code/x.py": b""}), "TorchScript"),
        (lambda e: e.update({"data.pkl": b""}), "ends early"),
        (replace(b"storage", b"stora.e"), "that is not a storage"),
        (replace(b"FloatStorage", b"QInt8Storage"), "quantized"),
        (replace(b"FloatStorage", b"XXXXXStorage"), "is not data"),
        (replace(b"K\2K\3\x86", b"K\2K\4\x86"), "2x4 in a storage"),
        (replace(b"K\3K\1\x86", b"K\4K\1\x86"), "ends beyond"),
        (replace(b"QK\0K\2", b"QK\1K\2"), "ends beyond"),
        (replace(b"QK\0K\2", b"Q\x89K\2"), "not whole numbers"),
        (replace(b"K\2K\3\x86", b"K\2J\xff\xff\xff\xff\x86"), "from 0"),
        (replace(b"K\3K\1\x86", b"K\3\x85"), "2 sizes and 1 strides"),
    ],
)
def test_archives_that_lie_are_refused(good: Path, change: Callable[[dict[str, bytes]], Any], sentence: str) -> None:
    assert sentence in read_error(rewrite_zip(good, change))


def test_other_ways_to_pack_are_refused(good: Path) -> None:
    data = bytearray(good.read_bytes())
    assert "a compressed zip entry" in read_error(rewrite_zip(good, lambda e: None, compression=zipfile.ZIP_DEFLATED))
    data[directory(data)[0] + 8] |= 1
    good.write_bytes(data)
    assert "an encrypted zip entry" in read_error(good)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(good, "w") as archive:
            for _ in range(2):
                archive.writestr("w/data.pkl", b"N.")
    assert "two entries data.pkl" in read_error(good)


def directory(data: bytes) -> list[int]:
    """Where the entries of the directory start."""
    starts, at = [], data.index(b"PK\1\2")
    while data[at : at + 4] == b"PK\1\2":
        starts.append(at)
        at += 46 + sum(struct.unpack("<HHH", data[at + 28 : at + 34]))
    return starts


@pytest.mark.parametrize(
    ("at", "value", "sentence"),
    [
        (20, 0x7FFFFFF0, "compressed"),  # its size in the archive
        (24, 0x7FFFFFF0, "compressed"),  # its size
        (16, 0xABCDEF, "has a wrong checksum"),
        (42, 0x7FFFFFF0, "no zip entry at the position"),  # where it lies
        (42, 0, "overlap"),
    ],
)
def test_a_directory_that_lies_is_refused(good: Path, at: int, value: int, sentence: str) -> None:
    data = bytearray(good.read_bytes())
    entry = next(start for start in directory(data) if data[start + 46 :].startswith(b"w/data/0"))
    data[entry + at : entry + at + 4] = struct.pack("<I", value)
    good.write_bytes(data)
    assert sentence in read_error(good)


def test_a_size_beyond_the_file_allocates_nothing(good: Path) -> None:
    data = bytearray(good.read_bytes())
    entry = next(start for start in directory(data) if data[start + 46 :].startswith(b"w/data/0"))
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    good.write_bytes(data)
    tracemalloc.start()
    assert "is truncated: w/data/0 declares 2,147,483,648 bytes" in read_error(good)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_directory_of_a_hundred_thousand_entries_is_refused(good: Path) -> None:
    data = good.read_bytes()
    starts = directory(data)
    many = data[starts[0] : starts[1]] * 90_000
    end = struct.pack("<4s4xHHIIH", b"PK\5\6", 2**16 - 2, 2**16 - 2, len(many), starts[0], 0)
    good.write_bytes(data[: starts[0]] + many + end)
    assert "its directory is too large" in read_error(good)


def test_storages_of_a_legacy_file_are_checked(tmp_path: Path) -> None:
    path = save_torch(tmp_path / "w", {"b": torch.tensor(1)}, **LEGACY)
    data = path.read_bytes()
    at = len(data) - 16  # the last storage: one int64
    for count, sentence in ((2**60, "elements in the storage"), (-1, "has -1 elements in the storage")):
        path.write_bytes(data[:at] + struct.pack("<q", count) + data[at + 8 :])
        assert sentence in read_error(path)
    at = data.index(b"\x88", data.index(b"little_endian"))  # True
    path.write_bytes(data[:at] + b"\x89" + data[at + 1 :])
    assert "big-endian" in read_error(path)
    path.write_bytes(data.replace(b"M\xe9\3.", b"M\xea\3."))
    assert "unknown protocol version" in read_error(path)


def test_bytes_behind_the_end_change_nothing(tmp_path: Path) -> None:
    legacy, zipped = (torch_maker.torch_bytes({"a": torch.ones(2)}, **options) for options in (LEGACY, {}))
    path = tmp_path / "w"
    path.write_bytes(legacy + b"x" * 100)
    assert torch_maker.read_value(path)["a"].tolist() == [1, 1]
    check_value_or_error(path, zipped + b"x" * 100)
