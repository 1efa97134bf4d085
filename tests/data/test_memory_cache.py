"""The memory cache gives the same batches as the files, and decodes each image once, in any process."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.data import memory_cache
from resnext.data.dataset import ArrayDataset, BadImageError, Dataset, Source, hash_dataset_listing, random_subset
from resnext.data.loader import Batch, TrainLoader, iterate_eval_batches
from resnext.data.memory_cache import KEPT, MemoryCache, cache_source
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.image_folder import open_folder
from resnext.data.transforms.pipeline import build_eval_transform, build_train_transform
from resnext.errors import RequestError
from resnext.settings import AugmentSettings, DataSettings, Recipe
from tests.data.sample_images import make_image

P = Preprocessing(image_size=8, resize=8, mean=(0.5,) * 3, std=(0.25,) * 3, channels=3)
AUGMENT = build_train_transform(AugmentSettings(crop="pad", pad=2, flip=0.5), P)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A folder of JPEG files, 8x8."""
    for split, count in (("train", 12), ("val", 4)):
        for number in range(count):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_image(8, 8, seed=number).save(path)
    return open_folder(DataSettings(source="folder", path=str(tmp_path)))


def read_epochs(dataset: Dataset, epochs: int, workers: int = 0, first_step: int = 0) -> list[Batch]:
    loader = TrainLoader(
        dataset,
        AUGMENT,
        seed=3,
        batch_size=4,
        drop_last=False,
        workers=workers,
        start_method="fork" if workers else None,
    )
    return [batch for epoch in range(epochs) for batch in loader.batches(epoch, first_step)]


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert all(a.equal(b) for a, b in zip(one[:3], other[:3], strict=True))
        assert one.bad_images == other.bad_images


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_files(source: Source, workers: int) -> None:
    cached = cache_source(source, workers, "fork")
    assert_same(read_epochs(cached.train, 3, workers), read_epochs(source.train, 3))
    assert_same(read_epochs(cached.train, 1, workers, first_step=2), read_epochs(source.train, 1, first_step=2))
    view = build_eval_transform(P)
    ours, theirs = (list(iterate_eval_batches(s.val, view, batch_size=3)) for s in (cached, source))
    assert_same(ours, theirs)


@pytest.mark.parametrize("workers", [0, 2])
def test_after_an_epoch_no_file_is_read(source: Source, workers: int, tmp_path: Path) -> None:
    expected = read_epochs(source.train, 2)
    cached = cache_source(source, workers, "fork")
    assert isinstance(cached.train, MemoryCache)
    read_epochs(cached.train, 1, workers)
    assert (cached.train.states == KEPT).all()
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    assert_same(read_epochs(cached.train, 2, workers), expected)


def test_the_cache_is_the_same_data_for_a_run_that_resumes(source: Source) -> None:
    cached = cache_source(source, 0, None)
    assert hash_dataset_listing(cached.train) == hash_dataset_listing(source.train)
    few = [random_subset(split, 5, 0) for split in (cached.train, source.train)]
    assert hash_dataset_listing(few[0]) == hash_dataset_listing(few[1])
    assert cached.train.image_path(3) == source.train.image_path(3)


def test_grey_images_are_kept(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in "ab":
            path = tmp_path / split / name / "0.png"
            path.parent.mkdir(parents=True)
            make_image(9, 7, channels=1).save(path)
    source = open_folder(DataSettings(source="folder", path=str(tmp_path), channels=1))
    image = cache_source(source, 0, None).train
    first, second = image.image(0), image.image(0)
    assert first.mode == second.mode == "L"
    assert np.array_equal(np.asarray(second), np.asarray(source.train.image(0)))


@dataclass(frozen=True)
class Files:
    """A data set that is not in memory, made of what ``read`` gives for an index."""

    read: Callable[[int], Image.Image]
    asked: list[int] = field(default_factory=list)
    name: str = "made up"
    classes: tuple[str, ...] = ("a", "b")
    channels: int = 3
    in_memory: bool = False
    labels: np.ndarray = field(default_factory=lambda: np.arange(6) % 2)

    def __len__(self) -> int:
        return 6

    def image(self, index: int) -> Image.Image:
        self.asked.append(index)
        return self.read(index)

    def image_path(self, index: int) -> str:
        return f"{index}.png"


def make_source(dataset: Dataset) -> Source:
    return Source(dataset, dataset, 8, (0.5,) * 3, (0.25,) * 3, "")


def test_a_bad_image_is_an_error_each_time_and_skipped_where_asked() -> None:
    def read(index: int) -> Image.Image:
        if index == 1:
            raise BadImageError("1.png", "it ends early")
        return make_image(8, 8)

    dataset = cache_source(make_source(Files(read)), 0, None).train
    for _ in range(2):
        with pytest.raises(BadImageError, match="it ends early"):
            dataset.image(1)
    loader = TrainLoader(dataset, AUGMENT, seed=0, batch_size=6, drop_last=False, workers=0, on_bad_image="skip")
    for epoch in range(2):
        (batch,) = loader.batches(epoch)
        assert (len(batch.images), len(batch.bad_images)) == (5, 1)


def test_an_image_of_another_size_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_cache, "SAMPLED_IMAGES", 1)
    files = Files(lambda index: make_image(8 + (index == 5), 8, seed=index))
    dataset = cache_source(make_source(files), 0, None).train
    files.asked.clear()
    sizes = [[dataset.image(index).size for index in range(6)] for _ in range(2)]
    assert sizes == [[(8, 8)] * 5 + [(9, 8)]] * 2
    assert files.asked == [0, 1, 2, 3, 4, 5, 5]


def test_what_cannot_be_cached_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = make_source(Files(lambda index: make_image(8 + index % 2, 8)))
    with pytest.raises(RequestError, match=r"keeps images of one size, but 0.png is 8x8 and 1.png is 9x8"):
        cache_source(mixed, 0, None)
    good = make_source(Files(lambda _: make_image(8, 8)))
    with pytest.raises(RequestError, match=r"start method is spawn: set data.workers 0, or data.start_method fork"):
        cache_source(good, None, "spawn")
    monkeypatch.setattr(memory_cache, "MEMORY_SHARE", 1e-12)
    with pytest.raises(RequestError, match=r"would take 0\.0 GiB .* leave it out, or use fewer images"):
        cache_source(good, 0, None)
    with pytest.raises(RequestError, match=r"use one of both"):
        Recipe(data=DataSettings(cache="memory", jpeg_decoder="fast"))


def test_data_in_memory_stays_as_it_is() -> None:
    arrays = ArrayDataset("toy train", ("a", "b"), 1, np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2)
    source = cache_source(make_source(arrays), None, "spawn")
    assert source.train is arrays
    assert source.val is arrays


def test_the_start_method_of_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "forkserver")
    with pytest.raises(RequestError, match="start method is forkserver"):
        cache_source(make_source(Files(lambda _: make_image(8, 8))), 2, None)
