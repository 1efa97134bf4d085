"""``data check`` finds each kind of problem, and reports an error exactly where training would fail."""

import csv
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.data import BadImageError, open_data
from resnext.data.decode.pillow import IMAGE_EXTENSIONS
from resnext.data.tools.check_folder import FORMAT_BY_EXTENSION, check_image_folder
from resnext.data.tools.findings import CheckReport, Finding
from resnext.errors import RequestError, escape_unprintable
from resnext.settings import DataSettings
from tests.data.decode.test_pillow import png
from tests.data.layouts import write_file
from tests.data.sources.test_image_folder import folder, make, write_image


def clean(root: Path) -> Path:
    """Write twelve different images in train/ and val/, two classes."""
    for i, place in enumerate(
        f"{split}/{name}/{n}.jpg" for split in ("train", "val") for name in ("cat", "dog") for n in "123"
    ):
        write_image(root / place, seed=i, size=(40, 36))
    return root


def check(root: Path, **changes: object) -> CheckReport:
    return check_image_folder(folder(root, **changes), workers=2)


def found(report: CheckReport, path: str) -> set[tuple[str, str]]:
    return {(f.severity, f.problem) for f in report.findings if f.path == path}


def trains(settings: DataSettings) -> bool:
    """Whether the folder source loads every image of both splits."""
    try:
        source = open_data(settings)
        for data in (source.train, source.val):
            for index in range(len(data)):
                data.image(index)
    except (RequestError, BadImageError):
        return False
    return True


def test_a_clean_folder_has_no_findings(tmp_path: Path) -> None:
    report = check(clean(tmp_path))
    assert report.findings == ()
    assert report.counts == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 3, "dog": 3}}
    assert list(report.summary_lines())[-1] == "training can read all of it"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def cmyk(path: Path) -> None:
    Image.open(path).convert("CMYK").save(path)


def as_png(path: Path) -> None:
    Image.open(path).save(path, format="PNG")


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def deep(path: Path) -> None:
    path.write_bytes(png(40, 40, 16, 2, (b"\0" + struct.pack(">120H", *range(0, 60000, 500))) * 40))


def see_through(path: Path) -> None:
    Image.open(path).convert("RGBA").save(path, format="PNG")


def drawn_in_transparency(path: Path) -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[10:30, 10:30, 3] = 255
    Image.fromarray(pixels).save(path, format="PNG")


def twelve_bits(path: Path) -> None:
    Image.fromarray(np.arange(1600).reshape(40, 40).astype(np.uint16)).save(path, format="TIFF")


def animated(path: Path) -> None:
    frames = [Image.open(path).convert("L"), Image.new("L", (40, 36), 7)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (cut, ("error", "truncated")),
        (lambda path: path.write_bytes(b""), ("error", "zero size")),
        (lambda path: path.write_text("<html>"), ("error", "not an image")),
        (lambda path: path.write_bytes(png(20000, 20000, 8, 0, b"")), ("error", "decompression bomb")),
        (lambda path: path.write_bytes(png(40, 40, 8, 2, b"\x09" * 5000)), ("error", "undecodable")),
        (lambda path: (path.unlink(), path.symlink_to("nowhere.jpg")), ("error", "unreadable")),
        (lambda path: (path.unlink(), os.mkfifo(path)), ("error", "undecodable")),
        (as_png, ("warning", "wrong extension")),
        (animated, ("warning", "animated")),
        (cmyk, ("note", "CMYK")),
        (rotated, ("note", "EXIF rotated")),
        (deep, ("note", "16-bit")),
        (see_through, ("note", "alpha")),
        (drawn_in_transparency, ("warning", "one colour")),
        (twelve_bits, ("warning", "nearly black")),
        (lambda path: write_image(path, 99, (31, 90)), ("note", "small")),
    ],
)
def test_each_kind_of_file_is_found_and_errors_are_what_stops_training(
    tmp_path: Path, spoil: Callable[[Path], object], expected: tuple[str, str]
) -> None:
    root = clean(tmp_path)
    spoil(root / "train/dog/2.jpg")
    report = check(root)
    assert expected in found(report, "train/dog/2.jpg")
    assert {f.path for f in report.findings} == {"train/dog/2.jpg"}
    assert report.has_errors == (expected[0] == "error") == (not trains(folder(root)))
    assert {(f.class_name, f.split) for f in report.findings} == {("dog", "train")}


