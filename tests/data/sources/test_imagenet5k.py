"""The choice of ImageNet-5K's classes, from every layout of ImageNet-22K."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.data import open_data, open_split
from resnext.data.decode.pillow import read_image
from resnext.data.sources.imagenet5k import CLASS_LIST_FILE, choose_classes
from resnext.errors import RequestError
from resnext.settings import DataSettings
from tests.data import layouts
from tests.data.layouts import WNIDS, SampleImage, make_sample_images, read_contents, select_split, write_file

pytestmark = pytest.mark.usefixtures("cache")
OTHERS = {"n00000005": 3, "n00000004": 4, "n99999999": 3, "n00000001": 1, "n00000007": 3}


def everything() -> list[SampleImage]:
    """Two images of each of WNIDS, and some of other synsets."""
    others = [
        SampleImage("train", wnid, f"{wnid}_{i}.JPEG", layouts.make_jpeg(500 + i))
        for wnid, n in OTHERS.items()
        for i in range(n)
    ]
    return select_split(make_sample_images(), "train") + others


def as_22k(layout: str, root: Path) -> Path:
    if layout == "folders":
        for image in everything():
            write_file(root / image.wnid / image.name, image.content)
        return root
    if layout == "tars":
        for wnid, content in layouts.class_tars(everything()).items():
            write_file(root / f"{wnid}.tar", content)
        return root
    if layout == "whole":
        return write_file(root / "fall11_whole.tar", layouts.tar_of_tars(everything()))
    return write_file(
        root / "winter21_whole.tar.gz", gzip.compress(layouts.tar_of_tars(everything(), "winter21_whole/"))
    )


def five_k(path: Path, val: Path, **changes: object) -> DataSettings:
    said: dict[str, object] = {"extra_classes": 3} | changes
    return DataSettings(source="imagenet5k", path=str(path), val_path=str(val), **said)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["folders", "tars", "whole", "winter21"])
def test_the_classes_are_the_1k_s_and_the_largest_others(layout: str, tmp_path: Path) -> None:
    settings = five_k(as_22k(layout, tmp_path / "22k"), layouts.write_archives(tmp_path / "1k", make_sample_images()))
    source = open_data(settings)
    extra = ("n00000004", "n00000005", "n00000007")  # 4 images, then those of 3 with the earliest wnids
    assert source.train.classes == source.val.classes == tuple(sorted({*WNIDS, *extra}))
    assert len(source.train) == 2 * len(WNIDS) + 4 + 3 + 3
    counts = dict(zip(source.train.classes, np.bincount(source.train.labels).tolist(), strict=True))
    rows = [f"{wnid},{n},{'extra' if wnid in extra else '1k'}" for wnid, n in sorted(counts.items())]
    assert source.extra_files[CLASS_LIST_FILE].splitlines() == ["wnid,images,part", *rows]
    wanted = [i for i in everything() if i.wnid in counts]
    by_class = sorted(wanted, key=lambda i: (i.wnid, i.name))
    for index, image in enumerate(by_class):
        assert source.train.image_path(index).endswith(image.name)
        assert source.train.classes[source.train.labels[index]] == image.wnid
    assert source.train.image(0).tobytes() == read_image(io.BytesIO(by_class[0].content)).tobytes()


def test_the_validation_set_is_the_1k_s_among_all_classes(tmp_path: Path) -> None:
    val = layouts.write_archives(tmp_path / "1k", make_sample_images())
    settings = five_k(as_22k("tars", tmp_path / "22k"), val)
    source = open_data(settings)
    alone = open_split(DataSettings(source="imagenet", path=str(val)), "val")
    assert [pixels for _, *pixels in read_contents(source.val)] == [pixels for _, *pixels in read_contents(alone)]
    ours, theirs = ([data.classes[label] for label in data.labels] for data in (source.val, alone))
    assert ours == theirs
    assert read_contents(open_split(settings, "val")) == read_contents(source.val)
    rule = "20 training images of 8 classes, 3 of them not in ImageNet-1K; ImageNet-1K's 5"
    assert source.split_rule.startswith(rule)


def test_the_real_images_serve_too(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "imagenet-sample-250.tar") as tar:
        images = layouts.read_sample_images(tar)
    wnids = sorted({image.wnid for image in images})
    val = [image for image in images if image.wnid in wnids[:5] and image.split == "val"]
    val = [image._replace(name=f"ILSVRC2012_val_{n:08d}.JPEG") for n, image in enumerate(val, 1)]
    path = write_file(tmp_path / "whole.tar", layouts.tar_of_tars(select_split(images, "train")))
    source = open_data(
        five_k(path, layouts.write_archives(tmp_path / "1k", val + select_split(images, "train")), extra_classes=2)
    )
    assert source.train.classes == tuple(wnids[:7])
    assert {source.train.image(i).mode for i in range(len(source.train))} == {"RGB"}


COUNTS = st.dictionaries(st.integers(0, 40).map(lambda n: f"n{n:08d}"), st.integers(1, 4), min_size=3, max_size=20)


@given(COUNTS, st.integers(1, 3), st.integers(0, 5))
def test_the_choice_is_the_naive_one(counts: dict[str, int], required: int, extra: int) -> None:
    wanted = sorted(counts)[:required]
    others = [(-n, wnid) for wnid, n in counts.items() if wnid not in wanted]
    if extra > len(others):
        with pytest.raises(RequestError, match=f"extra_classes {extra} is more than the {len(others)} classes"):
            choose_classes(counts, wanted, extra)
        return
    rows = choose_classes(counts, wanted, extra)
    assert [row.wnid for row in rows] == sorted([*wanted, *(wnid for _, wnid in sorted(others)[:extra])])
    assert all(row.images == counts[row.wnid] for row in rows)
    assert {row.wnid for row in rows if row.part == "1k"} == set(wanted)


def test_classes_that_22k_lacks_are_listed(tmp_path: Path) -> None:
    root = as_22k("tars", tmp_path / "22k")
    (root / f"{WNIDS[1]}.tar").unlink()
    with pytest.raises(RequestError, match=rf"lacks 1 of the 5 classes of the validation set, '{WNIDS[1]}'"):
        open_data(five_k(root, layouts.write_archives(tmp_path / "1k", make_sample_images())))


def test_both_paths_are_asked_for(tmp_path: Path) -> None:
    val = layouts.write_archives(tmp_path / "1k", make_sample_images())
    with pytest.raises(RequestError, match=r"needs data\.path, ImageNet-22K, and data\.val_path"):
        open_data(DataSettings(source="imagenet5k", path=str(tmp_path)))
    with pytest.raises(RequestError, match="none does not exist; expected <wnid>/ folders"):
        open_data(five_k(tmp_path / "none", val))
    with pytest.raises(RequestError, match="extra_classes 9 is more than the 5"):
        open_data(five_k(as_22k("tars", tmp_path / "22k"), val, extra_classes=9))
