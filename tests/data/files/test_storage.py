"""Paths and patterns: the files they expand to, their order, and the errors."""

import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.data.files.storage import expand_pattern, get_file_version, get_file_versions, list_names, read_range
from resnext.errors import RequestError, WorkError

MEMORY = "memory://storage-tests"


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{b,a}-{0..1}.tar", ["b-0.tar", "b-1.tar", "a-0.tar", "a-1.tar"]),
        ("memory://bucket/{7..7}.tar", ["memory://bucket/7.tar"]),
    ],
)
def test_braces_count_as_they_are_written(pattern: str, names: list[str]) -> None:
    assert expand_pattern(pattern, (".tar",)) == names


@given(st.integers(0, 500), st.integers(0, 40), st.integers(3, 6))
def test_padded_ranges_have_every_number_once(first: int, more: int, digits: int) -> None:
    found = expand_pattern(f"none/x{{{first:0{digits}d}..{first + more:0{digits}d}}}.tar", (".tar",))
    assert found == [f"none/x{n:0{digits}d}.tar" for n in range(first, first + more + 1)]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a-{000..12}.tar", "same number of digits"),
        ("a-{0..010}.tar", "same number of digits"),
        ("a-{5..2}.tar", "must be a rising range"),
        ("a-{0..2000000}.tar", "more than"),
        ("{0..9999}{0..9999}.tar", "more than"),
        ("a-{0..9999999999}.tar", "must be a rising range"),
        ("a-{1..2.tar", "without its counterpart"),
        ("a-1..2}.tar", "without its counterpart"),
        ("a-{}.tar", "neither a range"),
        ("a-{a..c}.tar", "neither a range"),
        ("a-{a,a}.tar", "twice"),
        ("a-*.tar", "matches nothing"),
        ("nosuch://x/{0..1}.tar", "nosuch"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        expand_pattern(pattern if "://" in pattern else f"{tmp_path}/{pattern}", (".tar",))


def test_globs_and_folders_are_sorted_and_exact_names_are_taken_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "b.tar", "a.tar", "c.txt", ".hidden.tar")
    expected = [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert expand_pattern(f"{tmp_path}/*.tar", (".tar",)) == expand_pattern(str(tmp_path), (".tar",)) == expected
    odd = touch(tmp_path / "odd {1..2} [x]", "a{0..1}.tar")
    assert expand_pattern(f"{odd}/a{{0..1}}.tar", (".tar",)) == [f"{odd}/a{{0..1}}.tar"]
    with pytest.raises(RequestError, match=r"no files ending in \.zip"):
        expand_pattern(str(tmp_path), (".zip",))


def test_places_in_memory_are_listed_as_on_disk() -> None:
    for name in ("b.tar", "a.tar"):
        with fsspec.open(f"{MEMORY}/{name}", "wb") as file:
            file.write(b"1234")
    assert list_names(MEMORY) == ["a.tar", "b.tar"]
    assert expand_pattern(MEMORY, (".tar",)) == [f"{MEMORY}/a.tar", f"{MEMORY}/b.tar"]
    found = expand_pattern(f"{MEMORY}/[ab].tar", (".tar",))
    assert [stamp.size for stamp in get_file_versions(found)] == [4, 4]
    assert read_range(found[0], get_file_versions(found)[0], 1, 2, "a part") == b"23"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "s-0.tar", "s-2.tar")
    with pytest.raises(RequestError, match=r"missing: .*s-1\.tar.*s-3\.tar.*, of 4"):
        get_file_versions(expand_pattern(f"{tmp_path}/s-{{0..3}}.tar", (".tar",)))
    assert get_file_version(str(tmp_path / "none")) is None
    with pytest.raises(RequestError, match="is not a file"):
        get_file_version(str(tmp_path))


def test_another_version_of_a_file_has_another_stamp(tmp_path: Path) -> None:
    path = touch(tmp_path, "a") / "a"
    first = get_file_version(str(path))
    assert first == get_file_version(f"file://{path}")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert get_file_version(str(link)) == first
    os.utime(path, (0, 0))
    assert get_file_version(str(path)) != first
    assert get_file_version(str(path)) is not None


def test_reading_what_changed_or_went_names_file_and_part(tmp_path: Path) -> None:
    path = touch(tmp_path, "abcdef") / "abcdef"
    stamp = get_file_versions([str(path)])[0]
    assert read_range(str(path), stamp, 2, 3, "x") == b"cde"
    os.truncate(path, 3)
    with pytest.raises(WorkError, match=r"cannot read 0017\.jpg of .*abcdef: it gives 1 of 3 bytes"):
        read_range(str(path), stamp, 2, 3, "0017.jpg")
    other = touch(tmp_path, "other") / "other"
    stamp = get_file_versions([str(other)])[0]
    other.write_bytes(b"something else")
    with pytest.raises(WorkError, match=r"cannot read x of .*other: the file changed after it was indexed"):
        read_range(str(other), stamp, 0, 3, "x")
    other.unlink()
    with pytest.raises(WorkError, match=r"cannot read x of .*other: No such file"):
        read_range(str(other), stamp, 0, 3, "x")


def test_a_store_without_its_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(_place: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("resnext.data.files.storage.fsspec.core.url_to_fs", without)
    with pytest.raises(RequestError, match=r"Install s3fs.*resnext\[remote\]"):
        get_file_version("s3://bucket/a.tar")
