"""Weights on disk: one reader a format, one adapter a naming, and ``load`` for all of them.

path or id -> hub.fetch -> container.read -> adapters.adapt -> surgery -> build
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.errors import RequestError
from resnext.run_directory import RunDirectory, is_run

if TYPE_CHECKING:
    from resnext.model.network import Network
    from resnext.weights.contents import Contents


def load(
    source: Path | str,
    checkpoint: str = "best",
    *,
    form: str | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    in_channels: int | None = None,
    stride_in_1x1: bool | None = None,
    seed: int = 0,
    below_detector: bool = False,
) -> "Network":
    """The network in a weights file, a run directory or on a hub, in eval mode on the CPU.

    ``source`` is a path, ``hf://owner/name[@revision]`` or ``https://...``; its format (ours, torchvision, timm,
    detectron2, Detectron, pycls, Torch7) is recognised by content, and nothing in it is executed. Of a run directory,
    ``checkpoint`` says which: "best" or "last". The network has ``.preprocessing`` and ``.classes`` where they are
    known, and ``.provenance["notes"]``, a sentence for everything that was assumed, folded or left out.

    ``form`` moves the weights to another form of Figure 3; ``num_classes`` or ``classes`` and ``in_channels`` change
    head and stem (``surgery.py``; new rows are drawn from ``seed``); ``stride_in_1x1`` overrules what a file of
    detectron2 cannot say. A detector of ours is refused unless ``below_detector`` asks for the network below it.
    Raises RequestError for what cannot be read, WorkError for a transfer that fails.
    """
    from resnext.weights.build import build
    from resnext.weights.native import DETECTOR
    from resnext.weights.surgery import change

    found = contents_of(source, checkpoint)
    if found.format == DETECTOR and not below_detector:
        raise RequestError(
            f"{source} is a detector: resnext.detect.files.load_detector reads it, and resnext detect evaluates it and "
            "predicts with it; the network below it is had by resnext convert, or by load(..., below_detector=True)"
        )
    try:
        found = change(
            found,
            form=form,
            num_classes=num_classes,
            classes=classes,
            in_channels=in_channels,
            stride_in_1x1=stride_in_1x1,
            seed=seed,
        )
    except RequestError as error:
        raise RequestError(f"{source}: {error}") from None
    return build(found, str(source))


def contents_of(source: Path | str, checkpoint: str = "best") -> "Contents":
    """What ``load`` would build the network from: its architecture, tensors, preprocessing, classes and notes."""
    from resnext.weights.adapters import adapt
    from resnext.weights.container import read
    from resnext.weights.hub import fetch, is_remote

    path = fetch(str(source)) if is_remote(str(source)) else Path(source)
    if not os.path.exists(path):  # False for names that no file can have, too
        raise RequestError(f"there is no weights file or run directory {path}")
    return adapt(read(RunDirectory(path).weights(checkpoint) if is_run(path) else path))
