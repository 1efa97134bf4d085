"""Groups of images: found by a pattern or a CSV file, aligned with the files; and everything that can be wrong."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.data import groups as groups_module
from resnext.data import open_data
from resnext.data.groups import check_files_exist, find_groups, list_groups, read_group_file
from resnext.errors import RequestError
from resnext.settings import DataSettings

PATHS = ["cat/patient03_slide1_0001.jpg", "cat/patient11_slide1_0001.jpg", "dog/deep/patient03_2.jpg"]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_pattern_names_the_group_by_its_parentheses_and_sees_the_whole_path() -> None:
    assert find_groups(PATHS, r"(patient\d+)") == ["patient03", "patient11", "patient03"]
    assert find_groups(PATHS, r"patient(\d+)") == ["03", "11", "03"]
    assert find_groups(PATHS, r"^(?:cat|dog)/(?P<who>.)") == ["p", "p", "d"]
    assert find_groups([], "(x)") == []


@settings(max_examples=15)  # each starts a process
@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), min_size=1, max_size=5))
def test_paths_of_any_characters_are_searched_as_they_are(paths: list[str]) -> None:
    assert find_groups(paths, r"(?s)(.+)") == paths


def test_groups_are_aligned_with_the_images_of_a_data_set(tmp_path: Path) -> None:
    from tests.data.sources.test_image_folder import write_image

    for number in range(6):
        write_image(tmp_path / "ab"[number % 2] / f"{number}_p{number // 2}.png", number)
    source = open_data(DataSettings(source="folder", path=str(tmp_path), val_fraction=0.3))
    for data in (source.train, source.val):
        expected = [re.sub(r".*_(p\d)\.png", r"\1", data.image_path(i)) for i in range(len(data))]
        assert list_groups(data, r"_(p\d)") == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(slide\d+)", "is not found in 1 of 3 paths, such as dog/deep/patient03_2.jpg; every image needs a group"),
        (r"(film\d+)", "is found in no path, such as cat/patient03_slide1_0001.jpg"),
        (r"patient(\d*?)", "is found in no path"),  # an empty name is none
        (r"patient\d+", "has no group in parentheses; it needs one, such as"),
        (r"(patient)(\d+)", "has 2 groups in parentheses"),
        (r"(patient", "is not a regular expression"),
        ("(a{99999999999999999999})", "is not a regular expression"),
        ("(" * 300 + ")" * 300, "600 characters"),
    ],
)
def test_a_pattern_that_cannot_serve_is_explained(pattern: str, message: str) -> None:
    with pytest.raises(RequestError) as error:
        find_groups(PATHS, pattern)
    assert message in str(error.value)


def test_a_pattern_that_would_never_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_module, "MATCH_SECONDS", 0.5)
    with pytest.raises(RequestError, match=r"takes longer than .* use a simpler pattern"):
        find_groups(["a" * 60], "(a+a+)+b")  # takes years


def test_a_csv_file_names_the_group_of_each_file(tmp_path: Path) -> None:
    rows = f"group,file\np1,{PATHS[2]}\n\np2,./{PATHS[0]}\np1,{PATHS[1]}\np9,other.jpg\n"
    assert find_groups(PATHS, write(tmp_path / "g.csv", rows)) == ["p2", "p1", "p1"]


def test_a_csv_file_may_come_from_a_spreadsheet(tmp_path: Path) -> None:
    text = '\ufeffFile;Age;Group\r\n"cat/ä,1.jpg";3;Müller\r\n'
    assert find_groups(["cat/ä,1.jpg"], write(tmp_path / "G.CSV", text)) == ["Müller"]


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_bytes(b"file,group\na/\xff.jpg,p\n")
    assert find_groups(["a/\udcff.jpg"], str(tmp_path / "g.csv")) == ["p"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,group\ncat/patient03_slide1_0001.jpg,a\n", "has no row for 2 of 3 images, such as cat/patient11"),
        ("file,group\npatient03_slide1_0001.jpg,a\n", "no row for 3 of 3 images, such as cat/patient03"),
        ("path,group\nx,a\n", "has no column 'file'"),
        ("file,groups\nx,a\n", "has no column 'group'; did you mean 'groups'?"),
        ("file,group\nx,a\nx,b\n", "line 3: x is in group 'a' and in 'b'"),
        ("file,group\nx\n", "line 2: no group is given"),
        ("file,group\n,a\n", "line 2: no file is given"),
        ("file,group\n", "has no rows"),
        ("", "has no column 'file'"),
        ("file,group,split\nx,a,test\n", "line 2: split must be train or val, not 'test'"),
        ("file,group,split\nx,a,val\ny,a,train\n", "line 3: group 'a' is in train and in val"),
        ('file,group\n"x"y,a\n', "line 2: "),
        ("file,group\n" + "x" * 200_000 + ",a\n", "line 2: field larger"),
    ],
)
def test_a_csv_file_that_cannot_serve_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError) as error:
        find_groups(PATHS, write(tmp_path / "g.csv", text))
    assert message in str(error.value)
    assert "g.csv" in str(error.value)


def test_a_csv_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.csv does not exist"):
        find_groups(PATHS, str(tmp_path / "none.csv"))


def test_rows_of_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    file = read_group_file(write(tmp_path / "g.csv", "file,group\na.jpg,x\nb.jpg,x\n"))
    with pytest.raises(RequestError, match=r"names 1 files that .* does not have, such as b\.jpg"):
        check_files_exist(file, str(tmp_path))
