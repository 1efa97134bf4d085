"""What evaluation and prediction need of a network. An inference engine (``deploy.Predictor``) has it too."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn

from resnext.data.preprocessing import Preprocessing
from resnext.model.architecture import Architecture


class HasModes(Protocol):
    """A network that can be set to evaluation mode, as every ``nn.Module``."""

    def modules(self) -> Iterator[nn.Module]:
        """Yield the network and all its parts."""

    def eval(self) -> object:
        """Set evaluation mode."""


class Classifier(HasModes, Protocol):
    """A network that computes logits [B, K] of prepared images [B, C, H, W], and says what they mean."""

    @property
    def architecture(self) -> Architecture:
        """The network's architecture."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images are prepared; None if the weights do not say."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Name of each output; None if the weights do not say."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Compute the logits."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters; the first one tells the device."""
