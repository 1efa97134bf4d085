"""One network or an ensemble: average logits over the views of each image, then over the networks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from resnext.data.preprocessing import Preprocessing, normalize
from resnext.errors import RequestError
from resnext.evaluate.views import Looks, Transform, combined
from resnext.model.network import Network


@dataclass(frozen=True, eq=False)
class Member:
    """A network, on its device, with its preprocessing."""

    model: nn.Module
    preprocessing: Preprocessing


@dataclass(frozen=True, eq=False)
class Panel:
    """Networks with the same classes, evaluated as one.

    ``combine`` says what is averaged over networks, as ``Views.combine`` does for views. ``output_indices`` (int64)
    selects outputs before any softmax; None for all.
    """

    members: Sequence[Member]
    looks: Looks
    ensemble: str = "probabilities"
    outputs: np.ndarray | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        assert self.members
        for member in self.members if self.looks.kind == "dense" else ():
            if not isinstance(member.model, Network):
                raise RequestError("the dense view needs one of our networks, which can be run fully convolutionally")

    def transforms(self) -> list[Transform]:
        """Build one transform for each pass over the images; networks with the same preprocessing share passes."""
        return [transform for p in self._preprocessings() for transform in self.looks.transforms(p)]

    def batch_size(self, images: int) -> int:
        """Return the images per batch for about ``images`` crops per forward pass; 1 for dense views."""
        return 1 if self.looks.kind == "dense" else max(1, images // self.looks.count)

    def answers(self, passes: Sequence[Tensor], device: torch.device) -> Tensor:
        """Compute logits (or log probabilities), float64 [B, K] on the CPU, from the images of each pass."""
        preprocessings = self._preprocessings()
        each = len(passes) // len(preprocessings)
        said = []
        for member in self.members:
            first = each * preprocessings.index(member.preprocessing)
            scales = [self._of_scale(member, images, device) for images in passes[first : first + each]]
            said.append(combined(torch.stack(scales, dim=1), self.looks.combine))
        return combined(torch.stack(said, dim=1), self.ensemble)

    def _preprocessings(self) -> list[Preprocessing]:
        return list(dict.fromkeys(member.preprocessing for member in self.members))

    def _of_scale(self, member: Member, images: Tensor, device: torch.device) -> Tensor:
        """Compute the logits [B, K] of one network for one pass, averaged over its views."""
        p = member.preprocessing
        crops = images.flatten(0, 1) if images.dim() == 5 else images
        inputs = normalize(crops, p, device, channels_last=self.channels_last)
        views = [inputs, inputs.flip(-1)] if self.looks.flip else [inputs]
        answers = torch.cat([self._forward(member, view, len(images)) for view in views], dim=1)
        answers = answers if self.outputs is None else answers[..., torch.from_numpy(self.outputs)]
        return combined(answers, self.looks.combine)

    def _forward(self, member: Member, inputs: Tensor, count: int) -> Tensor:
        """Compute the logits float64 [B, n, K] of the n views of each of ``count`` images."""
        if self.looks.kind != "dense":
            logits = member.model(inputs)
        else:
            assert isinstance(member.model, Network)
            window = -(
                -member.preprocessing.image_size // member.model.architecture.stride
            )  # size of the feature map of one crop
            logits = member.model.score_map(inputs, window).flatten(1, 2)
        return logits.detach().cpu().to(torch.float64).reshape(count, -1, logits.shape[-1])


@contextmanager
def in_eval_mode(*models: nn.Module) -> Iterator[None]:
    """Set evaluation mode; restore the mode of every module afterwards, also of frozen ones."""
    with ExitStack() as stack:
        for model in models:
            stack.callback(_restore, [(module, module.training) for module in model.modules()])
            model.eval()
        yield


def _restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training
