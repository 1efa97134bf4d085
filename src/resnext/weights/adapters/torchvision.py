"""Adapter for torchvision's files, which have our parameter names; it also recognizes published files by SHA-256."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from resnext.data.imagenet_classes import imagenet_classes
from resnext.errors import RequestError
from resnext.files import compute_sha256
from resnext.model.architecture import EXPANSION, Architecture
from resnext.model.network import Network, convert_form
from resnext.weights.adapters.naming import UNKNOWN_PREPROCESSING, FoundNetwork, check_common_fields, rename_state
from resnext.weights.infer_architecture import infer_architecture
from resnext.weights.network_spec import NetworkSpec
from resnext.weights.presets import make_imagenet_preprocessing
from resnext.weights.released import MIB, ReleasedFile, load_released

# modules outside the backbone, which are ignored; any other name must be one of our parameters
HEAD_PREFIXES = ("fpn", "rpn", "roi_heads", "classifier", "aux_classifier", "head", "neck", "decoder", "decode_head")
CHECKSUM_DIGITS = 8  # digits of the SHA-256 in the names of published files
LINEAR_PATTERN = re.compile(
    r"((module|model|net|network)\.)*(fc(\.\d+)?|(head|cls_head)(\.fc)?|classifier(\.\d+)?|linear)\.(weight|bias)"
)
SHORTCUT_PATTERN = re.compile(r"layer(\d{1,3})\.0\.downsample\.0\.weight")
# the children of torchvision's ResNet by index; the others have no weights
SEQUENTIAL_NAMES = {"0": "conv1", "1": "bn1", **{str(stage + 3): f"layer{stage}" for stage in (1, 2, 3, 4)}, "9": "fc"}
DETECTOR_PARAMETER = "rpn.head.cls_logits.weight"


def adapt(found: FoundNetwork) -> NetworkSpec:
    """Adapt a state dict with torchvision's names, of a classifier or of a detector's backbone."""
    found = rename_classifier(found)
    state, notes = rename_state(found, rename)
    architecture = infer_architecture(state, found.path)
    published = find_released_file(found.raw.path, architecture, state)
    notes = (*found.notes, *notes)
    if architecture.stem == "cifar":
        notes += ("the 3x3 stem is assumed to have stride 1 and no pool (the CIFAR stem)",)
    if DETECTOR_PARAMETER in found.other_tensors or DETECTOR_PARAMETER in found.state:
        notes += ("torchvision runs its COCO_V1 detectors with BN's eps 0; here it is 1e-5",)
    about: dict[str, Any] = {}
    if published is None:
        notes += (UNKNOWN_PREPROCESSING,)
    else:
        view = published.figures[0]
        about["preprocessing"] = make_imagenet_preprocessing(view.resize, view.interpolation, view.image_size)
        about |= {"classes": imagenet_classes(), "provenance": {"published": published.name}}
    return NetworkSpec(architecture=architecture, state=state, format="torchvision", notes=notes, **about)


def adapt_sequential(found: FoundNetwork) -> NetworkSpec:
    """Adapt a state dict of ``nn.Sequential(*resnet.children())``, with or without head, as fastai saves it."""

    def rename_part(name: str) -> str:
        place, _, rest = name.partition(".")
        return f"{SEQUENTIAL_NAMES.get(place, place)}.{rest}"

    state, _ = rename_state(found, rename_part)  # ``adapt`` makes the same note
    return adapt(replace(found, state=state))


def rename_classifier(found: FoundNetwork) -> FoundNetwork:
    """Rename the classifier to ``fc`` if there is exactly one linear layer, such as ``fc.1`` or ``head.fc``."""
    shortcuts = {int(match[1]): match[0] for match in map(SHORTCUT_PATTERN.fullmatch, found.state) if match}
    named = {
        name: tensor for name, tensor in (found.other_tensors | found.state).items() if LINEAR_PATTERN.fullmatch(name)
    }
    weights = [name for name, tensor in named.items() if name.endswith(".weight") and tensor.dim() == 2]
    if "fc.weight" in found.state or len(weights) != 1 or len(named) != 2 or not shortcuts:
        return found
    if named[weights[0]].shape[1:] != found.state[shortcuts[max(shortcuts)]].shape[:1]:
        return found  # it does not take the network's features
    layer = weights[0].removesuffix(".weight")
    state, others = (
        {name: tensor for name, tensor in part.items() if name not in named}
        for part in (found.state, found.other_tensors)
    )
    state |= {f"fc.{name.rpartition('.')[2]}": tensor for name, tensor in named.items()}
    note = f"{layer} was used as the classifier, assuming only dropout before it and no layer after it"
    return replace(found, state=state, other_tensors=others, notes=(*found.notes, note))


def rename(name: str) -> str | None:
    """Return a name of the network unchanged, and None for a head."""
    return None if name.split(".", 1)[0] in HEAD_PREFIXES else name


def find_released_file(path: Path, architecture: Architecture, state: dict[str, Tensor]) -> ReleasedFile | None:
    """Find the published classifier in ``path``. The SHA-256 is computed only if the size fits one."""
    if architecture.num_classes != 1000 or not path.is_file():
        return None
    size = path.stat().st_size
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    candidates = {
        entry.sha256: entry
        for entry in load_released()
        if entry.sha256 is not None and entry.figures and entry.architecture == architecture.name
        if (abs(size - tensors) < MIB if entry.mib is None else entry.matches_size(size))
    }
    return candidates.get(compute_sha256(path)[:CHECKSUM_DIGITS]) if candidates else None


def to_torchvision(model: Network) -> dict[str, Tensor]:
    """Make a state dict that ``torchvision.models.ResNet(block, layers, groups=, width_per_group=)`` loads strictly."""
    check_expressible(model.architecture)
    return dict(convert_form(model, "grouped").state_dict())


def check_expressible(a: Architecture) -> None:
    """Raise RequestError for the first field of the architecture that torchvision's ResNet cannot express."""
    assert a.stage_widths is not None
    if len(a.stages) != 4:
        raise RequestError(f"torchvision's ResNet has four stages; {a.name} has {len(a.stages)}")
    if a.num_classes == 0:
        raise RequestError("torchvision's ResNet always has a classifier, but num_classes is 0")
    channels = tuple(64 * EXPANSION[a.block] * 2**stage for stage in range(4))
    widths = channels if a.block == "basic" else tuple(a.stage_widths[0] * 2**stage for stage in range(4))
    fields = {"stride_in_1x1": False, "base_channels": 64, "in_channels": 3}
    check_common_fields("torchvision", a, fields | {"stage_channels": channels, "stage_widths": widths})
