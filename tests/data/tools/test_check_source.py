"""``data check`` of archives, shards and Parquet: the source guessed from a path, and the findings."""

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from resnext.data.sources.registry import open_data
from resnext.data.tools.check_source import check_source, find_wrong_archives, guess_source
from resnext.data.tools.findings import CheckReport
from resnext.errors import RequestError
from resnext.settings import DataSettings
from tests.data import layouts
from tests.data.layouts import WNIDS, SampleImage, make_sample_images, select_split, write_file

pytestmark = pytest.mark.usefixtures("cache")


def test_a_path_is_taken_for_what_it_looks_like(tmp_path: Path) -> None:
    images = make_sample_images()
    assert guess_source(str(layouts.write_folders(tmp_path / "folders", images))) == "folder"
    assert guess_source(str(layouts.write_archives(tmp_path / "archives", images))) == "imagenet"
    assert guess_source(str(tmp_path / "archives/ILSVRC2012_img_train.tar")) == "imagenet"
    assert guess_source(str(layouts.write_shards(tmp_path / "shards", images))) == "webdataset"
    assert guess_source(f"{tmp_path}/shards/train-{{000000..000002}}.tar") == "webdataset"
    assert guess_source("memory://bucket/train-{000000..000002}.tar") == "webdataset"
    assert guess_source(str(layouts.write_parquet(tmp_path / "parquet", images))) == "parquet"
    assert guess_source(f"{tmp_path}/parquet/train*.parquet") == "parquet"
    write_file(tmp_path / "flat/val/ILSVRC2012_val_00000001.JPEG", b"")
    assert guess_source(str(tmp_path / "flat")) == "imagenet"
    for wnid, content in layouts.class_tars(images).items():
        write_file(tmp_path / "22k" / f"{wnid}.tar", content)
    assert guess_source(str(tmp_path / "22k")) == "imagenet5k"
    assert guess_source(str(tmp_path / "none")) == "folder"


def settings_of(layout: str, root: Path, images: list[SampleImage]) -> DataSettings:
    if layout == "imagenet":
        return DataSettings(source="imagenet", path=str(layouts.write_archives(root, images)))
    if layout == "parquet":
        return DataSettings(source="parquet", path=str(layouts.write_parquet(root, images)))
    layouts.write_shards(root, images)
    return DataSettings(source="webdataset", path=f"{root}/train*", val_path=f"{root}/val*")


def found(report: CheckReport) -> list[tuple[str, str, str]]:
    return [(f.severity, f.problem, f.split) for f in report.findings]


@pytest.mark.parametrize("layout", ["imagenet", "webdataset", "parquet"])
def test_clean_data_has_no_findings_and_odd_data_has_its_own(layout: str, tmp_path: Path) -> None:
    images = make_sample_images()
    report = check_source(settings_of(layout, tmp_path / "clean", images), workers=2)
    assert report.findings == ()
    assert {split: sum(classes.values()) for split, classes in report.counts.items()} == {"train": 10, "val": 5}
    assert not report.has_errors

    train, val = select_split(images, "train"), select_split(images, "val")
    odd = [train[0]._replace(content=train[0].content[:300]), train[1]._replace(content=b"")]
    odd += [train[2]._replace(content=b"not an image"), train[3]._replace(content=train[4].content), *train[4:]]
    odd += [val[0]._replace(content=train[5].content), *val[1:]]
    report = check_source(settings_of(layout, tmp_path / "odd", odd), workers=2)
    rows = found(report)
    assert rows[:3] == [("error", problem, "train") for problem in ("not an image", "truncated", "zero size")]
    assert rows.count(("warning", "duplicate across splits", "train")) == 1
    assert rows.count(("warning", "duplicate across splits", "val")) == 1
    twins = (("note", "duplicate within a split", "train"), ("warning", "one image, two classes", "train"))
    assert sum(row in twins for row in rows) >= 2
    assert report.has_errors
    cut = next(f for f in report.findings if f.problem == "truncated")
    assert cut.class_name == (train[0].wnid if layout != "webdataset" else "0")


def test_a_layout_that_training_refuses_is_an_error(tmp_path: Path) -> None:
    root = layouts.write_archives(tmp_path / "a", make_sample_images())
    os.truncate(root / "ILSVRC2012_img_train.tar", 3000)
    report = check_source(DataSettings(source="imagenet", path=str(root)), workers=1)
    assert found(report) == [("error", "layout", "train")]
    assert "cut off" in report.findings[0].detail
    layouts.write_archives(
        tmp_path / "b", [image for image in make_sample_images() if image.split == "val" or image.wnid > "n02"]
    )
    report = check_source(DataSettings(source="imagenet", path=str(tmp_path / "b")), workers=1)
    assert "classes of ImageNet's two splits differ" in report.findings[0].detail
    with pytest.raises(RequestError, match="no training images"):
        check_source(DataSettings(source="imagenet", path=str(tmp_path)))


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_classes_without_images_are_told_and_one_class_alone_is_no_training_set(layout: str, tmp_path: Path) -> None:
    images = make_sample_images()
    first = images[0].wnid
    kept = [image for image in images if image.split == "val" or image.wnid != first]
    settings = settings_of(layout, tmp_path / "lacking", kept)
    if layout == "webdataset":
        names = tmp_path / "names.txt"
        names.write_text("\n".join(WNIDS))
        settings = replace(settings, classes=str(names))
    (finding,) = check_source(settings, workers=1).findings
    assert (finding.severity, finding.problem, finding.split) == ("warning", "class without images", "train")
    assert (finding.class_name, finding.detail) == (first, "none in train, 1 in val")

    alone = [image for image in images if image.split == "val" or image.wnid == first]
    report = check_source(replace(settings_of(layout, tmp_path / "alone", alone), classes=settings.classes), workers=1)
    assert report.has_errors
    assert "are of one class, " in report.findings[0].detail
    with pytest.raises(RequestError, match=r"all 2 images of .* are of one class, .*; a classifier needs at least two"):
        open_data(replace(settings_of(layout, tmp_path / "open", alone), classes=settings.classes))


def test_official_checksums_are_compared_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layouts.write_archives(tmp_path, make_sample_images())
    settings = DataSettings(source="imagenet", path=str(root))
    rows = found(CheckReport("", {}, tuple(find_wrong_archives(settings))))
    assert rows == [("error", "not the official archive", "")] * 3
    names = [path.name for path in root.glob("ILSVRC*")]
    right = {name: hashlib.md5((root / name).read_bytes()).hexdigest() for name in names}
    monkeypatch.setattr("resnext.data.tools.check_source.ARCHIVE_MD5S", right)
    assert list(find_wrong_archives(settings)) == []


def test_an_image_of_another_format_than_its_name_says_is_noted(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 40), 50).convert("RGB").save(file, "PNG")
    images = make_sample_images()
    images[0] = images[0]._replace(content=file.getvalue())
    report = check_source(settings_of("imagenet", tmp_path, images), workers=1)
    assert found(report) == [("warning", "wrong extension", "train")]
