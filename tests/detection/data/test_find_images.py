"""Images under whatever names tools state for them, and sizes that are not stated; nothing outside of the folder."""

import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFile

from resnext.data.decode.pillow import read_image
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.data.faulty_files import FaultyFilesError
from resnext.detection.data.find_images import FOUND_BY_NAME, FOUND_BY_SPELLING, MEASURED_SIZES, find_image_folder
from resnext.detection.data.open import open_detection_split
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError
from tests.detection.annotation_files import coco_content, image_row, photo, read_coco, voc_object, write, write_json

NFC, NFD = (unicodedata.normalize(form, "café0.jpg") for form in ("NFC", "NFD"))


def read(folder: Path, *names: str, **changes: Any) -> DetectionDataset:
    """A COCO file with these images, which lie below ``folder``."""
    rows = [image_row(i, name) | changes for i, name in enumerate(names)]
    path = write_json(folder.parent / "x.json", coco_content(images=rows, annotations=[]))
    return read_coco(path, folder)


@pytest.mark.parametrize(
    ("there", "stated", "how"),
    [
        ("a.jpg", "a.jpg", None),
        ("sub/a.jpg", "sub/a.jpg", None),
        ("sub/a.jpg", "sub\\a.jpg", FOUND_BY_SPELLING),
        (NFC, NFD, FOUND_BY_SPELLING),
        (NFD, NFC, FOUND_BY_SPELLING),
        (f"{NFC}/a.jpg", f"{NFD}/a.jpg", FOUND_BY_SPELLING),
        ("a.jpg", "images/a.jpg", FOUND_BY_NAME),
        ("sub/a.jpg", "images\\sub\\a.jpg", FOUND_BY_NAME),
        ("a.jpg", "/home/someone/set/a.jpg", FOUND_BY_NAME),
        ("a.jpg", "C:\\Users\\someone\\a.jpg", FOUND_BY_NAME),
        ("a.jpg", "../images/a.jpg", FOUND_BY_NAME),
        ("deep/er/a.jpg", "/home/a.jpg", FOUND_BY_NAME),
        ("a.jpg", "https://example.invalid/bucket/a.jpg", FOUND_BY_NAME),
        ("a.jpg", "/data/local-files/?d=images/a.jpg", FOUND_BY_NAME),
        (NFC, f"/home/{NFD}", FOUND_BY_NAME),
    ],
)
def test_an_image_is_found_under_the_names_that_tools_state(
    tmp_path: Path, there: str, stated: str, how: str | None
) -> None:
    photo(tmp_path / "images" / there)
    dataset = read(tmp_path / "images", stated)
    assert dataset.files == (there,)
    assert dataset.counts == ({} if how is None else {how: 1})
    assert dataset.load_image(0).size == (40, 30)


def test_of_several_files_of_a_name_the_folders_decide_or_it_is_an_error(tmp_path: Path) -> None:
    for name in ("train/a.jpg", "val/a.jpg", "b.jpg", "old/b.jpg"):
        photo(tmp_path / "images" / name)
    assert read(tmp_path / "images", "/home/someone/val/a.jpg").files == ("val/a.jpg",)
    with pytest.raises(RequestError, match=r"images\[0\].file_name names '/x/b.jpg', which matches 'b.jpg', 'old"):
        read(tmp_path / "images", "/x/b.jpg")


def test_a_name_that_stays_inside_is_never_another_folders_image(tmp_path: Path) -> None:
    photo(tmp_path / "images/train/a.jpg")
    with pytest.raises(RequestError, match=r"none of the 1 images .*missing: 'val/a.jpg'"):
        read(tmp_path / "images", "val/a.jpg")


def test_two_images_are_never_the_same_file_by_name_alone(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.jpg")
    for names in (("/x/1/a.jpg", "/x/2/a.jpg"), ("a.jpg", "../a.jpg")):
        with pytest.raises(RequestError, match=r"images\[1\].file_name names .*both match only 'a.jpg'"):
            read(tmp_path / "images", *names)


def test_nothing_outside_of_the_folder_is_opened(tmp_path: Path) -> None:
    photo(tmp_path / "secret.jpg")
    photo(tmp_path / "images/a.jpg")
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg"), "images/../../secret.jpg", "..\\secret.jpg"):
        with pytest.raises(RequestError, match=r"is outside the image folder, and no file in .* is called"):
            read(tmp_path / "images", name)
        assert find_image_folder([tmp_path / "images", tmp_path / "none"], [name]) == tmp_path / "images"
    photo(tmp_path / "images/secret.jpg", 50, 40)
    assert read(tmp_path / "images", str(tmp_path / "secret.jpg"), width=50, height=40).load_image(0).size == (50, 40)


NAMES = st.lists(st.sampled_from(("a.jpg", "b", "..", ".", "", "C:", "images", NFC, NFD, "x" * 300)), max_size=5)


@settings(max_examples=150)
@given(NAMES, st.sampled_from(("/", "\\")), st.sampled_from(("", "/", "\\\\", "C:\\")), st.text(max_size=3))
def test_any_name_is_a_file_below_the_folder_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], slash: str, start: str, end: str
) -> None:
    root = tmp_path_factory.mktemp("any")
    for name in ("images/a.jpg", f"images/b/{NFC}", "a.jpg", "b"):
        photo(root / f"{name}.png").rename(root / name)
    try:
        files = read(root / "images", start + slash.join(parts) + end).files
    except RequestError:
        return
    assert (root / "images" / files[0]).resolve().is_relative_to((root / "images").resolve())
    assert (root / "images" / files[0]).is_file()
    assert ".." not in PurePosixPath(files[0]).parts


