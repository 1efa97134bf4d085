"""What the data sets of encoded image files have in common: an image is read as bytes, and these are decoded."""

import io
from abc import ABC, abstractmethod

import numpy as np
from PIL import Image

from resnext.data.decode.pillow import read_image


class EncodedDataset(ABC):
    """A split of encoded images; a subclass is a dataclass with these fields, and reads the bytes."""

    name: str
    classes: tuple[str, ...]
    channels: int
    labels: np.ndarray  # int64 [N]
    exif: bool
    in_memory = False

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """Return the content of the image's file. Raises BadImage or WorkError if it cannot be read."""

    @abstractmethod
    def image_path(self, index: int) -> str:
        """Return where the image is, below the root of the data."""

    def full_path(self, index: int) -> str:
        """Return the image's path as errors name it."""
        return self.image_path(index)

    def image(self, index: int) -> Image.Image:
        """Return the decoded image. Raises BadImage or WorkError."""
        return self.decode_bytes(self.read_bytes(index), index)

    def decode_bytes(self, file: bytes, index: int) -> Image.Image:
        """Decode the bytes that ``read_bytes`` returned. Raises BadImage."""
        return read_image(io.BytesIO(file), self.channels, self.exif, name=self.full_path(index))
