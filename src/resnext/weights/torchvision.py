"""torchvision's files: the names are ours, so what is to find out is which published file this is, if it is one.

A published file is recognised by its content: the name of its architecture, then its size, then its SHA-256, whose
first eight digits torchvision, Facebook and timm write into the file's name (``released.py``).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from resnext.data.download import file_sha256
from resnext.data.imagenet import imagenet_classes
from resnext.errors import RequestError
from resnext.model.architecture import EXPANSION, Architecture
from resnext.model.forms import convert_form
from resnext.model.network import Network
from resnext.weights.contents import Contents
from resnext.weights.infer import infer
from resnext.weights.known import imagenet
from resnext.weights.naming import UNKNOWN_PREPROCESSING, Found, check_same, renamed
from resnext.weights.released import MIB, Released, released

# what may stand around a backbone; any other name is a part of the network, and must be one of ours
HEADS = ("fpn", "rpn", "roi_heads", "classifier", "aux_classifier", "head", "neck", "decoder", "decode_head")
DIGITS = 8  # of a SHA-256, in the names of published files
LINEAR = re.compile(
    r"((module|model|net|network)\.)*(fc(\.\d+)?|(head|cls_head)(\.fc)?|classifier(\.\d+)?|linear)\.(weight|bias)"
)
LAST_SHORTCUT = re.compile(r"layer(\d{1,3})\.0\.downsample\.0\.weight")
# the children of torchvision's ResNet by their place; those between have no weights
SEQUENTIAL = {"0": "conv1", "1": "bn1", **{str(stage + 3): f"layer{stage}" for stage in (1, 2, 3, 4)}, "9": "fc"}
DETECTOR = "rpn.head.cls_logits.weight"


def adapt(found: Found) -> Contents:
    """A state dict of torchvision's names, also out of a detector or another network around it. Raises RequestError."""
    found = with_classifier(found)
    state, notes = renamed(found, rename)
    architecture = infer(state, found.path)
    published = recognise(found.raw.path, architecture, state)
    notes = (*found.notes, *notes, *assumptions(architecture))
    if DETECTOR in found.others or DETECTOR in found.state:
        notes += ("torchvision runs its own COCO_V1 detectors with BN's eps at 0; here it is 1e-5",)
    about: dict[str, Any] = {}
    if published is None:
        notes += (UNKNOWN_PREPROCESSING,)
    else:
        view = published.figures[0]
        about["preprocessing"] = imagenet(view.resize, view.interpolation, view.image_size)
        about |= {"classes": imagenet_classes(), "provenance": {"published": published.name}}
    return Contents(architecture=architecture, state=state, format="torchvision", notes=notes, **about)


def adapt_sequential(found: Found) -> Contents:
    """A state dict of ``nn.Sequential(*resnet.children())``, whole or without its head, as fastai has it."""

    def named(name: str) -> str:
        place, _, rest = name.partition(".")
        return f"{SEQUENTIAL.get(place, place)}.{rest}"

    state, _ = renamed(found, named)  # its note comes again in ``adapt``
    return adapt(replace(found, state=state))


def with_classifier(found: Found) -> Found:
    """``found`` with its one linear layer as ``fc``, where that has another name than in torchvision's ResNet.

    In an ``nn.Sequential`` (``fc.1``, behind a dropout), or beside the backbone (mmpretrain's ``head.fc``).
    """
    shortcuts = {int(match[1]): match[0] for match in map(LAST_SHORTCUT.fullmatch, found.state) if match}
    named = {name: tensor for name, tensor in (found.others | found.state).items() if LINEAR.fullmatch(name)}
    weights = [name for name, tensor in named.items() if name.endswith(".weight") and tensor.dim() == 2]
    if "fc.weight" in found.state or len(weights) != 1 or len(named) != 2 or not shortcuts:
        return found
    if named[weights[0]].shape[1:] != found.state[shortcuts[max(shortcuts)]].shape[:1]:
        return found  # of something behind the network
    layer = weights[0].removesuffix(".weight")
    state, others = (
        {name: tensor for name, tensor in part.items() if name not in named} for part in (found.state, found.others)
    )
    state |= {f"fc.{name.rpartition('.')[2]}": tensor for name, tensor in named.items()}
    note = f"{layer} was taken as the classifier, as if nothing but dropout stood before it and nothing behind it"
    return replace(found, state=state, others=others, notes=(*found.notes, note))


def rename(name: str) -> str | None:
    """A name of the network as it is; None for heads that stand around it."""
    return None if name.split(".", 1)[0] in HEADS else name


def assumptions(architecture: Architecture) -> tuple[str, ...]:
    """What the tensors do not say and is taken as usual."""
    if architecture.stem == "cifar":
        return ("the 3x3 stem is taken as of stride 1, without a pool (the CIFAR stem)",)
    return ()


def recognise(path: Path, architecture: Architecture, state: dict[str, Tensor]) -> Released | None:
    """The published classifier that ``path`` is; only where its size fits one of them is it read for its digest."""
    if architecture.num_classes != 1000 or not path.is_file():
        return None
    size = path.stat().st_size
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    candidates = {
        entry.sha256: entry
        for entry in released()
        if entry.sha256 is not None and entry.figures and entry.architecture == architecture.name
        if (abs(size - tensors) < MIB if entry.mib is None else entry.has_size(size))
    }
    return candidates.get(file_sha256(path)[:DIGITS]) if candidates else None


def to_torchvision(model: Network) -> dict[str, Tensor]:
    """The state dict that ``torchvision.models.ResNet(block, layers, groups=, width_per_group=)`` loads strictly.

    Raises RequestError naming the field of the architecture that torchvision's class cannot express.
    """
    check_expressible(model.architecture)
    return dict(convert_form(model, "grouped").state_dict())


def check_expressible(a: Architecture) -> None:
    """Raises RequestError naming the first field that torchvision's ResNet does not have."""
    assert a.stage_widths is not None
    if len(a.stages) != 4:
        raise RequestError(f"torchvision's ResNet has four stages; {a.name} has {len(a.stages)}")
    if a.num_classes == 0:
        raise RequestError("torchvision's ResNet always has a classifier; num_classes 0 has none to write")
    channels = tuple(64 * EXPANSION[a.block] * 2**stage for stage in range(4))
    widths = channels if a.block == "basic" else tuple(a.stage_widths[0] * 2**stage for stage in range(4))
    fields = {"stride_in_1x1": False, "base_channels": 64, "in_channels": 3}
    check_same("torchvision", a, fields | {"stage_channels": channels, "stage_widths": widths})
