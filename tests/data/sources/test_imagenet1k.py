"""ImageNet-1K's layouts: what is read from where, and everything that can be wrong with them."""

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.data import BadImageError, open_data, open_split
from resnext.data.imagenet_classes import ilsvrc2012_synsets, imagenet_synsets
from resnext.data.loader import TrainLoader
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.imagenet_devkit import read_ground_truth
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings
from tests.data import layouts
from tests.data.layouts import WNIDS, SampleImage, make_sample_images, read_contents, select_split, write_file

pytestmark = pytest.mark.usefixtures("cache")
TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return layouts.write_archives(tmp_path / "imagenet", make_sample_images())


def imagenet(root: Path, **changes: object) -> DataSettings:
    return DataSettings(source="imagenet", path=str(root), **changes)  # type: ignore[arg-type]


def refused(root: Path, message: str, split: str = "both", **changes: object) -> None:
    with pytest.raises(RequestError, match=message):
        open_data(imagenet(root, **changes)) if split == "both" else open_split(imagenet(root, **changes), split)


def test_the_ids_are_ilsvrc_s() -> None:
    """The first 11 of the devkit's ground truth against the synsets of these images, as public lists have both."""
    ids = ilsvrc2012_synsets()
    assert sorted(ids) == list(imagenet_synsets())
    first = (
        "n01751748 n09193705 n02105855 n04263257 n03125729 n01735189 n02346627 n02776631 n03794056 n02328150 n01917289"
    )
    assert [ids[i - 1] for i in (490, 361, 171, 822, 297, 482, 13, 704, 599, 164, 649)] == first.split()
    assert (ids[0], ids[222], ids[999]) == ("n02119789", "n02672831", "n03255030")