def test_the_same_bytes_in_train_and_val_are_found(tmp_path: Path) -> None:
    root = clean(tmp_path)
    shutil.copy(root / "train/cat/1.jpg", root / "val/cat/again.jpg")
    report = check(root)
    for path in ("train/cat/1.jpg", "val/cat/again.jpg"):
        assert found(report, path) == {("warning", "duplicate across splits")}
    assert report.findings[0].detail == "the same bytes as val/cat/again.jpg"
    assert not report.has_errors


def test_the_same_pixels_in_another_file_are_found(tmp_path: Path) -> None:
    root = clean(tmp_path)
    Image.open(root / "train/cat/1.jpg").save(root / "train/dog/lossless.png")
    report = check(root)
    twice = {("note", "duplicate within a split"), ("warning", "one image, two classes")}
    assert found(report, "train/dog/lossless.png") == twice
    details = {f.detail for f in report.findings if f.path == "train/cat/1.jpg"}
    assert details == {"the same pixels as train/dog/lossless.png"}


def test_empty_and_missing_classes_are_errors(tmp_path: Path) -> None:
    root = clean(tmp_path)
    (root / "train/emu").mkdir()
    write_image(root / "val/gnu/1.png", 50, (40, 40))
    report = check(root)
    assert ("error", "empty class") in found(report, "train/emu")
    assert ("warning", "class missing in a split") in found(report, "train/emu")
    assert found(report, "val/gnu") == {("error", "class missing in a split")}
    assert not trains(folder(root))


def test_a_class_that_is_not_held_out_is_a_warning(tmp_path: Path) -> None:
    root = clean(tmp_path)
    write_image(root / "train/emu/1.png", 50, (40, 40))
    report = check(root)
    assert found(report, "train/emu") == {("warning", "class missing in a split")}
    assert not report.has_errors
    assert trains(folder(root))


def test_a_split_that_training_does_not_read_only_warns(tmp_path: Path) -> None:
    root = clean(tmp_path)
    write_image(root / "test/cat/1.jpg", 60, (40, 40))
    cut(write_image(root / "test/emu/1.jpg", 61, (40, 40)))
    report = check(root)
    assert {"truncated", "class missing in a split"} <= {f.problem for f in report.findings}
    assert not report.has_errors
    assert trains(folder(root))


def test_pictures_that_training_leaves_out_are_named(tmp_path: Path) -> None:
    root = clean(tmp_path)
    shutil.copy(write_image(tmp_path / "a" / "1.png", 70), root / "train/cat/photo.image")
    shutil.copy(tmp_path / "a" / "1.png", root / "train/loose.png")
    shutil.rmtree(tmp_path / "a")
    (root / "train/cat/new.HEIC").write_bytes(b"x")
    (root / "train/cat/notes.txt").write_text("x")
    (root / "train/cat/.DS_Store").write_text("x")
    report = check(root)
    assert found(report, "train/cat/photo.image") == found(report, "train/loose.png") == {("warning", "left out")}
    assert found(report, "train/cat/new.HEIC") == {("warning", "left out")}
    assert found(report, "train/cat/notes.txt") == {("note", "not an image file")}
    assert len(report.findings) == 4


def test_one_folder_of_classes_is_checked_without_its_split(tmp_path: Path) -> None:
    root = make(tmp_path, {"cat": 3, "dog": 3})  # the same three images twice
    report = check(root)
    assert not report.has_errors
    assert ("note", "no split") in found(report, "")
    assert ("warning", "duplicate") in found(report, "cat/0.png")
    assert ("warning", "one image, two classes") in found(report, "cat/0.png")
    assert set(report.counts) == {""}


