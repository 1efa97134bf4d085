"""One network or an ensemble: average logits over the views of each image, then over the networks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from resnext.choices import CombineMethod
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.evaluation.classifier import Classifier
from resnext.evaluation.outputs import get_preprocessing, is_image_classifier, takes_whole_pictures
from resnext.evaluation.views import Transform, Views, average_logits, keep_whole
from resnext.model.network import Network


@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """A network, on its device, with its preprocessing."""

    model: Classifier
    preprocessing: Preprocessing


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks with the same classes, evaluated as one.

    ``combine`` says what is averaged over networks, as ``Views.combine`` does for views. ``output_indices`` (int64)
    selects outputs before any softmax; None for all.
    """

    members: Sequence[EnsembleMember]
    views: Views
    combine: CombineMethod = "probabilities"
    output_indices: np.ndarray | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.views.kind == "dense" and not all(isinstance(member.model, Network) for member in self.members):
            raise RequestError("the dense view needs one of our networks, which can be run fully convolutionally")
        for member in self.members:
            if takes_whole_pictures(member.model):
                _check_picture_view(member, self.views)

    def build_transforms(self) -> list[Transform]:
        """Build one transform for each pass over the images; networks with the same preprocessing share passes."""
        transforms: list[Transform] = []
        for preprocessing, is_whole in self._list_inputs():
            if is_whole:
                transforms.append(partial(keep_whole, preprocessing=preprocessing))
            else:
                transforms += self.views.build_transforms(preprocessing)
        return transforms

    def compute_batch_size(self, images: int) -> int:
        """Return the images per batch for about ``images`` crops per forward pass; 1 for images of any size."""
        if self.views.kind == "dense" or any(is_whole for _, is_whole in self._list_inputs()):
            return 1
        return max(1, images // self.views.crops_per_image)

    def compute_logits(self, passes: Sequence[Tensor], device: torch.device) -> Tensor:
        """Compute logits (or log probabilities), float64 [B, K] on the CPU, from the images of each pass."""
        inputs = self._list_inputs()
        each = len(passes) // len(inputs)
        said = []
        for member in self.members:
            first = each * inputs.index(_describe_input(member))
            scales = [self._compute_pass_logits(member, images, device) for images in passes[first : first + each]]
            said.append(average_logits(torch.stack(scales, dim=1), self.views.combine))
        return average_logits(torch.stack(said, dim=1), self.combine)

    def _list_inputs(self) -> list[tuple[Preprocessing, bool]]:
        """List the different inputs of the members."""
        return list(dict.fromkeys(map(_describe_input, self.members)))

    def _compute_pass_logits(self, member: EnsembleMember, images: Tensor, device: torch.device) -> Tensor:
        """Compute the logits [B, K] of one network for one pass, averaged over its views."""
        p = member.preprocessing
        crops = images.flatten(0, 1) if images.dim() == 5 else images
        normalises_itself = crops.dtype == torch.uint8 and is_image_classifier(member.model)
        inputs = crops if normalises_itself else normalize(crops, p, device, channels_last=self.channels_last)
        views = [inputs, inputs.flip(-1)] if self.views.flip else [inputs]
        answers = torch.cat([self._compute_view_logits(member, view, len(images)) for view in views], dim=1)
        answers = answers if self.output_indices is None else answers[..., torch.from_numpy(self.output_indices)]
        return average_logits(answers, self.views.combine)

    def _compute_view_logits(self, member: EnsembleMember, inputs: Tensor, count: int) -> Tensor:
        """Compute the logits float64 [B, n, K] of the n views of each of ``count`` images."""
        if self.views.kind != "dense":
            logits: Tensor = member.model(inputs)
        else:
            assert isinstance(member.model, Network)
            size, stride = member.preprocessing.image_size, member.model.architecture.stride
            window = -(-size // stride)  # size of the feature map of one crop
            logits = member.model.compute_score_map(inputs, window).flatten(1, 2)
        rows: Tensor = logits.detach().cpu().to(torch.float64)
        return rows.reshape(count, -1, logits.shape[-1])


def _describe_input(member: EnsembleMember) -> tuple[Preprocessing, bool]:
    """Return the preprocessing of a member, and whether the member applies it itself."""
    return member.preprocessing, takes_whole_pictures(member.model)


def _check_picture_view(member: EnsembleMember, views: Views) -> None:
    """Raise RequestError for a view or a size that is not the one inside of an exported file."""
    own = get_preprocessing(member.model)
    if not views.is_center_crop or member.preprocessing != own:
        raise RequestError(
            f"a file exported with --input picture resizes and crops pictures itself, to {own.image_size} pixels in "
            "the view center; for other views and sizes export with --input pixels or evaluate the weights"
        )


@contextmanager
def eval_mode(*models: object) -> Iterator[None]:
    """Set evaluation mode; restore the mode of every module afterwards, also of frozen ones."""
    networks = [model for model in models if isinstance(model, nn.Module)]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