@pytest.mark.parametrize("stated", [{}, {"width": None, "height": None}, {"width": 0, "height": 0}, {"width": 0}])
def test_sizes_that_are_not_stated_are_read_from_the_images(tmp_path: Path, stated: dict[str, Any]) -> None:
    rows = []
    for i, orientation in enumerate((1, 3, 6)):
        photo(tmp_path / f"images/{i}.jpg", 60, 20 + i, orientation=orientation)
        rows.append({"id": i, "file_name": f"{i}.jpg"} | stated)
    path = write_json(tmp_path / "x.json", coco_content(images=rows, annotations=[]))
    upright = read_coco(path, tmp_path / "images")
    assert upright.sizes.tolist() == [[60, 20], [60, 21], [22, 60]]
    assert upright.counts == {MEASURED_SIZES: 3}
    stored = read_coco(path, tmp_path / "images", exif=False)
    assert stored.sizes.tolist() == [[60, 20], [60, 21], [60, 22]]
    for dataset in (upright, stored):
        for i in range(3):
            assert dataset.load_image(i).size == tuple(dataset.sizes[i])


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "bmp", "gif"])
@pytest.mark.parametrize("orientation", [1, 2, 6, 8])
@pytest.mark.parametrize("exif", [True, False])
def test_the_size_in_a_header_is_that_of_the_decoded_image(
    tmp_path: Path, ending: str, orientation: int, exif: bool
) -> None:
    from resnext.data.decode.pillow import read_image_size

    path = photo(tmp_path / f"a.{ending}", 50, 20, orientation=orientation)
    assert read_image_size(path, exif) == read_image(path, exif=exif).size


def test_a_header_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "images/a.png", 50, 20)
    photo(tmp_path / "images/b.jpg", 50, 20)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels are decoded"))
    rows = [{"id": i, "file_name": name} for i, name in enumerate(("a.png", "b.jpg"))]
    path = write_json(tmp_path / "x.json", coco_content(images=rows, annotations=[]))
    assert read_coco(path, tmp_path / "images").sizes.tolist() == [[50, 20], [50, 20]]


def test_all_images_whose_size_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write(tmp_path / "images" / name, "no image")
    photo(tmp_path / "images/d.jpg")
    rows = [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate("cabde")]
    path = write_json(tmp_path / "x.json", coco_content(images=rows, annotations=[]))
    with pytest.raises(
        FaultyFilesError,
        match=r"x.json: 4 of 5 images without a size in the annotations .*a.jpg, whose size .*: not an",
    ) as all_:
        read_coco(path, tmp_path / "images")
    assert [file.name for file, _ in all_.value.faults] == ["a.jpg", "b.jpg", "c.jpg", "e.jpg"]
    assert "No such file" in all_.value.faults[-1][1]


def test_voc_without_sizes_and_with_paths_of_another_machine_opens(tmp_path: Path) -> None:
    """What labelImg writes for images it could not load, moved from Windows."""
    for i in range(3):
        photo(tmp_path / f"images/{NFD}{i}.jpg", 40 + i, 30)
        thing = voc_object("cat", (1, 1, 40 + i, 30))
        named = f"<path>C:\\set\\{NFC}{i}.jpg</path>"
        size = "<size><width>0</width><height>0</height></size>" if i else ""
        write(tmp_path / f"train/{i}.xml", f"<annotation>{named}{size}{thing}</annotation>")
    settings = DetectDataSettings(source="voc", path=str(tmp_path), train_images="images")
    dataset = open_detection_split(settings, "train")
    assert dataset.files == tuple(f"{NFD}{i}.jpg" for i in range(3))
    assert dataset.boxes.tolist() == [[0, 0, 40 + i, 30] for i in range(3)]
    assert dataset.counts == {FOUND_BY_NAME: 3, MEASURED_SIZES: 3}
    assert dataset.load_image(2).size == (42, 30)
