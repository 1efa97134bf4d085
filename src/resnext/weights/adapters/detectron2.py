"""Adapter for weights of detectron2 and Detectron, most of which expect BGR images and some of which have frozen BN.

What the files do not record is assumed from their source (detectron2's MODEL_ZOO.md, configs and checkpoint code):

    source                                 channels  mean                     std                    stride in
    __author__ "torchvision"               RGB       123.675 116.28 103.53    58.395 57.12 57.375    3x3
    one group: MSRA's ResNets              BGR       103.53 116.28 123.675    1 1 1                  1x1
    more groups: FAIR's ResNeXts (Caffe2)  BGR       103.53 116.28 123.675    57.375 57.12 58.395    3x3

``pixel_mean`` and ``pixel_std`` in a checkpoint override the table. Values are for pixels from 0 to 255. Detectron
folds the running statistics of BN into its weight and bias. Like detectron2, we then set mean 0 and variance 1 - eps,
which computes the same function. Like detectron2, we ignore biases of convolutions.
"""

import math
import re
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, prefix_errors
from resnext.model.architecture import EXPANSION, Architecture
from resnext.model.network import Network, convert_form
from resnext.weights.adapters.naming import FoundNetwork, check_common_fields, rename_state, reverse_input_channels
from resnext.weights.infer_architecture import infer_architecture
from resnext.weights.network_spec import NetworkSpec
from resnext.weights.unsupported import NOT_SUPPORTED

LAYER_PATTERN = re.compile(
    r"res(?P<stage>\d)\.(?P<block>\d{1,4})\.(?P<layer>conv\d|shortcut)\.(?P<rest>weight|bias|norm\.\w+)"
)
# by our names: the bias of a convolution; the weight of a norm, with the norm's name
CONV_BIAS_PATTERN = re.compile(r"(.*\.)?(conv[^.]*|downsample\.0)\.bias")
NORM_WEIGHT_PATTERN = re.compile(r"((?:.*\.)?(?:bn[^.]*|downsample\.1))\.weight")
STEM_PATTERN = re.compile(r"stem\.conv1\.(?P<rest>weight|bias|norm\.\w+)")
HEAD_PREFIXES = (
    *("fpn_", "fpn.", "top_block.", "proposal_generator.", "roi_heads.", "head."),
    *("sem_seg_head.", "anchor_generator."),
)
PIXEL_PARAMETERS = ("pixel_mean", "pixel_std")

BLOB_PATTERN = re.compile(
    r"(?:res_)?(?:res(?P<stage>\d)_(?P<block>\d{1,4})_branch(?P<branch>1|2a|2b|2c)|conv1)_(?P<kind>w|b|bn_\w+|gn_\w+)"
)
BRANCH_NAMES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
BLOB_KINDS = {
    "w": "weight",
    "b": "bias",
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "bn_gamma": "norm.weight",
    "bn_beta": "norm.bias",
    "bn_rm": "norm.running_mean",
    "bn_riv": "norm.running_var",  # a variance, in spite of its name
    "bn_running_mean": "norm.running_mean",
    "bn_running_var": "norm.running_var",
}
CLASSIFIER_NAMES = {f"{name}_{kind}": f"fc.{BLOB_KINDS[kind]}" for name in ("pred", "fc1000") for kind in ("w", "b")}
BN_EPS = 1e-5  # of detectron2's BN, and our default


class PixelFormat(NamedTuple):
    """The input format that a network expects (pixels from 0 to 255), the position of its stride, and the source."""

    bgr: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride_in_1x1: bool
    reason: str


RGB_MEAN_STD = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
BGR_MEAN, BGR_STD = (values[::-1] for values in RGB_MEAN_STD)
MSRA_PIXELS = PixelFormat(True, BGR_MEAN, (1.0, 1.0, 1.0), True, "one group means MSRA's ResNets")
FAIR_PIXELS = PixelFormat(True, BGR_MEAN, BGR_STD, False, "more than one group means FAIR's ResNeXts")


def adapt(found: FoundNetwork) -> NetworkSpec:
    """Adapt a checkpoint with detectron2's names, of a classifier or a detector."""
    return _make_spec(found, *rename_state(found, rename), "detectron2")


def adapt_caffe2(found: FoundNetwork) -> NetworkSpec:
    """Adapt a file of Detectron's Caffe2 blobs, of a classifier or a detector."""
    kept = {name: tensor for name, tensor in found.state.items() if not name.endswith("_momentum")}
    renamed = rename_state(replace(found, state=kept), lambda name: rename_blob(name, found.path))
    return _make_spec(found, *renamed, "detectron")


