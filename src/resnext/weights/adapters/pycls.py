"""Adapter for pycls's checkpoints (.pyth), which have settings as YAML; its ImageNet networks expect BGR images."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, prefix_errors
from resnext.model.architecture import Architecture
from resnext.weights.adapters.naming import FoundNetwork, rename_state, reverse_input_channels
from resnext.weights.infer_architecture import infer_architecture
from resnext.weights.network_spec import NetworkSpec
from resnext.weights.presets import CIFAR10_PREPROCESSING, CLASS_NAMES, make_imagenet_preprocessing
from resnext.weights.unsupported import NOT_SUPPORTED

LAYER_PATTERN = re.compile(r"s(?P<stage>\d)\.b(?P<block>\d{1,4})\.(?P<layer>proj|bn|f\.[abc](?:_bn)?)\.(?P<rest>\w+)")
LAYER_NAMES = {"proj": "downsample.0", "bn": "downsample.1"} | {
    f"f.{letter}{norm}": f"{'bn' if norm else 'conv'}{number}"
    for number, letter in enumerate("abc", start=1)
    for norm in ("", "_bn")
}
OUTER_NAMES = {"stem.conv": "conv1", "stem.bn": "bn1", "head.fc": "fc"}
MAX_SETTINGS_CHARS = 1 << 16  # characters of the settings; pycls writes about 5,000


def adapt(found: FoundNetwork) -> NetworkSpec:
    """Adapt a checkpoint of pycls's ResNe(X)t. Raises RequestError for RegNet and its other networks."""
    settings = _parse_settings(found)
    _check_supported(settings, found)
    state, notes = rename_state(found, rename)
    eps = _get_number(settings, "BN.EPS", 1e-5, found.path)
    architecture = infer_architecture(state, found.path, bn_eps=eps)
    in_1x1 = _get_word(settings, "RESNET.STRIDE_1X1") == "true"
    if in_1x1 and _get_word(settings, "MODEL.TYPE", "resnet") == "resnet" and architecture.block == "bottleneck":
        architecture = architecture.change(stride_in_1x1=True)
    notes = (*found.notes, *notes)
    if not settings:
        notes += ("the file has no settings; pycls's defaults are assumed: stride in the 3x3, 256/224 pixels",)
    cifar = architecture.stem == "cifar" or _get_word(settings, "TRAIN.DATASET") == "cifar10"
    preprocessing = _make_preprocessing(settings, cifar, found.path) if architecture.in_channels == 3 else None
    if not cifar:
        state = reverse_input_channels(state)
        notes += (
            "pycls's ImageNet networks take BGR, converted to RGB in conv1; pycls resized images without antialiasing",
        )
    return NetworkSpec(
        architecture=architecture,
        state=state,
        format="pycls",
        preprocessing=preprocessing,
        classes=_get_classes(settings, architecture),
        notes=notes,
    )


def rename(name: str) -> str | None:
    """Convert a name of pycls to torchvision's."""
    match = LAYER_PATTERN.fullmatch(name)
    if match is not None:
        return f"layer{match['stage']}.{int(match['block']) - 1}.{LAYER_NAMES[match['layer']]}.{match['rest']}"
    layer, _, rest = name.rpartition(".")
    return f"{OUTER_NAMES[layer]}.{rest}" if layer in OUTER_NAMES else name


def _parse_settings(found: FoundNetwork) -> dict[str, Any]:
    """Parse the settings in a checkpoint, with all values as strings; empty if there are none."""
    text = found.root_dict.get("cfg")
    if not isinstance(text, str):
        return {}
    if len(text) > MAX_SETTINGS_CHARS:
        size = f"{len(text):,} characters; at most {MAX_SETTINGS_CHARS:,} are supported"
        raise RequestError(f"{found.path}: its settings have {size}")
    try:
        # BaseLoader has no merge keys and converts no dates or numbers, so a small text cannot expand
        settings = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RequestError(f"{found.path}: its settings are not YAML: {str(error).splitlines()[0][:120]}") from None
    if not isinstance(settings, dict):
        raise RequestError(f"{found.path}: its settings are a {type(settings).__name__}, expected a mapping")
    return settings


def _get_value(settings: Mapping[str, object], key: str) -> Any:
    group, name = key.split(".")
    inner = settings.get(group)
    return inner.get(name) if isinstance(inner, Mapping) else None


def _get_word(settings: Mapping[str, object], key: str, default: str = "") -> str:
    value = _get_value(settings, key)
    return value.lower() if isinstance(value, str) else default


def _get_number(settings: Mapping[str, object], key: str, default: float, origin: str) -> float:
    value = _get_value(settings, key)
    if value is None:
        return default
    word = value[:40] if isinstance(value, str) else f"a {type(value).__name__}"
    try:
        return float(word)
    except ValueError:
        raise RequestError(f"{origin}: its settings have {key} {word!r}, expected a number") from None


def _check_supported(settings: Mapping[str, object], found: FoundNetwork) -> None:
    """Refuse networks that have a ResNet's parameter names but compute another function."""
    kind = _get_word(settings, "MODEL.TYPE", "resnet")
    if kind not in ("resnet", "anynet"):
        raise RequestError(f"{found.path}: pycls's {kind[:40]!r} {NOT_SUPPORTED}; this package has ResNet and ResNeXt")
    if any(".f.se." in name for name in found.state):
        raise RequestError(f"{found.path}: squeeze-and-excitation {NOT_SUPPORTED}")
    activation = _get_word(settings, "MODEL.ACTIVATION_FUN", "relu")[:40]
    if activation != "relu":
        raise RequestError(
            f"{found.path}: its settings have MODEL.ACTIVATION_FUN {activation!r}, which {NOT_SUPPORTED}"
        )
    stem = found.state.get("stem.conv.weight")
    three = stem is not None and stem.dim() == 4 and stem.shape[2] == 3
    strides = _get_value(settings, "ANYNET.STRIDES") if kind == "anynet" else None
    halving = isinstance(strides, list) and strides != ["1", *["2"] * (len(strides) - 1)]
    stem_type = _get_word(settings, "ANYNET.STEM_TYPE") if kind == "anynet" else ""
    if halving or stem_type == "simple_stem_in" or (three and not settings and "s4.b1.f.a.weight" in found.state):
        raise RequestError(
            f"{found.path} holds pycls's AnyNet or RegNet (a 3x3 stem of stride 2), which {NOT_SUPPORTED}"
        )


def _make_preprocessing(settings: Mapping[str, object], cifar: bool, origin: str) -> Preprocessing:
    if cifar:
        return CIFAR10_PREPROCESSING
    size = _get_number(settings, "TRAIN.IM_SIZE", 224.0, origin)
    resize = _get_number(settings, "TEST.IM_SIZE", 256.0, origin)
    size, resize = (int(side) if side.is_integer() else 0 for side in (size, resize))
    with prefix_errors(f"{origin}: its settings"):
        return make_imagenet_preprocessing(resize, "bilinear", size)


def _get_classes(settings: Mapping[str, object], architecture: Architecture) -> tuple[str, ...] | None:
    """Get the class names if the settings name a known data set."""
    dataset = _get_word(settings, "TRAIN.DATASET")
    known = "imagenet" if dataset.startswith("imagenet") else dataset
    if (known, architecture.num_classes) in (("imagenet", 1000), ("cifar10", 10)):
        return CLASS_NAMES[known]()
    return None
