"""Fashion-MNIST (Xiao et al., 2017): 70,000 grey images of clothes in four IDX files, gzipped or not."""

from pathlib import Path

from resnext.data.dataset import ArrayDataset, Source
from resnext.data.files.download import Archive, data_folder, download
from resnext.data.sources.idx import read_idx
from resnext.errors import RequestError
from resnext.settings import DataSettings

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN, STD = (0.2860,), (0.3530,)  # of the 60,000 training images
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # installed by Debian's package dataset-fashion-mnist
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
COUNTS = {"train": 60000, "t10k": 10000}
ARCHIVES = tuple(
    Archive(URL + name, name, size, md5)
    for name, size, md5 in (
        ("train-images-idx3-ubyte.gz", 26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte.gz", 29515, "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3-ubyte.gz", 4422102, "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte.gz", 5148, "bb300cfdad3c16e7a12a480ee83cd310"),
    )
)


def open_fashion_mnist(
    settings: DataSettings,
    archives: tuple[Archive, ...] = ARCHIVES,
    counts: dict[str, int] = COUNTS,
    system_folder: Path = DEBIAN_FOLDER,
) -> Source:
    """Open Fashion-MNIST from ``settings.path``, else Debian's package, else the cache, else download it.

    Debian compressed the files again, so local files are not checked by checksum but by content: counts, 28x28
    pixels, labels 0 to 9. ``archives``, ``counts`` and ``system_folder`` are changed in tests only.
    """
    folder = _find_folder(settings, archives, system_folder)
    train = _read_split(folder, "train", counts["train"], "fashion_mnist train")
    val = _read_split(folder, "t10k", counts["t10k"], "fashion_mnist test")
    split = f"the data set's own: {len(train)} training and {len(val)} test images"
    return Source(train, val, 28, MEAN, STD, split)


def _find_folder(settings: DataSettings, archives: tuple[Archive, ...], usual: Path) -> Path:
    """Find the folder that has all four files; download them if there is none."""
    if settings.path is not None:
        folder = Path(settings.path).expanduser()
        missing = [archive.name for archive in archives if _find_file(folder, archive.name) is None]
        if missing:
            raise RequestError(f"data.path {folder} lacks {', '.join(missing)} (also looked for without .gz)")
        return folder
    cache = data_folder() / "fashion-mnist"
    for folder in (usual, cache):
        if all(_find_file(folder, archive.name) for archive in archives):
            return folder
    if not settings.download:
        steps = "; ".join(archive.manual_steps(cache) for archive in archives)
        raise RequestError(f"Fashion-MNIST is neither in {usual} nor in {cache}, and data.download is off; {steps}")
    for archive in archives:
        download(archive, cache)
    return cache


def _find_file(folder: Path, name: str) -> Path | None:
    """Find a file with or without its .gz."""
    return next((path for path in (folder / name, folder / name.removesuffix(".gz")) if path.is_file()), None)


def _read_split(folder: Path, part: str, count: int, name: str) -> ArrayDataset:
    image_file = _find_file(folder, f"{part}-images-idx3-ubyte.gz")
    label_file = _find_file(folder, f"{part}-labels-idx1-ubyte.gz")
    assert image_file is not None
    assert label_file is not None
    images = read_idx(image_file, (count, 28, 28))
    labels = read_idx(label_file, (count,))
    if labels.max() >= len(CLASSES):
        where = int(labels.argmax())
        raise RequestError(
            f"{label_file} has label {labels[where]} for image {where}, expected 0 to {len(CLASSES) - 1}"
        )
    return ArrayDataset(name, CLASSES, 1, images, labels.astype("int64"))
