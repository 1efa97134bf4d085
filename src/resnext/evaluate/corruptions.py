"""The corruptions of ImageNet-C made on the fly, by the library ``imagecorruptions``, of any labelled images.

ImageNet-C's own files were blurred and snowed on by ImageMagick and stored as JPEG, so numbers of the two are near but
not the same.
"""

import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnext.data.crops import Mode, View
from resnext.data.preprocessing import Preprocessing
from resnext.data.randomness import seed_of
from resnext.data.source import Dataset
from resnext.errors import RequestError, nearest
from resnext.evaluate.robustness import CORRUPTIONS, SEVERITIES

SMALLEST = 32  # pixels a side, of the library
LIBRARY = "imagecorruptions"


@dataclass(frozen=True, eq=False)
class Corrupted:
    """Another data set's images as the network sees them, under one corruption; labels and names stay what they were.

    What happens to an image is a function of ``seed`` and its index, the same for each corruption.
    """

    dataset: Dataset
    preprocessing: Preprocessing
    corruption: str
    severity: int
    seed: int = 0
    in_memory: bool = False  # hundreds of milliseconds an image: workers are worth it

    def __post_init__(self) -> None:
        if self.corruption not in CORRUPTIONS:
            raise RequestError(f"no corruption {self.corruption!r}{nearest(self.corruption, CORRUPTIONS)}")
        if self.severity not in SEVERITIES:
            raise RequestError(f"the severity of a corruption is 1 to 5, not {self.severity}")
        if self.preprocessing.image_size < SMALLEST:
            raise RequestError(
                f"{LIBRARY} takes pictures of at least {SMALLEST} pixels a side, but this network sees "
                f"{self.preprocessing.image_size}"
            )

    @property
    def name(self) -> str:
        return f"{self.dataset.name}, {self.corruption} {self.severity}"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def channels(self) -> int:
        return self.dataset.channels

    @property
    def labels(self) -> np.ndarray:
        return self.dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Image.Image:
        """The view of the image, image_size pixels a side, corrupted."""
        p = self.preprocessing
        seen = View(p)(Mode(p.channels)(self.dataset.image(index)))
        pixels = corrupt(np.asarray(seen.convert("RGB")), self.corruption, self.severity, seed_of(self.seed, index))
        return Image.fromarray(pixels).convert(seen.mode)

    def where(self, index: int) -> str:
        return self.dataset.where(index)


def corrupt(pixels: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """uint8 [H, W, 3] to the same, a function of ``seed`` alone: the library draws from a generator of its own."""
    module = library()
    module.np.random = np.random.RandomState(seed % 2**32)
    module.sk.util.random_noise = partial(module.skimage.util.random_noise, rng=np.random.default_rng(seed))
    corrupted = getattr(module, corruption)(Image.fromarray(pixels), severity)
    return np.asarray(corrupted).astype(np.uint8)  # cut off, not rounded, as the library's own corrupt()


@cache
def library() -> Any:
    """The library's functions, mended for today's numpy, scikit-image and setuptools. Raises RequestError without it.

    The module is a copy of our own, so nothing changes for other users of the library. What they no longer have:
    ``np.float_``, ``multichannel``, and noise that scikit-image draws from numpy's global generator.
    """
    if importlib.util.find_spec(LIBRARY) is None:
        raise RequestError(f"--corrupt needs {LIBRARY}: pip install 'resnext[corruptions]'")
    with _resources():
        module = _own_copy()
    import skimage

    module.np = _Over(np, float_=np.float64)
    module.gaussian = partial(_gaussian, module.gaussian)
    module.skimage = skimage
    module.sk = types.SimpleNamespace(color=skimage.color, util=types.SimpleNamespace())
    return module


def _own_copy() -> Any:
    found = importlib.util.find_spec(LIBRARY)
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).with_name("corruptions.py")
    spec = importlib.util.spec_from_file_location("_resnext_imagecorruptions", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scipy.ndimage.interpolation
        spec.loader.exec_module(module)
    module.print = lambda *_: None  # it speaks of exceptions that it handled
    module.resource_filename = lambda _, name: str(path.parent / name)
    return module


@contextmanager
def _resources() -> Iterator[None]:
    """setuptools 81 took pkg_resources away; all that is wanted of it is where the frost pictures lie."""
    name = "pkg_resources"
    before = sys.modules.get(name)
    stand_in = types.ModuleType(name)
    stand_in.resource_filename = None  # type: ignore[attr-defined]
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


class _Over:
    """A module with some of its names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _gaussian(function: Any, image: np.ndarray, *args: Any, multichannel: bool = False, **options: Any) -> np.ndarray:
    return np.asarray(function(image, *args, channel_axis=-1 if multichannel else None, **options))
