"""torchvision's files: the names are ours, so what is to find out is which published file this is, if it is one.

A published file is recognised by its content: the name of its architecture, then its size, then its SHA-256, whose
first eight digits torchvision and Facebook write into the file's name.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from resnext.data.imagenet import imagenet_classes
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.model.architecture import EXPANSION, Architecture
from resnext.model.forms import convert_form
from resnext.model.network import Network
from resnext.weights.contents import Contents
from resnext.weights.infer import infer
from resnext.weights.known import TORCHVISION
from resnext.weights.naming import UNKNOWN_PREPROCESSING, Found, renamed

# what may stand around a backbone; any other name is a part of the network, and must be one of ours
HEADS = ("fpn", "rpn", "roi_heads", "classifier", "aux_classifier", "head", "neck", "decoder", "decode_head")
MEBIBYTE = 1 << 20
DETECTOR = "rpn.head.cls_logits.weight"

# Of the names on torchvision's hub: ResNeXt WSL (Mahajan et al. 2018), and semi-supervised and semi-weakly supervised
# ImageNet1K models (Yalniz et al. 2019). Both evaluate as torchvision's first weights do.
FACEBOOK: dict[str, tuple[str, ...]] = {
    "ig_resnext101_32x8d": ("c38310e5",),
    "ig_resnext101_32x16d": ("c6f796b0",),
    "ig_resnext101_32x32d": ("e4b90b00",),
    "ig_resnext101_32x48d": ("3e41cc8a",),
    "ssl_resnet18": ("d92f0530",),
    "ssl_resnet50": ("08389792",),
    "ssl_resnext50_32x4d": ("ddb3e555",),
    "ssl_resnext101_32x4d": ("dc43570a",),
    "ssl_resnext101_32x8d": ("2cfe2f8b",),
    "ssl_resnext101_32x16d": ("15fffa57",),
    "swsl_resnet18": ("118f1556",),
    "swsl_resnet50": ("16a12f1b",),
    "swsl_resnext50_32x4d": ("72679e44",),
    "swsl_resnext101_32x4d": ("3f87e46b",),
    "swsl_resnext101_32x8d": ("b4712904",),
    "swsl_resnext101_32x16d": ("f3559a9c",),
}


class Published(NamedTuple):
    """One public file."""

    name: str
    digest: str  # the first eight hexadecimal digits of its SHA-256
    mebibytes: float | None  # rounded to three digits; None where its publisher does not say
    preprocessing: Preprocessing


def adapt(found: Found) -> Contents:
    """A state dict of torchvision's names, also out of a detector or another network around it. Raises RequestError."""
    state, notes = renamed(found, rename)
    architecture = infer(state, found.path)
    published = recognise(found.raw.path, architecture, state)
    notes = (*found.notes, *notes, *assumptions(architecture))
    if DETECTOR in found.others or DETECTOR in found.state:
        notes += (
            "torchvision's COCO_V1 detectors have BN's eps at 0, here it is 1e-5: set bn_eps if it is one of them",
        )
    if published is None:
        return Contents(
            architecture=architecture, state=state, format="torchvision", notes=(*notes, UNKNOWN_PREPROCESSING)
        )
    return Contents(
        architecture=architecture,
        state=state,
        format="torchvision",
        preprocessing=published.preprocessing,
        classes=imagenet_classes(),
        notes=notes,
        provenance={"published": published.name},
    )


def rename(name: str) -> str | None:
    """A name of the network as it is; None for heads that stand around it."""
    return None if name.split(".", 1)[0] in HEADS else name


def assumptions(architecture: Architecture) -> tuple[str, ...]:
    """What the tensors do not say and is taken as usual."""
    if architecture.stem == "cifar":
        return ("the 3x3 stem is taken as of stride 1, without a pool (the CIFAR stem)",)
    return ()


def recognise(path: Path, architecture: Architecture, state: dict[str, Tensor]) -> Published | None:
    """The published file that ``path`` is. The file is read for its digest only where the size fits one of them."""
    if architecture.num_classes != 1000 or not path.is_file():
        return None
    size = path.stat().st_size
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    candidates = [
        published
        for published in _published(architecture)
        if (
            abs(size - tensors) < MEBIBYTE
            if published.mebibytes is None
            else abs(size / MEBIBYTE - published.mebibytes) < 0.001
        )
    ]
    if not candidates:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return next((published for published in candidates if digest.startswith(published.digest)), None)


def _published(architecture: Architecture) -> Iterator[Published]:
    """All public files of an architecture."""
    from torchvision.models import get_model_weights

    name = torchvision_name(architecture)
    if name is not None:
        for weights in get_model_weights(name):
            yield Published(
                f"torchvision {weights}",
                weights.url.rsplit("-", 1)[1].removesuffix(".pth"),
                weights.meta["_file_size"],
                _preprocessing(weights.transforms()),
            )
    for hub_name, digests in FACEBOOK.items():
        if hub_name.split("_", 1)[1] == architecture.name:
            for digest in digests:
                yield Published(f"facebook {hub_name}", digest, None, TORCHVISION)


def _preprocessing(transforms: Any) -> Preprocessing:
    """Of torchvision's ImageClassification preset, which resizes with antialiasing as we do."""
    return Preprocessing(
        image_size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        channels=3,
    )


def torchvision_name(architecture: Architecture) -> str | None:
    """What torchvision calls the network; None where it has no name for it."""
    from torchvision import models

    wide = {"resnet50_1x128d": "wide_resnet50_2", "resnet101_1x128d": "wide_resnet101_2"}
    name = wide.get(architecture.name, architecture.name)
    return name if name in models.list_models(module=models) else None


def to_torchvision(model: Network) -> dict[str, Tensor]:
    """The state dict that ``torchvision.models.ResNet(block, layers, groups=, width_per_group=)`` loads strictly.

    Raises RequestError naming the field of the architecture that torchvision's class cannot express.
    """
    check_expressible(model.architecture)
    return dict(convert_form(model, "grouped").state_dict())


def check_expressible(a: Architecture) -> None:
    """Raises RequestError naming the first field that torchvision's ResNet does not have."""
    assert a.stage_widths is not None
    count = len(a.stages)
    channels = tuple(64 * EXPANSION[a.block] * 2**stage for stage in range(count))
    widths = tuple(a.stage_widths[0] * 2**stage for stage in range(count))
    if a.block == "basic":
        widths = channels
    wanted: dict[str, Any] = {
        "stem": "imagenet",
        "pre_activation": False,
        "shortcut": "B",
        "stride_in_1x1": False,
        "bn_eps": 1e-5,
        "base_channels": 64,
        "in_channels": 3,
        "stage_channels": channels,
        "stage_widths": widths,
    }
    if count != 4:
        raise RequestError(f"torchvision's ResNet has four stages; {a.name} has {count} (blocks)")
    if a.num_classes == 0:
        raise RequestError("torchvision's ResNet always has a classifier; num_classes 0 has none to write")
    for name, value in wanted.items():
        given = getattr(a, name)
        if not (math.isclose(given, value) if name == "bn_eps" else given == value):
            raise RequestError(f"torchvision's ResNet has {name} {value!r}; {a.name} has {given!r}")
