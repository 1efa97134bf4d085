"""The index of tars: offsets as tarfile finds them, and errors for archives that are cut off or hostile."""

import io
import os
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.data.files.index_cache import index_folder
from resnext.data.files.tar_index import TarIndex, index_archives, index_flat, index_nested, iterate_members
from resnext.errors import RequestError
from tests.data.layouts import make_jpeg, tar_bytes, write_file

pytestmark = pytest.mark.usefixtures("cache")


def index_of(content: bytes, folder: Path, kind: str = "flat", name: str = "a.tar") -> TarIndex:
    return index_archives(
        [str(write_file(folder / name, content))], kind, index_nested if kind == "nested" else index_flat
    )[0]


def header(name: str = "a.jpg", size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
NAME = st.text("abcé./", min_size=1, max_size=130).filter(lambda n: n.strip("/") and not n.startswith("./"))


@settings(max_examples=60)
@given(st.dictionaries(NAME.map(lambda n: f"x{n}y"), st.binary(max_size=1500), min_size=1, max_size=6))
def test_members_lie_where_tarfile_finds_them(files: dict[str, bytes]) -> None:
    content = tar_bytes(files)
    found = list(iterate_members(io.BytesIO(content), "a.tar", 0, len(content)))
    assert [member.name.decode() for member in found] == list(files)
    assert [content[m.offset : m.offset + m.size] for m in found] == list(files.values())


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_read_in_every_dialect(form: int, tmp_path: Path) -> None:
    out = io.BytesIO()
    name = "d/" * 100 + "ä.jpg"
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    index = index_of(out.getvalue(), tmp_path)
    assert index.names.tolist() == [name.encode()]
    assert out.getvalue()[index.offsets[0] :][:3] == b"abc"


def test_a_tar_of_tars_is_resolved_to_places_in_the_outer_file(tmp_path: Path) -> None:
    files = {f"n{c}.tar": {f"n{c}_{i}.JPEG": make_jpeg(10 * c + i) for i in range(3)} for c in range(3)}
    content = tar_bytes((name, tar_bytes(inner)) for name, inner in files.items())
    index = index_of(content, tmp_path, "nested")
    assert index.names.tolist() == [f"{name}/{inner}".encode() for name in files for inner in files[name]]
    for i, expected in enumerate(content for inner in files.values() for content in inner.values()):
        assert content[index.offsets[i] :][: index.sizes[i]] == expected
    with pytest.raises(RequestError, match=r"one tar for each class, but has n\.txt"):
        index_of(tar_bytes({"n.txt": b""}), tmp_path, "nested", "b.tar")
    with pytest.raises(RequestError, match=r"c\.tar: n1\.tar was cut off"):
        index_of(tar_bytes({"n1.tar": tar_bytes({"a": bytes(4096)})[:1536]}), tmp_path, "nested", "c.tar")


def test_folders_are_passed_over_and_a_leading_dot_too(tmp_path: Path) -> None:
    content = header("./", kind=tarfile.DIRTYPE) + header("./a.jpg") + END
    assert index_of(content, tmp_path).names.tolist() == [b"a.jpg"]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1536, 2048, 2500, 2560])
def test_a_cut_tar_is_never_taken_for_a_whole_one(cut: int, tmp_path: Path) -> None:
    content = tar_bytes({"a.jpg": bytes(500), "b.jpg": bytes(1000)})[:cut]
    with pytest.raises(RequestError, match=r"a\.tar (was cut off|is not a whole tar)"):
        index_of(content, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole tar"),
        (b"hello" * 400, "not a whole tar"),
        (END, "empty tar"),
        (header() + b"x" * 512 + END, "is damaged: at byte 512"),
        (header("a") + header("a") + END, "has a twice"),
        (header("l", kind=tarfile.SYMTYPE) + END, "l is not a regular file"),
        (header("l", kind=tarfile.LNKTYPE) + END, "l is not a regular file"),
        (header("dev", kind=tarfile.BLKTYPE) + END, "dev is not a regular file"),
        (header("f", kind=tarfile.FIFOTYPE) + END, "f is not a regular file"),
        (header("big.jpg", size=2**40) + END, "big.jpg should have 1099511627776 bytes"),
        (header("back.jpg", size=-512) + END, "should have -512 bytes"),
        (header("L", size=2**30, kind=tarfile.GNUTYPE_LONGNAME) + END, "a header of 1073741824 bytes"),
        (header("p", size=2**30, kind=tarfile.XHDTYPE) + END, "a header of 1073741824 bytes"),
        (header("L", size=-512, kind=tarfile.GNUTYPE_LONGNAME) + END, "not a whole tar"),
        (tar_bytes({"y" * 600: b""}), "name cannot be used"),
        (b"\x1f\x8b" + bytes(1000), "is compressed .gz., so its name must end in"),
    ],
)
def test_what_is_no_plain_archive_of_files_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        index_of(content, tmp_path)


