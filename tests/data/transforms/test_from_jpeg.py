"""The JPEG transform makes the same draws as the transform of decoded images, with pixels within the bound."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from resnext.data.dataset import BadImageError, Dataset, Subset, as_file_dataset
from resnext.data.loader import Batch, TrainLoader
from resnext.data.sources.image_folder import scan_class_folders
from resnext.data.sources.registry import open_data
from resnext.data.transforms.crops import PaperCrop
from resnext.data.transforms.from_jpeg import JpegTransform, draw_resized_box
from resnext.data.transforms.pipeline import build_jpeg_transform, build_train_transform
from resnext.errors import RequestError
from resnext.settings import AugmentSettings, DataSettings
from tests.data.jpeg_files import encode_jpeg, make_scene
from tests.data.layouts import tar_bytes, write_file
from tests.data.sample_images import make_preprocessing
from tests.data.test_loader import toy

SIZE = 32
P = make_preprocessing(SIZE)
PAPER = {"crop": "paper_imagenet", "flip": 0.5, "color_jitter": 0.4, "lighting": 0.1}


pytestmark = pytest.mark.usefixtures("decoder")


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode_jpeg(make_scene(70, 50, seed=orientation), exif=exif)


def mixed_folder(root: Path, count: int = 16) -> Path:
    """Ordinary JPEGs, and those that Pillow must read: turned, CMYK, of another format."""
    for i in range(count):
        image = make_scene(60 + 3 * i, 90 - 2 * i, seed=i, mode="L" if i == 3 else "RGB")
        content = encode_jpeg(image, subsampling=i % 3, progressive=i % 5 == 4)
        write_file(root / "train" / "ab"[i % 2] / f"{i:02}.jpg", content)
    write_file(root / "train" / "a" / "turned.jpg", turned(6))
    write_file(root / "train" / "a" / "upright.jpg", turned(1))
    write_file(root / "train" / "b" / "cmyk.jpg", encode_jpeg(make_scene(50, 60).convert("CMYK")))
    make_scene(40, 40).save(root / "train" / "b" / "other.png")
    return root


def dataset(root: Path, exif: bool = True) -> Dataset:
    return scan_class_folders(root, "train", DataSettings(source="folder", path=str(root), exif=exif))


def loader(data: Dataset, way: Callable[..., object], augment: dict[str, object], **options: object) -> TrainLoader:
    said: dict[str, object] = {"seed": 5, "batch_size": 4, "drop_last": False, "workers": 0, **options}
    return TrainLoader(data, way(AugmentSettings(**augment), P), **said)  # type: ignore[arg-type]


def both(data: Dataset, augment: dict[str, object], **options: object) -> list[tuple[Batch, Batch]]:
    exact, fast = (loader(data, way, augment, **options) for way in (build_train_transform, build_jpeg_transform))
    return list(zip(exact.batches(1), fast.batches(1), strict=True))


@given(st.integers(1, 700), st.integers(1, 700), st.floats(0.05, 1), st.integers(0, 10_000))
@settings(max_examples=200)
def test_the_crop_is_torchvisions_for_the_same_seed(width: int, height: int, least: float, seed: int) -> None:
    theirs = v2.RandomResizedCrop(8, scale=(least, 1.0))
    torch.manual_seed(seed)
    box = draw_resized_box(width, height, least)
    after = torch.rand(1)
    torch.manual_seed(seed)
    params = theirs.make_params([Image.new("1", (width, height))])
    assert box == tuple(params[key] for key in ("left", "top", "width", "height"))
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    "augment",
    [
        PAPER,
        {"crop": "random_resized", "flip": 0.5},
        {"crop": "random_resized", "color_jitter": 0.4, "min_area": 0.5},
        {"crop": "paper_imagenet", "lighting": 0.1, "random_erasing": 0.5},
        {"crop": "paper_imagenet", "random_erasing": 0.9, "flip": 0.5},
        {"crop": "random_resized", "size": 24},
    ],
    ids=str,
)
@pytest.mark.parametrize("exif", [True, False])
def test_the_batches_are_those_of_the_exact_way(tmp_path: Path, augment: dict[str, object], exif: bool) -> None:
    coloured = "color_jitter" in augment or "lighting" in augment
    for exact, fast in both(dataset(mixed_folder(tmp_path), exif), augment):
        assert fast.images.dtype == exact.images.dtype == (torch.float32 if coloured else torch.uint8)
        assert torch.equal(exact.indices, fast.indices)
        assert torch.equal(exact.labels, fast.labels)
        difference = (exact.images.float() - fast.images.float()).abs() * (255 if coloured else 1)
        assert difference.max() <= 4.5  # two levels, through a brightness and a saturation or contrast of 1.4 each
        assert difference.mean() <= 0.05


def test_most_files_take_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(mixed_folder(tmp_path))
    read = []
    monkeypatch.setattr(type(data), "decode_bytes", lambda self, file, index: read.append(self.image_path(index)))
    with pytest.raises(AttributeError):  # no picture came for a file that Pillow was to read
        list(loader(data, build_jpeg_transform, PAPER, batch_size=20).batches(0))
    assert read[0].split("/")[-1] in ("turned.jpg", "cmyk.jpg", "other.png")


def test_workers_and_resuming_change_nothing(tmp_path: Path) -> None:
    data = dataset(mixed_folder(tmp_path))
    alone = [b.images for b in loader(data, build_jpeg_transform, PAPER).batches(2)]
    for options in ({"workers": 2}, {"workers": 1, "start_method": "spawn"}):
        batches = loader(data, build_jpeg_transform, PAPER, **options).batches(2, first_step=2)
        assert all(torch.equal(x, y.images) for x, y in zip(alone[2:], batches, strict=True))


def test_every_source_of_files_feeds_the_same(tmp_path: Path) -> None:
    files = {f"{i:04}": encode_jpeg(make_scene(80 + i, 70, seed=i)) for i in range(8)}
    samples = [(f"{k}.{e}", c) for k, f in files.items() for e, c in (("jpg", f), ("cls", str(int(k) % 2).encode()))]
    for split in ("train", "val"):
        write_file(tmp_path / f"{split}.tar", tar_bytes(samples))
        for k, content in files.items():
            write_file(tmp_path / "folder" / split / str(int(k) % 2) / f"{k}.jpg", content)
    tars = DataSettings(source="webdataset", path=f"{tmp_path}/train.tar", val_path=f"{tmp_path}/val.tar")
    shards = open_data(tars).train
    folder = open_data(DataSettings(source="folder", path=str(tmp_path / "folder"))).train
    order = np.array([[shards.image_path(i).split(":")[1] for i in range(8)].index(f"{int(k):04}.jpg") for k in files])
    places = [next(i for i in range(8) if key in folder.image_path(i)) for key in files]
    pairs = Subset(shards, order), Subset(folder, np.array(places))
    one, two = (next(loader(data, build_jpeg_transform, PAPER, batch_size=8).batches(0)).images for data in pairs)
    assert torch.equal(one, two)


def test_the_same_files_are_refused(tmp_path: Path) -> None:
    root = mixed_folder(tmp_path, count=6)
    whole = encode_jpeg(make_scene(64, 64), quality=95)
    for name, content in (("cut.jpg", whole[: len(whole) // 2]), ("empty.jpg", b""), ("text.jpg", b"not a picture")):
        write_file(root / "train" / "a" / name, content)
    for exact, fast in both(dataset(root), PAPER, on_bad_image="skip", batch_size=13):
        assert exact.bad_images == fast.bad_images
        assert torch.equal(exact.indices, fast.indices)
    with pytest.raises(BadImageError):
        list(loader(dataset(root), build_jpeg_transform, PAPER, batch_size=13).batches(0))


def test_what_has_no_fast_way_stays_exact() -> None:
    for augment in ({"crop": "pad"}, {"crop": "center"}, {"crop": "random_resized", "trivial_augment": True}):
        assert not isinstance(build_jpeg_transform(AugmentSettings(**augment), P), JpegTransform)
    grey = build_jpeg_transform(AugmentSettings(crop="random_resized"), make_preprocessing(SIZE, channels=1))
    assert not isinstance(grey, JpegTransform)
    with pytest.raises(RequestError, match="grey"):
        build_jpeg_transform(AugmentSettings(color_jitter=0.1), make_preprocessing(SIZE, channels=1))


def test_a_data_set_in_memory_has_no_files() -> None:
    assert as_file_dataset(toy()) is None
    assert as_file_dataset(Subset(toy(), np.arange(3))) is None


def test_a_crop_that_fits_no_picture_is_left_to_the_exact_way() -> None:
    torch.manual_seed(0)
    fast = build_jpeg_transform(AugmentSettings(crop="paper_imagenet", min_area=1.0), P)
    assert isinstance(fast, JpegTransform)
    assert isinstance(fast.paper_crop, PaperCrop)
    assert fast.paper_crop.draw_box(400, 3) is None
    assert not fast.decode_into(encode_jpeg(make_scene(400, 3)), torch.empty(3, SIZE, SIZE, dtype=torch.uint8))
    assert pickle.loads(pickle.dumps(fast)).size == SIZE  # for spawned workers
