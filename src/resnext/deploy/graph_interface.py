"""What goes into an exported graph and what comes out of it."""

from dataclasses import dataclass

import numpy as np

from resnext.choices import INPUT_KINDS, InputKind
from resnext.data.preprocessing import Preprocessing, check_choice, check_integer
from resnext.errors import RequestError

INPUT_NAME = "images"
MAX_BATCH = 65536


@dataclass(frozen=True, kw_only=True)
class GraphInterface:
    """Input and outputs of an exported graph.

    The input is one of

    - ``pixels``: uint8 [B, S, S, C], RGB, of the network's image size S; the graph normalises it;
    - ``picture``: uint8 [1, H, W, C], RGB, of any size; the graph resizes, crops and normalises it;
    - ``normalised``: float32 [B, C, H, W], what the network itself takes.

    Raises RequestError for values that contradict each other.
    """

    input: InputKind = "normalised"
    preprocessing: Preprocessing | None = None  # the network's; pixels and picture need it
    probabilities: bool = False  # whether there is an output ``probabilities`` beside ``logits``
    with_cam: bool = False  # whether there is an output ``cam``
    batch: int | None = None  # number of images, if it is fixed; with preprocessing, this fixes their size too
    bgr: bool = False  # whether the input's channels come in the order blue, green, red

    def __post_init__(self) -> None:
        check_choice("input", self.input, INPUT_KINDS)
        if self.batch is not None:
            check_integer("batch", self.batch, MAX_BATCH)
        if self.input != "normalised" and self.preprocessing is None:
            raise RequestError(f"input {self.input} needs preprocessing, which this network lacks; choose normalised")
        if self.input == "picture" and self.batch not in (None, 1):
            raise RequestError(f"input picture takes one image at a time, not batch {self.batch}")
        if self.bgr and (self.input == "normalised" or self.preprocessing is None or self.preprocessing.channels != 3):
            raise RequestError("bgr needs input pixels or picture and a network of 3 input channels")

    @property
    def dtype(self) -> type[np.generic]:
        """Type of the input's numbers."""
        return np.float32 if self.input == "normalised" else np.uint8

    @property
    def layout(self) -> str:
        """Meaning of the input's axes."""
        return "NCHW" if self.input == "normalised" else "NHWC"

    def get_shape(self, channels: int) -> list[int | str]:
        """Return the shape of the input, with a name for each axis of any length."""
        p = self.preprocessing
        batch = "B" if self.batch is None else self.batch
        if self.input == "picture":
            return [1, "H", "W", channels]
        if self.input == "pixels":
            assert p is not None
            return [batch, p.image_size, p.image_size, channels]
        if p is None or self.batch is None:
            return [batch, channels, "H", "W"]
        return [batch, channels, p.image_size, p.image_size]

    def check_channels(self, channels: int, network: str) -> None:
        """Raise RequestError if the preprocessing is that of a network of other input channels."""
        if self.preprocessing is not None and self.preprocessing.channels != channels:
            raise RequestError(
                f"the preprocessing has {self.preprocessing.channels} channels, but {network} takes {channels}"
            )


DEFAULT_INTERFACE = GraphInterface()
