"""The same images in every layout: the same pixels, labels and stream of batches, however they are read."""

import multiprocessing
import pickle
import tarfile
import uuid
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch

from resnext.data import open_data
from resnext.data.dataset import Source
from resnext.data.loader import TrainLoader
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.pipeline import build_train_transform
from resnext.settings import AugmentSettings, DataSettings
from tests.data import layouts
from tests.data.layouts import SampleImage, make_sample_images, read_contents, select_split, write_file

pytestmark = pytest.mark.usefixtures("cache")
LAYOUTS = ("folders", "archives", "class tars", "flat val", "unpacked devkit", "shards", "json shards", "parquet")


def settings_for(layout: str, root: Path, images: list[SampleImage]) -> DataSettings:
    if layout == "folders":
        return DataSettings(source="imagenet", path=str(layouts.write_folders(root, images)))
    if layout.endswith("shards"):
        layouts.write_shards(root, images, kind="json" if layout == "json shards" else "cls")
        last = (len(select_split(images, "train")) - 1) // 4
        return DataSettings(
            source="webdataset", path=f"{root}/train-{{000000..{last:06d}}}.tar", val_path=f"{root}/val-*.tar"
        )
    if layout == "parquet":
        return DataSettings(source="parquet", path=str(layouts.write_parquet(root, images)))
    layouts.write_archives(root, images)
    if layout == "class tars":
        (root / "ILSVRC2012_img_train.tar").unlink()
        for wnid, content in layouts.class_tars(select_split(images, "train")).items():
            write_file(root / "train" / f"{wnid}.tar", content)
    if layout == "flat val":
        (root / "ILSVRC2012_img_val.tar").unlink()
        for image in select_split(images, "val"):
            write_file(root / "val" / image.name, image.content)
    if layout == "unpacked devkit":
        with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz") as tar:
            tar.extractall(root, filter="data")
        (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    return DataSettings(source="imagenet", path=str(root))


def stream(source: Source, first_step: int = 0, **options: object) -> list[torch.Tensor]:
    view = Preprocessing.from_settings(DataSettings(image_size=32), source)
    transform = build_train_transform(AugmentSettings(crop="random_resized", flip=0.5), view)
    said = {"seed": 5, "batch_size": 4, "drop_last": True, "workers": 0} | options
    loader = TrainLoader(source.train, transform, **said)  # type: ignore[arg-type]
    return [t for batch in loader.batches(1, first_step) for t in (batch.images, batch.labels, batch.indices)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_pixels_labels_and_order(
    layout: str, tmp_path: Path, images: list[SampleImage]
) -> None:
    source = open_data(settings_for(layout, tmp_path / "data", images))
    theirs = open_data(DataSettings(source="folder", path=str(layouts.write_folders(tmp_path / "folders", images))))
    assert read_contents(source.train) == read_contents(theirs.train)
    assert read_contents(source.val) == read_contents(theirs.val)
    numbers = tuple(map(str, range(len(theirs.train.classes))))
    assert source.train.classes == (numbers if "shards" in layout else theirs.train.classes)
    assert (source.image_size, source.mean, source.std) == (theirs.image_size, theirs.mean, theirs.std)
    assert not source.train.in_memory


STARTED = [("fork", layout) for layout in ("archives", "class tars", "shards", "parquet")]
STARTED += [pytest.param("spawn", layout, marks=pytest.mark.slow) for layout in ("archives", "shards", "parquet")]


@pytest.mark.parametrize(("start_method", "layout"), STARTED)
def test_workers_of_any_kind_and_entering_midway_change_nothing(layout: str, start_method: str, tmp_path: Path) -> None:
    if start_method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start_method} here")
    source = open_data(settings_for(layout, tmp_path, make_sample_images()))
    source.train.image(0)  # a handle is open in the parent
    whole = stream(source)
    assert len(whole) == 3 * (len(source.train) // 4)
    midway = stream(source, 1, workers=2, start_method=start_method)
    assert len(midway) == len(whole) - 3
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], midway, strict=True))


@pytest.mark.parametrize("layout", ["archives", "class tars", "shards"])
def test_a_file_system_in_memory_serves_as_a_disk_does(layout: str, tmp_path: Path) -> None:
    images = make_sample_images()
    local = settings_for(layout, tmp_path / "data", images)
    place = f"memory://{uuid.uuid4().hex}"
    for path in sorted((tmp_path / "data").rglob("*")):
        if path.is_file():
            with fsspec.open(f"{place}/{path.relative_to(tmp_path / 'data')}", "wb") as file:
                file.write(path.read_bytes())
    paths = {"path": local.path, "val_path": local.val_path}
    moved = {key: path and path.replace(str(tmp_path / "data"), place) for key, path in paths.items()}
    here, there = open_data(local), open_data(replace(local, **moved))  # type: ignore[arg-type]
    assert read_contents(there.train) == read_contents(here.train)
    assert read_contents(there.val) == read_contents(here.val)
    assert there.train.image_path(3) == here.train.image_path(3)
    forked = stream(there, workers=2, start_method="fork")
    assert all(torch.equal(a, b) for a, b in zip(stream(here), forked, strict=True))
    again = open_data(replace(local, **{key: path and f"file://{path}" for key, path in paths.items()}))  # type: ignore[arg-type]
    assert read_contents(again.val) == read_contents(here.val)


def test_a_second_opening_reads_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for("archives", tmp_path, make_sample_images())
    first = open_data(settings)
    monkeypatch.setattr("resnext.data.files.tar_index.open_file", None)
    assert read_contents(open_data(settings).train) == read_contents(first.train)


@pytest.mark.parametrize("layout", ["archives", "shards", "parquet"])
def test_a_data_set_goes_to_another_process_whole(layout: str, tmp_path: Path) -> None:
    source = open_data(settings_for(layout, tmp_path, make_sample_images()))
    source.val.image(0)
    assert read_contents(pickle.loads(pickle.dumps(source.val))) == read_contents(source.val)
