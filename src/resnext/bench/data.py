"""``resnext bench data``: speed from image files to augmented batches, compared with torchvision."""

import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.bench import results
from resnext.bench.measure import Candidate, Timing, time_interleaved
from resnext.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.data.loader import TrainLoader
    from resnext.data.sources.image_folder import FolderDataset

SUMMARY = "Measure images per second from files to batches, compared with torchvision's ImageFolder."
OURS, EXACT = "resnext fast", "resnext exact"
EXTENSIONS = (".jpg", ".jpeg", ".png")
MAX_TAR_BYTES = 4 << 30  # bytes; larger tar files are not unpacked


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench data``."""

    path: str
    size: int
    batch: int
    limit: int  # images per round
    rounds: int
    workers: int


def run(options: Options) -> int:
    """Run the benchmark; exit status 0. Raises RequestError if there are no images."""
    import torch

    from resnext.screen import make_screen
    from resnext.speed.allocator import tune_malloc

    tune_malloc()  # as in training; it speeds up every candidate
    path = results.prepare_csv(options.out, "data")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _unpack(Path(options.path).expanduser()) as root:
            _measure(options, root, path, make_screen())
    finally:
        torch.set_num_threads(threads)
    return 0


def _measure(options: Options, root: Path, path: Path, console: "Console") -> None:
    dataset = _open_dataset(root, options.limit)
    _print_differences(options, dataset, console)
    with results.show_progress("loading") as progress:
        timings = time_interleaved(_make_candidates(options, root, dataset), options.rounds, progress=progress)
    stages = _time_stages(options, dataset, next(t for t in timings if t.name == OURS))
    rows = results.make_timing_rows(timings, OURS)
    more = [{"arm": f"stage: {name}", "microseconds": f"{value:.1f}"} for name, value in stages.items()]
    results.write_rows(path, [*rows, *more], results.collect_protocol(options.command))
    _plot(timings, path.with_suffix(".png"))
    where = f"{options.workers} loading processes" if options.workers else "one process, one thread"
    work = f"{len(dataset)} files to {options.size}x{options.size}, crop, jitter, lighting, flip"
    results.print_timings(console, f"{work}; {where}", timings, OURS)
    _print_stages(stages, console)
    console.print(f"written: {path} and {path.with_suffix('.png').name}")


def _make_candidates(options: Options, root: Path, dataset: "FolderDataset") -> list[Candidate]:
    """Make our candidates, torchvision's and, if installed, OpenCV's; a pass reads at most ``options.limit`` images."""
    from importlib.util import find_spec

    from resnext.bench import data_peers

    ways = {
        "ImageFolder + PIL": data_peers.make_image_folder_batches,
        "torchvision decode_image + v2": data_peers.make_tensor_batches,
        **({"OpenCV": data_peers.make_opencv_batches} if find_spec("cv2") else {}),
    }
    steps = len(dataset) // options.batch
    images = steps * options.batch

    def passes(batches: Callable[[], Iterator[Any]]) -> Callable[[], object]:
        return lambda: [None for _, _ in zip(range(steps), batches(), strict=False)]

    mine = [
        Candidate(name, passes(_iterate_epochs(_make_loader(dataset, options, fast=name == OURS))), images)
        for name in (OURS, EXACT)
    ]
    theirs = [
        Candidate(n, passes(way(root, options.size, options.batch, options.workers)), images) for n, way in ways.items()
    ]
    return mine + theirs


def _iterate_epochs(loader: "TrainLoader") -> Callable[[], Iterator[Any]]:
    epochs = iter(range(1_000_000))
    return lambda: loader.batches(next(epochs))


def _make_loader(dataset: Any, options: Options, *, fast: bool, **augment: Any) -> "TrainLoader":
    """Make the training loader of the paper's ImageNet recipe; ``augment`` changes single settings of it."""
    from resnext.data.loader import TrainLoader
    from resnext.data.preprocessing import Preprocessing
    from resnext.data.sources.image_folder import MEAN, STD
    from resnext.data.transforms.pipeline import build_jpeg_transform, build_train_transform
    from resnext.settings import AugmentSettings

    view = Preprocessing(image_size=options.size, resize=options.size, mean=MEAN, std=STD, channels=3, exif=False)
    recipe: dict[str, Any] = {"crop": "paper_imagenet", "flip": 0.5, "color_jitter": 0.4, "lighting": 0.1} | augment
    transform = (build_jpeg_transform if fast else build_train_transform)(AugmentSettings(**recipe), view)
    return TrainLoader(dataset, transform, seed=0, batch_size=options.batch, drop_last=True, workers=options.workers)


def _open_dataset(root: Path, limit: int) -> Any:
    from resnext.data.dataset import random_subset
    from resnext.data.sources.image_folder import scan_class_folders
    from resnext.settings import DataSettings

    whole = scan_class_folders(root, "", DataSettings(source="folder", path=str(root), exif=False))
    return random_subset(whole, limit, 0)


