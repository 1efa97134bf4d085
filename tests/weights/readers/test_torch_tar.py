"""The tar archives of torch 0.1 give what torch itself reads from them, and nothing in them leads anywhere."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.weights.readers.detect_format import read_weights_file
from resnext.weights.readers.torch_tar import read_tar
from tests.weights.readers import torch_maker
from tests.weights.readers.torch_maker import tar_bytes, tar_of


def sample(views: bool = False) -> tuple[Any, bytes]:
    whole = torch.arange(12.0)
    tensors = [torch.randn(2, 3), whole[3:9].reshape(2, 3).t(), torch.arange(4), torch.tensor(1.5, dtype=torch.float64)]
    value = {"state": dict(zip("abcd", tensors, strict=True)), "epoch": 3, "again": tensors[0]}
    return value, tar_bytes(value, tensors, views=views)


@pytest.mark.parametrize("views", [False, True])
def test_an_old_tar_comes_back(tmp_path: Path, views: bool) -> None:
    value, data = sample(views)
    path = tmp_path / "old.pth"
    path.write_bytes(data)
    raw, oracle = read_weights_file(path), torch.load(path, weights_only=False)  # ours, so it is safe to load
    assert raw.file_format == "torch tar"
    assert raw.value["epoch"] == 3
    assert raw.value["again"] is raw.value["state"]["a"]
    for name, tensor in oracle["state"].items():
        assert torch.equal(raw.value["state"][name], tensor)
        assert torch.equal(tensor, value["state"][name])


def says(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return torch_maker.read_error(path)


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


def linked(kind: bytes, name: str, target: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return file.getvalue()


def test_links_and_paths_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "w"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        assert "a link or folder for storages" in says(path, linked(kind, "storages", "/etc/passwd"))
    good = members(sample()[1])
    for name in ("../storages", "/storages", "x/../../storages"):
        changed = {name if old == "storages" else old: data for old, data in good.items()}
        assert "not of torch.save" in says(path, tar_of(changed))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["w"]


def test_broken_archives_say_what_is_wrong(tmp_path: Path) -> None:
    path, data = tmp_path / "w", sample()[1]
    good = members(data)
    assert "it has a" in says(path, tar_of({"a": b"x"}))
    assert "more than 64 members" in says(path, tar_of({str(i): b"" for i in range(70)}))
    assert "wrong checksum" in says(path, b"x" + data[1:])
    assert "is truncated" in says(path, data[: data.index(b"storages") + 600])
    for name in ("storages", "tensors", "pickle"):
        assert "ends early" in says(path, tar_of(good | {name: good[name][:-5]}))
    assert "a malformed number" in says(path, data[:124] + b"\x80" + b"\xff" * 11 + data[136:])
    doubled = tar_of({"a": b"", "b": b""})
    assert "two members" in says(path, doubled[:1536] + doubled)


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    path, good = tmp_path / "w", members(sample()[1])
    for at in range(len(good["tensors"]) - 8, 100, -8):  # sizes, strides and offsets of the last tensors
        changed = bytearray(good["tensors"])
        changed[at : at + 8] = (2**62).to_bytes(8, "little")
        harmless(tar_of(good | {"tensors": bytes(changed)}))
    for count in (-1, 2**31, 100_001):
        numbers = b"\x80\x02\x8a\x05" + count.to_bytes(5, "little", signed=True) + b"."
        assert "invalid number" in says(path, tar_of(good | {"storages": numbers}))


def harmless(data: bytes) -> None:
    try:
        read_tar(io.BytesIO(data), len(data))
    except RequestError as error:
        assert "\n" not in str(error)


SAMPLE = sample(views=True)[1].rstrip(b"\0")


def test_a_tar_cut_off_anywhere_gives_a_value_or_an_error() -> None:
    for end in range(0, len(SAMPLE), 7):
        harmless(SAMPLE[:end])


@given(st.lists(st.integers(0, len(SAMPLE) * 8 - 1), min_size=1, max_size=3))
@settings(max_examples=300)
def test_flipped_bits_give_a_value_or_an_error(bits: list[int]) -> None:
    harmless(torch_maker.flip_bits(SAMPLE, bits))