def test_a_ground_truth_of_50000_lines_must_be_the_official_one(tmp_path: Path) -> None:
    text = "".join(f"{1 + i % 1000}\n" for i in range(50_000)).encode()
    write_file(tmp_path / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", text)
    with pytest.raises(RequestError, match="is not that of ILSVRC2012; download the devkit again"):
        read_ground_truth([str(tmp_path)], "val")


def test_all_thousand_classes_are_in_the_official_order(tmp_path: Path) -> None:
    root = layouts.write_archives(
        tmp_path, [SampleImage(p.split, p.wnid, p.name, b"") for p in make_sample_images(imagenet_synsets(), 1)]
    )
    source = open_data(imagenet(root))
    assert source.train.classes == source.val.classes == imagenet_synsets()
    assert source.train.labels.tolist() == list(range(1000))
    assert source.split_rule == "ImageNet's own: 1000 training and 1000 validation images of 1000 classes"


def test_one_split_needs_nothing_of_the_other(root: Path) -> None:
    (root / TRAIN).unlink()
    val = open_split(imagenet(root), "val")
    assert (len(val), val.name) == (5, "imagenet val")
    assert val.image_path(0).startswith(f"{VAL}:ILSVRC2012_val_0000000")
    refused(root, "has no training images; expected train/<wnid>/")


def test_training_folders_and_the_validation_archive_go_together(tmp_path: Path) -> None:
    images = make_sample_images()
    whole = open_data(imagenet(layouts.write_archives(tmp_path / "archives", images)))
    layouts.write_folders(tmp_path / "data", select_split(images, "train"))
    mixed = open_data(imagenet(tmp_path / "data", val_path=str(tmp_path / "archives" / VAL)))
    assert read_contents(mixed.train) == read_contents(whole.train)
    assert read_contents(mixed.val) == read_contents(whole.val)
    for name in (VAL, DEVKIT):
        os.rename(tmp_path / "archives" / name, tmp_path / "data" / name)
    assert read_contents(open_data(imagenet(tmp_path / "data")).val) == read_contents(whole.val)


def test_folders_go_before_the_archive_they_were_unpacked_from(root: Path) -> None:
    layouts.write_folders(root, select_split(make_sample_images(), "train"))
    assert open_data(imagenet(root)).train.image_path(0).startswith("train/n")
    (root / "val").mkdir()  # empty: the archive counts
    assert open_data(imagenet(root)).val.image_path(0).startswith(VAL)


def test_settings_of_reading_reach_the_archives(tmp_path: Path) -> None:
    images = make_sample_images()
    root = layouts.write_archives(tmp_path, images)
    grey = open_data(imagenet(root, channels=1))
    assert (grey.train.image(0).mode, grey.mean) == ("L", (0.459,))
    assert open_data(imagenet(root)).val.image(0).mode == "RGB"
    assert open_data(imagenet(root, max_train_images=3)).train.labels.shape == (3,)
    refused(root, "channels 2", channels=2)


# ---- what can be wrong


def test_a_place_that_is_none_is_told_the_layout(tmp_path: Path) -> None:
    refused(tmp_path / "none", "does not exist; expected train/<wnid>/")
    refused(tmp_path, "no training images; expected train/<wnid>/")
    with pytest.raises(RequestError, match=r"needs data\.path"):
        open_data(DataSettings(source="imagenet"))


def test_a_missing_devkit_is_asked_for(root: Path) -> None:
    (root / DEVKIT).unlink()
    refused(root, rf"put {DEVKIT}, as downloaded or unpacked, beside it")
    layouts.write_folders(root, [])
    for image in select_split(make_sample_images(), "val"):
        write_file(root / "val" / image.name, image.content)
    refused(root, rf"classes of the images in .*val are not known: put {DEVKIT}")


def test_a_wrong_archive_is_recognised(root: Path) -> None:
    train, val = (root / TRAIN).read_bytes(), (root / VAL).read_bytes()
    (root / TRAIN).write_bytes(val)
    refused(root, r"img_train\.tar should hold one tar for each class, but has ILSVRC2012_val_")
    (root / TRAIN).write_bytes(train)
    (root / VAL).write_bytes(train)
    refused(root, r"img_val\.tar has n\d+\.tar, which is not in ImageNet's validation set")
    (root / VAL).write_bytes(val)
    (root / DEVKIT).write_bytes(val)
    refused(root, "is not a whole tar.gz")
    (root / DEVKIT).write_bytes(layouts.tar_bytes({"ILSVRC2012_devkit_t3/data/meta.mat": b""}, "w:gz"))
    refused(root, r"has no data/ILSVRC2012_validation_ground_truth\.txt")
    (root / DEVKIT).write_bytes((root / DEVKIT).read_bytes()[:60])
    refused(root, "devkit")


def test_synsets_that_are_not_imagenet_1k_s_or_no_synsets_are_named(root: Path) -> None:
    images = select_split(make_sample_images(), "train")
    strange = [images[0]._replace(wnid="n00000001"), *images]
    write_file(root / TRAIN, layouts.tar_of_tars(strange))
    refused(root, r"n00000001.*not one of ImageNet-1K's 1,000 synsets")
    write_file(root / TRAIN, layouts.tar_of_tars([images[0]._replace(wnid="cats"), *images]))
    refused(root, "'cats', which is not a synset")
    write_file(
        root / TRAIN,
        layouts.tar_bytes(
            {f"{WNIDS[0]}.tar": layouts.tar_bytes({"a.txt": b""}), f"{WNIDS[1]}.tar": layouts.tar_bytes({"a.jpg": b""})}
        ),
    )
    refused(root, r"a\.txt, which is not an image")


def test_a_synset_that_comes_twice_is_named(root: Path) -> None:
    tars = layouts.class_tars(select_split(make_sample_images(), "train"))
    twice = [*tars.items(), *((f"more/{wnid}", content) for wnid, content in list(tars.items())[:1])]
    write_file(root / TRAIN, layouts.tar_bytes((f"{name}.tar", content) for name, content in twice))
    refused(root, rf"has {next(iter(tars))}\.tar twice")
    for wnid, content in tars.items():
        write_file(root / "train" / f"{wnid}.tar", content)
    (root / "train" / WNIDS[0]).mkdir()
    refused(root, rf"class '{WNIDS[0]}' twice, as a folder and as a tar")


def test_a_class_missing_in_a_split_is_named(root: Path) -> None:
    images = make_sample_images()
    write_file(
        root / TRAIN,
        layouts.tar_of_tars([image for image in select_split(images, "train") if image.wnid != WNIDS[2]]),
    )
    refused(root, rf"differ: train has 4 and val 5; only val has '{WNIDS[2]}'")


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([1, 2, 3, 4], "5 images, but the devkit's ground truth has 4 lines"),
        ([1, 2, 3, 4, 5, 1], "5 images, but the devkit's ground truth has 6 lines"),
        ([1, 2, 3, 4, 1001], "line 5 of .* is '1001', expected 1 to 1000"),
        ([1, 2, 3, 4, 0], "line 5 of .* is '0'"),
        ([1, 2, 3, 4, "n01"], "line 5 of .* is 'n01'"),
        (["\n" * (17 << 20)], "has more than 16777216 bytes"),
    ],
)
def test_a_devkit_that_cannot_be_right_is_refused(truth: list[object], message: str, root: Path) -> None:
    write_file(root / DEVKIT, layouts.tar_bytes(layouts.devkit_files(make_sample_images(), truth), "w:gz"))
    refused(root, message, "val")