def _print_differences(options: Options, dataset: Any, console: "Console") -> None:
    """Print how far fast decoding is from exact decoding with the same random draws (0 to 255)."""
    from rich.table import Table

    title = "fast minus exact decoding, on the scale of 0 to 255"
    table = Table("recipe", box=None, header_style="bold", title=title, title_justify="left")
    for heading in ("largest", "mean", "values that differ"):
        table.add_column(heading, justify="right")
    for name, change in (("crop and flip", {"color_jitter": 0.0, "lighting": 0.0}), ("with jitter and lighting", {})):
        largest = total = differing = count = 0.0
        exact, fast = (_make_loader(dataset, options, fast=fast, **change).batches(0) for fast in (False, True))
        for one, other in zip(exact, fast, strict=True):
            scale = 255 if one.images.is_floating_point() else 1
            apart = (one.images.float() - other.images.float()).abs() * scale
            largest, total = max(largest, float(apart.max())), total + float(apart.sum())
            differing, count = differing + int((apart > 1e-3).sum()), count + apart.numel()
        table.add_row(name, f"{largest:.3g}", f"{total / count:.3g}", f"{differing / count:.4%}")
    console.print(table)


def _time_stages(options: Options, dataset: Any, whole: Timing) -> dict[str, float]:
    """Time each stage of the fast decoder, in microseconds per image; empty if there is no fast decoder."""
    import torch

    from resnext.data.decode.turbojpeg import CropSpec, load_decoder

    library = load_decoder()
    if library is None or options.workers:
        return {}
    looks = []
    transform: Any = _make_loader(dataset, options, fast=True).transform
    for index in range(len(dataset)):
        file = dataset.read_bytes(index)
        torch.manual_seed(index)
        look = transform.draw_spec(library.read_header(file)) if library.read_header(file).is_plain else None
        if look is not None:
            looks.append((file, look))
    bytes_out, floats_out = (torch.empty(3, options.size, options.size, dtype=t) for t in (torch.uint8, torch.float32))

    def last_row(look: CropSpec) -> tuple[int, int, int, int]:
        left, top, _, height = look.box
        return left, top + height - 1, 1, 1

    works = {
        "entropy": lambda: [library.decode_only(file, last_row(look), options.size) for file, look in looks],
        "decode": lambda: [library.decode_only(file, look.box, options.size) for file, look in looks],
        "bytes": lambda: [library.decode_crop(file, look, bytes_out) for file, look in looks],
        "floats": lambda: [library.decode_crop(file, look, floats_out) for file, look in looks],
    }
    timings = time_interleaved([Candidate(name, work, len(looks)) for name, work in works.items()], options.rounds)
    took = {timing.name: 1e6 / timing.median for timing in timings}
    return {
        "entropy decoding, to the crop's last row": took["entropy"],
        "inverse DCT and colour conversion of the crop": took["decode"] - took["entropy"],
        "resize": took["bytes"] - took["decode"],
        "jitter and lighting": took["floats"] - took["bytes"],
        "reading, draws, batch": 1e6 / whole.median - took["floats"],
    }


def _print_stages(stages: dict[str, float], console: "Console") -> None:
    from rich.table import Table

    table = Table("stage", box=None, header_style="bold", title=f"{OURS}, microseconds per image", title_justify="left")
    for heading in ("time", "share"):
        table.add_column(heading, justify="right")
    total = sum(stages.values())
    for name, value in stages.items():
        table.add_row(name, f"{value:.0f}", f"{value / total:.0%}")
    if stages:
        console.print(table)


def _plot(timings: list[Timing], path: Path) -> None:
    """Plot one bar per candidate: the median, with a mark at the best round."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.5 * len(timings)), layout="constrained")
    axes = figure.subplots()
    for timing in reversed(timings):
        axes.barh(timing.name, timing.median, color="#4878a8")
        axes.plot(timing.best, timing.name, "|", color="black", markersize=14)
    axes.set_xlabel("images per second: median (bar) and best round (mark)")
    figure.savefig(path, dpi=150)


@contextmanager
def _unpack(path: Path) -> Iterator[Path]:
    """Find the folder with one subfolder per class, in ``path`` or in a tar file that is unpacked temporarily."""
    if path.is_dir():
        yield _find_class_root(path)
        return
    if not path.is_file():
        raise RequestError(f"{path} does not exist; give a folder of image files, or a tar file of one")
    with tempfile.TemporaryDirectory(prefix="resnext-bench-") as name:
        try:
            with tarfile.open(path) as tar:
                members = [m for m in tar if m.isreg() and m.name.lower().endswith(EXTENSIONS)]
                if sum(m.size for m in members) > MAX_TAR_BYTES:
                    most = MAX_TAR_BYTES >> 30
                    raise RequestError(f"{path} holds more than {most} GiB; unpack it and give the folder")
                tar.extractall(name, members, filter="data")
        except tarfile.TarError as error:
            raise RequestError(f"{path} is neither a folder nor a tar: {error}") from None
        yield _find_class_root(Path(name))


def _find_class_root(root: Path) -> Path:
    """Find the topmost folder whose subfolders hold images. Raises RequestError if there is none."""
    level = [root]
    for _ in range(4):
        for folder in level:
            inner = [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
            if any(file.name.lower().endswith(EXTENSIONS) for entry in inner for file in entry.iterdir()):
                return folder
        level = [entry for folder in level for entry in sorted(folder.iterdir()) if entry.is_dir()]
    raise RequestError(
        f"{root} has no folders of images; expected CLASS/IMAGE with files ending in {' '.join(EXTENSIONS)}"
    )
