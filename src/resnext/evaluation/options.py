"""The options of an evaluation. Does not import torch."""

from dataclasses import dataclass

from resnext.choices import CheckpointName, CombineMethod, Precision, Split
from resnext.sources import DataSource


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How to evaluate. The defaults are the standard evaluation: one centre crop of every held-out image.

    Attributes:
        view: Crops of each image: ``center``, ``center+flip``, ``ten-crop``, ``dense``, ``dense:256,384+flip``.
        combine: What is averaged over views and networks: ``logits`` or ``probabilities``. None averages logits over
            views and probabilities over networks.
        image_size: Side of the crop in pixels; None is that of the weights.
        resize: Shorter side before the crop in pixels; None is that of the weights, in proportion to ``image_size``.
        restrict: Predict only these classes: ``imagenet1k`` (of a larger ImageNet), ``data`` (those of the data), or a
            file with one name per line.
        source: Format of the data, one of the values of ``data.source`` in recipes; None is the run's own data, or a
            folder with one subfolder per class if a path is given.
        split: Held-out (``val``) or training images (``train``).
        checkpoint: Which checkpoint of a run: ``best`` or ``last``.
        batch_size: Images (crops, for views of several crops) per forward pass.
        precision: ``fp32``, ``bf16`` or ``fp16``; None is the run's, or fp32.
        workers: Loading processes; None is 0 for data in memory, otherwise one per core.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
    """

    view: str = "center"
    combine: CombineMethod | None = None
    image_size: int | None = None
    resize: int | None = None
    restrict: str | None = None
    source: DataSource | None = None
    split: Split = "val"
    checkpoint: CheckpointName = "best"
    batch_size: int = 256
    precision: Precision | None = None
    workers: int | None = None
    device: str = "auto"
