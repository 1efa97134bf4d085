"""One network or several before the same pictures: what each says of all looks at them, and their common answer."""

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
    """A network, on its device, with the preprocessing of its own weights."""

    model: nn.Module
    preprocessing: Preprocessing


@dataclass(frozen=True, eq=False)
class Panel:
    """Networks with the same classes, judged as one.

    ``ensemble`` says how their answers become one, as ``Looks.combine`` does for the looks of each; ``outputs`` (int64)
    which of their outputs are answers, all when None: the others are left out before any softmax.
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
                raise RequestError("dense needs one of our networks, which can be run fully convolutionally")

    def transforms(self) -> list[Transform]:
        """One for each pass over the images; networks with the same preprocessing share theirs."""
        return [transform for p in self._preprocessings() for transform in self.looks.transforms(p)]

    def batch_size(self, images: int) -> int:
        """Pictures at a time, so that about ``images`` crops are in the network; whole pictures go one by one."""
        return 1 if self.looks.kind == "dense" else max(1, images // self.looks.count)

    def answers(self, passes: Sequence[Tensor], device: torch.device) -> Tensor:
        """float64 [B, K] on the CPU: logits, or logarithms of probabilities, from the tensors of each pass."""
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
        """One pass of one network: [B, K], its looks combined."""
        p = member.preprocessing
        crops = images.flatten(0, 1) if images.dim() == 5 else images
        inputs = normalize(crops, p, device, channels_last=self.channels_last)
        views = [inputs, inputs.flip(-1)] if self.looks.flip else [inputs]
        answers = torch.cat([self._forward(member, view, len(images)) for view in views], dim=1)
        answers = answers if self.outputs is None else answers[..., torch.from_numpy(self.outputs)]
        return combined(answers, self.looks.combine)

    def _forward(self, member: Member, inputs: Tensor, count: int) -> Tensor:
        """float64 [B, n, K]: an answer to each of the n looks at ``count`` pictures."""
        if self.looks.kind != "dense":
            logits = member.model(inputs)
        else:
            assert isinstance(member.model, Network)
            window = -(-member.preprocessing.image_size // member.model.architecture.stride)  # the map of one crop
            logits = member.model.score_map(inputs, window).flatten(1, 2)
        return logits.detach().cpu().to(torch.float64).reshape(count, -1, logits.shape[-1])


@contextmanager
def in_eval_mode(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module's own mode is put back afterwards, frozen ones included."""
    with ExitStack() as stack:
        for model in models:
            stack.callback(_restore, [(module, module.training) for module in model.modules()])
            model.eval()
        yield


def _restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training
