"""Corrupt any labelled images on the fly as ImageNet-C does, with the library ``imagecorruptions``.

ImageNet-C's own files were partly made by ImageMagick and stored as JPEG, so results are close to but not equal to
those on its files.
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
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from resnext.data.dataset import DatasetWrapper
from resnext.data.preprocessing import Preprocessing
from resnext.data.seeding import derive_seed
from resnext.data.transforms.eval_view import ConvertMode, EvalView
from resnext.errors import RequestError, did_you_mean
from resnext.evaluation.suites.imagenet_c import CORRUPTIONS, SEVERITIES

MIN_IMAGE_SIZE = 32  # pixels a side; limit of the library
LIBRARY = "imagecorruptions"


@dataclass(frozen=True, eq=False)
class CorruptedDataset(DatasetWrapper):
    """The cropped images of another data set under one corruption, with the same labels and paths.

    The random numbers for an image depend on ``seed`` and its index only.
    """

    preprocessing: Preprocessing
    corruption: str
    severity: int
    seed: int = 0
    keeps_files: ClassVar[bool] = False

    @property
    def in_memory(self) -> bool:
        """Always false: a corruption takes hundreds of milliseconds an image, so workers are used."""
        return False

    def __post_init__(self) -> None:
        if self.corruption not in CORRUPTIONS:
            raise RequestError(f"unknown corruption {self.corruption!r}{did_you_mean(self.corruption, CORRUPTIONS)}")
        if self.severity not in SEVERITIES:
            raise RequestError(f"the severity of a corruption must be from 1 to 5, not {self.severity}")
        if self.preprocessing.image_size < MIN_IMAGE_SIZE:
            raise RequestError(
                f"{LIBRARY} needs images of at least {MIN_IMAGE_SIZE} pixels a side, but this network's input has "
                f"{self.preprocessing.image_size}"
            )

    @property
    def name(self) -> str:
        """The data set's name with corruption and severity."""
        return f"{self.dataset.name}, {self.corruption} {self.severity}"

    def image(self, index: int) -> Image.Image:
        """Crop the image to image_size pixels a side and corrupt it."""
        p = self.preprocessing
        seen = EvalView(p)(ConvertMode(p.channels)(self.dataset.image(index)))
        pixels = corrupt(np.asarray(seen.convert("RGB")), self.corruption, self.severity, derive_seed(self.seed, index))
        return Image.fromarray(pixels).convert(seen.mode)


def corrupt(pixels: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """Corrupt an image, uint8 [H, W, 3]. All random numbers are drawn from ``seed``."""
    module = load_library()
    module.np.random = np.random.RandomState(seed % 2**32)
    module.sk.util.random_noise = partial(module.skimage.util.random_noise, rng=np.random.default_rng(seed))
    corrupted = getattr(module, corruption)(Image.fromarray(pixels), severity)
    return np.asarray(corrupted).astype(np.uint8)  # truncated, not rounded, as the library's own corrupt() does


@cache
def load_library() -> Any:
    """Import imagecorruptions, patched for current numpy, scikit-image and setuptools.

    We patch a private copy of the module, so other users of the library are not affected. It relies on ``np.float_``,
    ``multichannel`` and scikit-image drawing noise from numpy's global generator, which no longer exist. Raises
    RequestError if it is not installed.
    """
    if importlib.util.find_spec(LIBRARY) is None:
        raise RequestError(f"--corrupt needs {LIBRARY}: pip install 'resnext[corruptions]'")
    with _stub_pkg_resources():
        module = _import_copy()
    import skimage

    module.np = _ModuleOverlay(np, float_=np.float64)
    module.gaussian = partial(_call_gaussian, module.gaussian)
    module.skimage = skimage
    module.sk = types.SimpleNamespace(color=skimage.color, util=types.SimpleNamespace())
    return module


def _import_copy() -> Any:
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
    module.print = lambda *_: None  # it prints exceptions that it has handled
    module.resource_filename = lambda _, name: str(path.parent / name)
    return module


@contextmanager
def _stub_pkg_resources() -> Iterator[None]:
    """Provide a stub of pkg_resources, which setuptools 81 removed; the library only locates its frost images by it."""
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


class _ModuleOverlay:
    """A module with some of its names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _call_gaussian(
    function: Any, image: np.ndarray, *args: Any, multichannel: bool = False, **options: Any
) -> np.ndarray:
    return np.asarray(function(image, *args, channel_axis=-1 if multichannel else None, **options))