def test_headers_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not a whole tar"):
        index_of(header("L", size=1, kind=tarfile.GNUTYPE_LONGNAME).ljust(1024, b"\0") * 3000 + END, tmp_path)


@settings(max_examples=150)
@given(st.data())
def test_damage_is_refused_or_seen_as_some_other_archive(data: st.DataObject) -> None:
    content = bytearray(tar_bytes({"a.jpg": bytes(700), "b.jpg": b"b" * 30, "c" * 120: b"c"}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = list(iterate_members(io.BytesIO(bytes(content)), "a.tar", 0, len(content)))
    except RequestError:
        return
    assert all(m.offset >= 0 and m.offset + m.size <= len(content) for m in found)


# ---- the cache


def test_an_index_is_made_once_for_each_version_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = index_of(tar_bytes({"a.jpg": b"1"}), tmp_path)
    assert "indexing" in capsys.readouterr().err
    again = index_archives([str(tmp_path / "a.tar")], "flat", None)[0]  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
    for column in ("names", "offsets", "sizes"):
        assert np.array_equal(getattr(first, column), getattr(again, column))
    os.utime(tmp_path / "a.tar", (1, 1))
    monkeypatch.chdir(tmp_path)
    assert index_archives(["a.tar"], "flat", index_flat)[0].names.tolist() == [b"a.jpg"]
    assert "indexing" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "pickle", "beyond", "shape"])
def test_a_damaged_cache_is_made_again(damage: str, tmp_path: Path) -> None:
    first = index_of(tar_bytes({"a.jpg": b"123", "b.jpg": b"4"}), tmp_path)
    path = next(index_folder().glob("*.npz"))
    good = dict(np.load(path))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        path.write_bytes(b"PK\x03\x04" + bytes(200))
    elif damage == "pickle":
        np.savez(path, **(good | {"names": np.array([b"a.jpg", b"b.jpg"], dtype=object)}))
    elif damage == "beyond":
        np.savez(path, **(good | {"offsets": good["offsets"] + 10_000}))
    else:
        np.savez(path, **(good | {"sizes": good["sizes"][:1]}))
    again = index_archives([str(tmp_path / "a.tar")], "flat", index_flat)[0]
    assert np.array_equal(first.offsets, again.offsets)
    assert np.array_equal(np.load(path)["offsets"], first.offsets)


def test_while_one_process_indexes_the_others_wait_and_then_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index_of(tar_bytes({"a.jpg": b"1"}), tmp_path)
    path = next(index_folder().glob("*.npz"))
    made = path.read_bytes()
    path.unlink()
    said = io.StringIO()  # capsys.readouterr() would lose what is printed between its read and its truncation
    monkeypatch.setattr(sys, "stderr", said)
    with ThreadPoolExecutor(1) as pool, FileLock(index_folder() / ".lock"):
        second = pool.submit(index_archives, [str(tmp_path / "a.tar")], "flat", None)  # type: ignore[arg-type]
        while "waiting for another process that is indexing" not in said.getvalue() and not second.done():
            time.sleep(0.01)
        path.write_bytes(made)
    assert second.result()[0].offsets.tolist() == first.offsets.tolist()


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(write_file(tmp_path / "file", b"") / "below"))
    assert len(index_of(tar_bytes({"a.jpg": b"1"}), tmp_path)) == 1
    assert len(index_of(tar_bytes({"a.jpg": b"1"}), tmp_path)) == 1
