"""The input preprocessing a network expects. It is stored with the weights.

Training writes it; evaluation, prediction and every export read it. This module does not need torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from resnext.errors import RequestError, did_you_mean
from resnext.settings import CROP_MODES, INTERPOLATIONS, CropMode, DataSettings, Interpolation
from resnext.sources import SOURCES

if TYPE_CHECKING:
    from resnext.data.dataset import Source

STORED_NAMES = {"crop_mode": "fit"}  # fields whose name in weights files and reports is another
MAX_SIDE = 8192  # pixels; a file with a larger value is broken or hostile


class StoredPreprocessing:
    """What the preprocessing of classifiers and detectors shares: checks, and conversion to and from JSON values."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # subclasses are dataclasses
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exif: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        values = asdict(self).items()
        return {STORED_NAMES.get(name, name): list(v) if isinstance(v, tuple) else v for name, v in values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Invert ``to_dict``. The values may come from any file; raises RequestError for what is not valid."""
        if not isinstance(values, Mapping):
            raise RequestError(f"preprocessing must be a table of names and values, not {values!r}")
        names = {STORED_NAMES.get(f.name, f.name): f for f in fields(cls)}
        for key in values:
            if key not in names:
                raise RequestError(f"preprocessing has an unknown key {key!r}{did_you_mean(str(key), names)}")
        for name, field in names.items():
            if field.default is MISSING and name not in values:
                raise RequestError(f"preprocessing lacks {name!r}")
        return cls(**{names[key].name: value for key, value in values.items()})

    def _check_shared_fields(self, channels: int) -> None:
        if not isinstance(self.exif, bool):
            raise RequestError(f"exif must be true or false, not {self.exif!r}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, parse_channel_values(name, getattr(self, name), channels))
        if min(self.std) <= 0:
            raise RequestError(f"std {list(self.std)} must be above 0 in every channel")


@dataclass(frozen=True, kw_only=True)
class Preprocessing(StoredPreprocessing):
    """How an image becomes the network's input: resize, crop, channels and normalisation.

    ``load``, ``create_model(pretrained=True)`` and ``Predictor`` set it as ``.preprocessing``; it is saved with them.

    Attributes:
        image_size: Side of the square input of the network, in pixels.
        resize: Shorter side before the centre crop, in pixels; not used with ``crop_mode`` ``squash`` and ``pad``.
        crop_mode: How the image becomes a square: ``crop`` its centre, ``squash`` it, or ``pad`` it with the mean.
        interpolation: Filter of all (antialiased) resizing: ``bicubic`` or ``bilinear``.
        mean: Mean of each channel, on the scale of 0 to 1; it is subtracted.
        std: Standard deviation of each channel, on the same scale; the difference is divided by it.
        channels: 3 for RGB, 1 for grey.
        exif: Whether image files are turned upright by their EXIF orientation when they are opened.

    Raises:
        RequestError: A value is out of range, or values contradict each other.
    """

    image_size: int
    resize: int
    crop_mode: CropMode = "crop"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    exif: bool = True

    def __post_init__(self) -> None:
        check_integer("channels", self.channels, 3)
        if self.channels not in (1, 3):
            raise RequestError(f"channels {self.channels} cannot be read from images; choose 1 (grey) or 3 (RGB)")
        check_integer("image_size", self.image_size, MAX_SIDE)
        check_integer("resize", self.resize, MAX_SIDE)
        check_choice("crop_mode", self.crop_mode, CROP_MODES)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if self.crop_mode == "crop" and self.resize < self.image_size:
            raise RequestError(
                f"resize {self.resize} is smaller than image_size {self.image_size}, so no centre crop fits; "
                f"resize must be at least {self.image_size}"
            )
        self._check_shared_fields(self.channels)

    @property
    def color_order(self) -> Literal["RGB", "grey"]:
        """Order of the input channels. Weights made for another order are converted when they are loaded."""
        return "grey" if self.channels == 1 else "RGB"

    @property
    def mean_color(self) -> tuple[int, ...]:
        """The mean as integers in 0..255. Padding is filled with it."""
        return tuple(round(255 * value) for value in self.mean)

    @staticmethod
    def from_settings(settings: DataSettings, source: "Source", base: "Preprocessing | None" = None) -> "Preprocessing":
        """Return the preprocessing of a run: settings first, then that of the weights (``base``), then the source's.

        Interpolation, mean and std follow the weights. Size and crop mode follow the weights only for sources of
        image files; other sources have a fixed image size. Raises RequestError for settings that contradict.
        """
        channels = source.train.channels
        view = base if SOURCES[settings.source].has_image_files else None
        colours = base if base is not None and base.channels == channels else source
        size = (view or source).image_size if settings.image_size is None else settings.image_size
        crop_mode = settings.crop_mode or (view.crop_mode if view else "crop")
        if crop_mode != "crop" and settings.resize not in (None, size):
            raise RequestError(
                f"data.resize {settings.resize} belongs to data.crop_mode crop; with {crop_mode} the image is resized "
                f"directly to data.image_size {size}"
            )
        resize = settings.resize
        if resize is None:
            same_view = view is not None and settings.image_size is None and view.crop_mode == crop_mode == "crop"
            resize = view.resize if view is not None and same_view else size
        return Preprocessing(
            image_size=size,
            resize=resize,
            crop_mode=crop_mode,
            interpolation=settings.interpolation or (base.interpolation if base else "bicubic"),
            mean=colours.mean if settings.mean is None else settings.mean,
            std=colours.std if settings.std is None else settings.std,
            channels=channels,
            exif=settings.exif,
        )


def check_integer(name: str, value: Any, high: int) -> None:
    """Raise RequestError unless ``value`` is an integer from 1 to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise RequestError(f"{name} must be a whole number from 1 to {high}, not {value!r}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise RequestError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise RequestError(f"{name} {value!r} is unknown{did_you_mean(str(value), choices)}")


def parse_channel_values(name: str, values: Any, channels: int) -> tuple[float, ...]:
    """Check that ``values`` has one number from 0 to 1 for each channel, and return them as floats."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise RequestError(f"{name} must be a list of {channels} numbers, one per channel, not {values!r}")
    items = list(values)
    if len(items) != channels:
        raise RequestError(f"{name} has {len(items)} values, but the images have {channels} channels")
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, float)) or item != item or abs(item) == math.inf:
            raise RequestError(f"{name} must hold plain numbers, not {item!r}")
        if not 0 <= item <= 1:
            raise RequestError(f"{name} {items} must be on the scale of 0 to 1; divide values of 0 to 255 by 255")
    return tuple(float(item) for item in items)