def test_one_folder_of_classes_is_checked_with_its_split(tmp_path: Path) -> None:
    for i in range(16):
        write_image(tmp_path / f"{'cat' if i % 2 else 'dog'}/{i}.png", i // 2, (40, 40))
    data = folder(tmp_path, val_fraction=0.4, split_seed=3)
    source, report = open_data(data), check(tmp_path, val_fraction=0.4, split_seed=3)
    sizes = {split: sum(counts.values()) for split, counts in report.counts.items()}
    assert sizes == {"train": len(source.train), "val": len(source.val)}
    side = {source.val.image_path(i): "val" for i in range(len(source.val))}
    twins = [(f"cat/{2 * i + 1}.png", f"dog/{2 * i}.png") for i in range(8)]
    for pair in twins:
        across = len({side.get(path, "train") for path in pair}) == 2
        for path in pair:
            assert (("warning", "duplicate across splits") in found(report, path)) == across
    assert {len({side.get(path, "train") for path in pair}) for pair in twins} == {1, 2}
    cut(tmp_path / next(iter(side)))
    assert check(tmp_path, val_fraction=0.4, split_seed=3).has_errors


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ({"val/cat": 2, "val/dog": 2}, {}),
        ({"train/cat": 2, "val/cat": 2}, {}),
        ({"cat": 1, "dog": 4}, {"val_fraction": 0.2}),
        ({"cat": 1, "dog": 4}, {}),
        ({"cat": 4}, {"val_fraction": 0.2}),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 2, "val/dog": 2}, {"val_fraction": 0.2}),
        ({"train/cat": 2, "train/dog": 2, "val": 2}, {}),
    ],
)
def test_layouts_that_cannot_train_are_errors(
    tmp_path: Path, layout: dict[str, int], changes: dict[str, object]
) -> None:
    root = make(tmp_path, layout)
    assert not trains(folder(root, **changes))
    assert check(root, **changes).has_errors


def test_a_path_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected PATH/train/CLASS/IMAGE"):
        check(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        check(tmp_path / "none")


def test_every_extension_has_its_format() -> None:
    assert set(FORMAT_BY_EXTENSION) == set(IMAGE_EXTENSIONS)


def test_the_csv_holds_every_finding_whatever_the_name(tmp_path: Path) -> None:
    odd = os.fsdecode(b'a,"b"\n\xe9.jpg')
    report = CheckReport("r", {}, (Finding(odd, "cat", "train", "error", "truncated", "x, y"),))
    report.write_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"path": odd, "class": "cat", "split": "train", "severity": "error", "problem": "truncated", "detail": "x, y"}
    ]
    assert escape_unprintable(odd) == 'a,"b"\\n\\udce9.jpg'
    assert escape_unprintable("\x1b[31mred") == "\\x1b[31mred"


def test_real_photographs_are_fine_and_damage_among_them_is_found(tmp_path: Path, photographs: list[bytes]) -> None:
    for i, file in enumerate(photographs[:40]):
        folder_of = tmp_path / ("train" if i % 4 else "val") / ("even" if i // 4 % 2 else "odd")
        write_file(folder_of / f"{i}.JPEG", file)
    report = check(tmp_path)
    assert not report.has_errors
    assert trains(folder(tmp_path))
    victim = sorted((tmp_path / "train/odd").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    twin = sorted((tmp_path / "train/even").iterdir())[0]
    shutil.copy(twin, tmp_path / "val/even" / "copy.JPEG")
    report = check(tmp_path)
    assert [f.path for f in report.findings if f.severity == "error"] == [str(victim.relative_to(tmp_path))]
    assert ("warning", "duplicate across splits") in found(report, "val/even/copy.JPEG")
    assert np.count_nonzero([f.problem == "duplicate across splits" for f in report.findings]) == 2