def test_a_missing_or_repeated_number_is_named(root: Path) -> None:
    val = select_split(make_sample_images(), "val")
    write_file(root / VAL, layouts.tar_bytes((i.name.replace("00000003", "00000009"), i.content) for i in val))
    refused(root, r"has no ILSVRC2012_val_00000003\.JPEG", "val")
    write_file(root / VAL, layouts.tar_bytes([*((i.name, i.content) for i in val), (val[0].name, b"")]))
    refused(root, rf"has {val[0].name} twice", "val")


def test_an_archive_cut_off_in_training_stops_it_whatever_bad_images_do(root: Path) -> None:
    source = open_data(imagenet(root))
    view = build_eval_transform(Preprocessing.from_settings(DataSettings(image_size=32), source))
    whole = (root / TRAIN).stat().st_size
    os.truncate(root / TRAIN, whole // 3)
    for workers in (0, 2):
        loader = TrainLoader(
            source.train, view, seed=0, batch_size=2, drop_last=True, workers=workers, on_bad_image="skip"
        )
        with pytest.raises(WorkError, match=r"^cannot read n\d+\.tar/n\d+_\d+\.JPEG of .*img_train\.tar: ") as caught:
            list(loader.batches(0))
        assert "Traceback" not in str(caught.value)


def test_an_undecodable_image_is_a_bad_image_that_may_be_skipped(root: Path) -> None:
    images = make_sample_images()
    broken = [i._replace(content=i.content[:200]) if i == images[0] else i for i in images]
    layouts.write_archives(root, broken)
    train = open_data(imagenet(root)).train
    at = [train.image_path(i).rpartition("/")[2] for i in range(len(train))].index(images[0].name)
    with pytest.raises(BadImageError, match=rf"{TRAIN}:{images[0].wnid}\.tar/{images[0].name}"):
        train.image(at)


def test_exif_is_the_setting_s_in_every_layout(root: Path) -> None:
    turned = Image.fromarray(np.zeros((4, 9, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    file = root / "turned.jpg"
    turned.save(file, exif=exif)
    images = [image._replace(content=file.read_bytes()) for image in make_sample_images()]
    layouts.write_archives(root, images)
    assert open_data(imagenet(root)).val.image(0).size == (4, 9)
    assert open_data(replace(imagenet(root), exif=False)).val.image(0).size == (9, 4)


def test_the_real_sample_s_classes_are_imagenet_s(shared_data: Path) -> None:
    with tarfile.open(shared_data / "imagenet-sample-250.tar") as tar:
        wnids = {name.split("/")[1] for name in tar.getnames() if name.endswith(".JPEG")}
    assert len(wnids) == 250
    assert wnids <= set(imagenet_synsets())
