"""Load and save networks in every supported weights format.

path or hub name -> hub.fetch -> detect_format.read_weights_file -> registry.adapt -> modify -> build_network
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.choices import CheckpointName
from resnext.errors import RequestError, prefix_errors
from resnext.model.architecture import Form
from resnext.run_directory import RunDirectory, is_run

if TYPE_CHECKING:
    from resnext.model.network import Network
    from resnext.weights.network_spec import NetworkSpec


def load(
    source: Path | str,
    checkpoint: CheckpointName = "best",
    *,
    form: Form | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    in_channels: int | None = None,
    stride_in_1x1: bool | None = None,
    output_stride: int | None = None,
    seed: int = 0,
    detector_backbone: bool = False,
) -> "Network":
    """Load a network from a weights file, a run directory or a hub.

    The file format is detected from the content, not the name: resnext, torchvision, timm, transformers, detectron2,
    Detectron, pycls or Torch7. Nothing in the file is executed.

    Args:
        source: a path, ``hf://owner/name[@revision]``, ``https://...``, or the name of public weights, such as
            resnext50_32x4d or resnext50_32x4d.a1_in1k.
        checkpoint: which weights of a run directory: "best" or "last".
        form: convert the network to this form of Figure 3.
        num_classes: replace the classifier; see ``modify.py``.
        classes: class names of the new classifier. Rows of classes that both networks know by name are kept.
        in_channels: change the input channels of conv1.
        stride_in_1x1: put the stride of the bottlenecks in the first 1x1 (True) or in the 3x3 (False). Needed only
            for files that do not record it.
        output_stride: total stride, such as 8 or 16 for segmentation: later strides become dilations.
        seed: seed of the new classifier rows.
        detector_backbone: accept a resnext detector and return its backbone. Without it, a detector is an error.

    Returns:
        The network in eval mode on the CPU. ``.preprocessing`` and ``.classes`` are set where they are known.
        ``.provenance["notes"]`` has one sentence for everything that was assumed, folded or left out.

    Raises:
        RequestError: the source cannot be read as a network.
        WorkError: the download failed.
    """
    from resnext.weights.build import build_network
    from resnext.weights.modify import modify
    from resnext.weights.native import DETECTOR_FORMAT

    found = load_spec(source, checkpoint)
    if found.format == DETECTOR_FORMAT and not detector_backbone:
        raise RequestError(
            f"{source} is a detector: load it with resnext.load_detector, or use resnext detect; "
            "for its backbone alone, use resnext convert or load(..., detector_backbone=True)"
        )
    with prefix_errors(source):
        found = modify(
            found,
            form=form,
            num_classes=num_classes,
            classes=classes,
            in_channels=in_channels,
            stride_in_1x1=stride_in_1x1,
            output_stride=output_stride,
            seed=seed,
        )
    return build_network(found, str(source))


def load_spec(source: Path | str, checkpoint: CheckpointName = "best") -> "NetworkSpec":
    """Read what ``load`` builds the network from: architecture, tensors, preprocessing, classes and notes."""
    from resnext.weights.adapters.registry import adapt
    from resnext.weights.readers.detect_format import read_weights_file

    return adapt(read_weights_file(find_weights_file(source, checkpoint)))


def find_weights_file(source: Path | str, checkpoint: CheckpointName = "best") -> Path:
    """Find the file (or a library's folder) of a weights file or run directory.

    A hub id, an address, or the name of public weights (``resnext models --pretrained``) is downloaded.
    """
    from resnext.weights.hub import fetch, is_remote
    from resnext.weights.released import find_address

    address = find_address(str(source))
    path = fetch(address) if is_remote(address) else Path(source)
    if not os.path.exists(path):  # also False for invalid names
        raise RequestError(f"there is no weights file or run directory {path}")
    return RunDirectory(path).weights(checkpoint) if is_run(path) else path