def rename(name: str) -> str | None:
    """Convert a name of detectron2 to torchvision's; None for a parameter outside the backbone."""
    if name.startswith((*HEAD_PREFIXES, *PIXEL_PARAMETERS)):
        return None
    if name.startswith(("linear.", "stem.fc.")):  # stem.fc is made by detectron2's script that converts torchvision
        return f"fc.{name.rsplit('.', 1)[1]}"
    stem, match = STEM_PATTERN.fullmatch(name), LAYER_PATTERN.fullmatch(name)
    if stem is not None:
        return _join_name("conv1", stem["rest"])
    if match is None or int(match["stage"]) < 2:
        return name
    block = f"layer{int(match['stage']) - 1}.{match['block']}"
    return f"{block}.{_join_name(match['layer'], match['rest'])}"


def rename_blob(name: str, origin: str) -> str | None:
    """Convert the name of a Caffe2 blob to torchvision's; None for a blob outside the backbone."""
    if name in CLASSIFIER_NAMES:
        return CLASSIFIER_NAMES[name]
    match = BLOB_PATTERN.fullmatch(name)
    if match is None:
        return name if name.startswith(("res", "conv1_")) else None
    if match["kind"].startswith("gn_"):
        raise RequestError(f"{origin}: {name} belongs to GroupNorm, which {NOT_SUPPORTED}")
    if match["kind"] not in BLOB_KINDS:
        return name
    rest = BLOB_KINDS[match["kind"]]
    if match["stage"] is None:
        return rename(f"stem.conv1.{rest}")
    return rename(f"res{match['stage']}.{match['block']}.{BRANCH_NAMES[match['branch']]}.{rest}")


def _join_name(layer: str, rest: str) -> str:
    if rest.startswith("norm."):
        norm = "downsample.1" if layer == "shortcut" else layer.replace("conv", "bn")
        return f"{norm}.{rest.removeprefix('norm.')}"
    return f"{'downsample.0' if layer == 'shortcut' else layer}.{rest}"


def _make_spec(found: FoundNetwork, state: dict[str, Tensor], notes: tuple[str, ...], format: str) -> NetworkSpec:
    state, about_biases = _drop_conv_biases(state)
    state, about_norms = _add_running_stats(state)
    architecture = infer_architecture(state, found.path)
    ours = found.root_dict.get("resnext")
    if found.root_dict.get("__author__") == "resnext" and isinstance(ours, dict):
        return _adapt_own_export(found, state, architecture, ours)
    pixels = _find_pixel_format(found, architecture)
    if pixels.stride_in_1x1 and architecture.block == "bottleneck":
        architecture = architecture.change(stride_in_1x1=True)
    preprocessing = None
    if architecture.in_channels == 3:
        step = -1 if pixels.bgr else 1
        mean, std = (tuple(value / 255 for value in values[::step]) for values in (pixels.mean, pixels.std))
        preprocessing = Preprocessing(
            image_size=224, resize=256, interpolation="bilinear", mean=mean, std=std, channels=3
        )
        state = reverse_input_channels(state) if pixels.bgr else state
    stride = "the first 1x1" if architecture.stride_in_1x1 else "the 3x3"
    order = "BGR, converted to RGB in conv1" if pixels.bgr else "RGB"
    about = f"{pixels.reason}: {order}, stride in {stride}; resize and crop (256/224 pixels) are assumed"
    notes = (*found.notes, *notes, *about_biases, *about_norms, about)
    if architecture.num_classes == 0:
        notes += ("the file has no classifier: the output is the pooled features",)
    return NetworkSpec(architecture=architecture, state=state, format=format, preprocessing=preprocessing, notes=notes)


