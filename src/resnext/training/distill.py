"""The teacher of a run with distillation: a trained network that sees the same augmented images."""

import torch
from torch import Tensor

from resnext.data.classes import check_same_classes
from resnext.errors import RequestError
from resnext.files import compute_sha256
from resnext.model.network import Network
from resnext.settings import DistillSettings
from resnext.weights import find_weights_file, load


class Teacher:
    """A network in evaluation mode, without gradients, on inputs that were normalised for another network.

    Raises RequestError, which begins with ``origin``, if the two networks differ in classes or input channels.
    """

    def __init__(self, network: Network, student: Network, settings: DistillSettings, origin: str) -> None:
        theirs, mine = network.architecture, student.architecture
        if theirs.num_classes != mine.num_classes or theirs.in_channels != mine.in_channels:
            raise RequestError(
                f"{origin} cannot teach: it has {theirs.num_classes} classes and {theirs.in_channels} input channels, "
                f"but the network has {mine.num_classes} and {mine.in_channels}"
            )
        if network.classes is not None and student.classes is not None:
            check_same_classes(student.classes, network.classes, f"the teacher {origin}")
        self.network = network.eval().requires_grad_(False)
        self.alpha, self.temperature = settings.alpha, settings.temperature
        self._scale_and_shift = _compare_normalisation(network, student)

    @torch.no_grad()
    def compute_logits(self, images: Tensor) -> Tensor:
        """Compute logits [B, K] of images [B, C, S, S] that are normalised for the student."""
        if self._scale_and_shift is not None:
            scale, shift = (value.to(images) for value in self._scale_and_shift)
            images = images * scale + shift
        logits: Tensor = self.network(images)
        return logits


def load_teacher(settings: DistillSettings, student: Network, device: torch.device, *, channels_last: bool) -> Teacher:
    """Load ``distill.weights`` to ``device``, and record its SHA-256 in the provenance of ``student``.

    Raises RequestError if it does not fit the student, or is not the file that the run was started with.
    """
    assert settings.weights is not None
    file = find_weights_file(settings.weights)
    network = load(settings.weights)
    sha256 = compute_sha256(file) if file.is_file() else None
    record = {"weights": file.name, "sha256": sha256, "architecture": network.architecture.name}
    begun = student.provenance.setdefault("distill", record)
    if begun["sha256"] != sha256:
        raise RequestError(
            f"distill.weights {settings.weights} is not the teacher that the run was started with, "
            f"{begun['architecture']} in {begun['weights']}: its SHA-256 differs"
        )
    teacher = Teacher(network, student, settings, settings.weights)
    teacher.network.to(device)
    if channels_last:
        teacher.network.to(memory_format=torch.channels_last)
    return teacher


def _compare_normalisation(network: Network, student: Network) -> tuple[Tensor, Tensor] | None:
    """Return the factor and the offset [1, C, 1, 1] from the student's inputs to the teacher's; None if equal."""
    theirs, mine = network.preprocessing, student.preprocessing
    if theirs is None or mine is None or (theirs.mean, theirs.std) == (mine.mean, mine.std):
        return None
    mean, std, my_mean, my_std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
        for values in (theirs.mean, theirs.std, mine.mean, mine.std)
    )
    return my_std / std, (my_mean - mean) / std