def _drop_conv_biases(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Drop the biases of convolutions, which Caffe keeps (as zeros) before every BN."""
    biases = {name: tensor for name, tensor in state.items() if CONV_BIAS_PATTERN.fullmatch(name)}
    used = [name for name, bias in biases.items() if bool(bias.count_nonzero())]
    kept = {name: tensor for name, tensor in state.items() if name not in biases}
    if not used:
        return kept, ()
    return kept, (
        f"ignored, as detectron2 does: {len(used)} biases of convolutions that are not zero ({used[0]}, ...)",
    )


def _add_running_stats(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Add running statistics that have no effect, mean 0 and variance 1 - eps, to every BN that has none."""
    added: dict[str, Tensor] = {}
    for name, weight in state.items():
        norm = NORM_WEIGHT_PATTERN.fullmatch(name)
        if norm and f"{norm[1]}.running_mean" not in state and f"{norm[1]}.running_var" not in state:
            added[f"{norm[1]}.running_mean"] = torch.zeros(weight.shape)
            added[f"{norm[1]}.running_var"] = torch.full(weight.shape, 1 - BN_EPS)
    count = f"{len(added) // 2} BNs without running statistics"
    note = f"{count} were read as frozen affine layers, as in detectron2: mean 0, variance 1 - eps"
    return state | added, (note,) if added else ()


def _find_pixel_format(found: FoundNetwork, architecture: Architecture) -> PixelFormat:
    """Find the input format: from the file, or else from the table at the top of this module."""
    if found.root_dict.get("__author__") == "torchvision":
        return PixelFormat(False, *RGB_MEAN_STD, False, "__author__ torchvision")
    assumed = FAIR_PIXELS if architecture.cardinality > 1 else MSRA_PIXELS
    written = [found.other_tensors.get(name, found.state.get(name)) for name in PIXEL_PARAMETERS]
    mean, std = ([] if tensor is None or tensor.numel() != 3 else tensor.flatten().tolist() for tensor in written)
    if len(mean) != 3 or len(std) != 3 or not all(math.isfinite(x) for x in mean + std):
        return assumed
    if not all(0 < x <= 255 for x in std) or not all(0 <= x <= 255 for x in mean):
        raise RequestError(f"{found.path}: pixel_mean {mean} and pixel_std {std} are not on the scale of 0 to 255")
    caffe = architecture.cardinality == 1 and all(x == 1 for x in std)
    return PixelFormat(mean[0] < mean[2], tuple(mean), tuple(std), caffe, "pixel_mean and pixel_std in the file")


def _adapt_own_export(
    found: FoundNetwork, state: dict[str, Tensor], architecture: Architecture, about: dict[str, Any]
) -> NetworkSpec:
    """Adapt a file of ``to_detectron2``, which records what other detectron2 files do not."""
    if not _is_plain(about):
        raise RequestError(f"{found.path}: its entry 'resnext' was not written by this package")
    with prefix_errors(found.path):
        architecture = architecture.change(stride_in_1x1=about.get("stride_in_1x1", False))
        prepared = None if about.get("preprocessing") is None else Preprocessing.from_dict(about["preprocessing"])
    classes = about.get("classes")
    return NetworkSpec(
        architecture=architecture,
        state=state,
        format="detectron2",
        preprocessing=prepared,
        classes=tuple(map(str, classes)) if isinstance(classes, list) else None,
        notes=found.notes,
    )


def _is_plain(value: object, depth: int = 3) -> bool:
    """Return whether a value is not nested too deep: in a pickle, shared lists could expand to more than memory."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items())
    if isinstance(value, list):
        return depth > 0 and all(not isinstance(item, list | dict) and _is_plain(item, 0) for item in value)
    return value is None or isinstance(value, str | bool | int | float)


def to_detectron2(model: Network) -> dict[str, Any]:
    """Make the content of a .pkl for detectron2: float32 arrays under its names, and ``matching_heuristics``.

    The network takes RGB (``INPUT.FORMAT: "RGB"``), with PIXEL_MEAN and PIXEL_STD 255 times those of its preprocessing;
    MODEL.RESNETS.STRIDE_IN_1X1 is the architecture's. The key ``resnext``, which detectron2 ignores, records them for
    our reader.
    """
    _check_expressible(model.architecture)
    arrays = {
        _to_detectron2_name(name): tensor.detach().to("cpu", torch.float32, copy=True).numpy()
        for name, tensor in convert_form(model, "grouped").state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    about = {
        "stride_in_1x1": model.architecture.stride_in_1x1,
        "preprocessing": None if model.preprocessing is None else model.preprocessing.to_dict(),
        "classes": None if model.classes is None else list(model.classes),
    }
    return {"model": arrays, "__author__": "resnext", "matching_heuristics": True, "resnext": about}


def _to_detectron2_name(name: str) -> str:
    if name.startswith("fc."):
        return name.replace("fc.", "linear.", 1)
    path, _, rest = name.rpartition(".")
    outer, _, layer = path.rpartition(".")
    if outer.endswith(".downsample"):
        outer, layer = outer.removesuffix(".downsample"), "shortcut" if layer == "0" else "shortcut.norm"
    layer = f"{layer.replace('bn', 'conv')}.norm" if layer.startswith("bn") else layer
    stage = f"res{int(outer[5]) + 1}{outer[6:]}" if outer else "stem"
    return f"{stage}.{layer}.{rest}"


def _check_expressible(a: Architecture) -> None:
    check_common_fields("detectron2", a, {})
    if any(stage.in_channels == stage.out_channels for stage in a.stages[1:]):
        about = f"{a.name} has stage_channels {a.stage_channels}"
        raise RequestError(f"detectron2's ResNet projects only where channels change; {about}")
    if EXPANSION[a.block] == 1 and a.stage_widths != a.stage_channels:
        raise RequestError(f"detectron2's basic blocks have stage_widths as their channels, not {a.stage_widths}")
