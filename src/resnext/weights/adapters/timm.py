"""Adapter for timm's folders (also on the Hugging Face hub), which have our parameter names and a config.json.

The preprocessing is what timm's ``resolve_data_config`` and ``create_transform`` make from config.json by default:
``input_size``, not ``test_input_size``; the shorter side is resized to floor(size / crop_pct).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from torch import Tensor

from resnext.data.imagenet_classes import imagenet_classes
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, prefix_errors
from resnext.model.architecture import EXPANSION, Architecture
from resnext.model.network import Network, convert_form
from resnext.settings import INTERPOLATIONS, CropMode
from resnext.weights.adapters.naming import UNKNOWN_PREPROCESSING, FoundNetwork, check_common_fields, rename_state
from resnext.weights.adapters.torchvision import rename
from resnext.weights.infer_architecture import infer_architecture
from resnext.weights.network_spec import NetworkSpec
from resnext.weights.presets import IMAGENET_MEAN, IMAGENET_STD
from resnext.weights.unsupported import NOT_SUPPORTED

# timm's plain networks; variants have longer names (resnet50d, resnetaa50)
PLAIN_PATTERN = re.compile(r"(tv_|ig_|ssl_|swsl_)?(resnet\d+|resnext\d+_\d+x\d+d|wide_resnet\d+_2)|gluon_resnet\d+_v1b")
# arguments that the tensors show, or that do not change the outputs
IGNORED_ARGUMENTS = {"layers", "cardinality", "base_width", "channels", "block", "num_classes", "in_chans"}
IGNORED_ARGUMENTS |= {"stem_width", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"}
DEFAULT_ARGUMENTS = {"output_stride": 32, "global_pool": "avg", "down_kernel_size": 1, "block_reduce_first": 1}
DEFAULT_CROP_PCT = 0.875
TIMM_CROP_MODES: dict[CropMode, str] = {"crop": "center", "squash": "squash", "pad": "border"}
NATIVE_KEY = "resnext"  # key of config.json that timm ignores: our preprocessing, which may be unknown or without exif


def adapt(found: FoundNetwork) -> NetworkSpec:
    """Adapt a state dict with timm's config.json. Raises RequestError if the network is an unsupported variant."""
    config = found.raw.config or {}
    settings = _merge_settings(config, found.path)
    name = config["architecture"]
    _check_plain(name, config, found.path)
    state, notes = rename_state(found, rename)
    architecture = infer_architecture(state, found.path)
    preprocessing, about_preprocessing = _read_preprocessing(settings, architecture, found.path)
    classes, about_classes = _read_classes(settings, architecture.num_classes)
    return NetworkSpec(
        architecture=architecture,
        state=state,
        format="timm",
        preprocessing=preprocessing,
        classes=classes,
        notes=(*found.notes, *notes, *about_preprocessing, *about_classes),
        provenance={key: settings[key] for key in ("tag", "license") if isinstance(settings.get(key), str)}
        | {"architecture": name[:100]},
    )


def _merge_settings(config: Mapping[str, object], origin: str) -> dict[str, Any]:
    """Get the settings from pretrained_cfg or (before 2023) config.json itself; top-level keys take precedence."""
    inner = config.get("pretrained_cfg", config)
    if not isinstance(inner, Mapping):
        raise RequestError(f"{origin}: pretrained_cfg in its config.json is not an object")
    settings = dict(inner)
    if "labels" in settings:
        settings.setdefault("label_names", settings["labels"])
    for name in ("label_names", NATIVE_KEY):
        if name in config:
            settings[name] = config[name]
    return settings


def _check_plain(name: str, config: Mapping[str, object], origin: str) -> None:
    if not PLAIN_PATTERN.fullmatch(name):
        raise RequestError(
            f"{origin}: timm's {name[:60]!r} {NOT_SUPPORTED}: it is not a plain ResNet or ResNeXt (it may have "
            "squeeze-and-excitation, or another stem, pooling or norm)"
        )
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, Mapping):
        raise RequestError(f"{origin}: model_args in its config.json is not an object")
    pooled = {"global_pool": config["global_pool"]} if config.get("global_pool") else {}
    for key, value in {**pooled, **arguments}.items():
        if key not in IGNORED_ARGUMENTS and value not in (None, False, "") and value != DEFAULT_ARGUMENTS.get(key):
            raise RequestError(
                f"{origin}: its config.json builds timm's {name} with {str(key)[:40]}={str(value)[:40]}, which "
                f"{NOT_SUPPORTED}"
            )


def _read_preprocessing(
    settings: Mapping[str, object], architecture: Architecture, origin: str
) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """Read timm's preprocessing, or ours in a folder that resnext wrote; None and a note if it has no equivalent."""
    own = settings.get(NATIVE_KEY)
    if isinstance(own, Mapping) and "preprocessing" in own:
        if (given := own["preprocessing"]) is None:
            return None, (UNKNOWN_PREPROCESSING,)
        with prefix_errors(f"{origin}: its config.json"):
            return Preprocessing.from_dict(given), ()
    channels = architecture.in_channels
    size = settings.get("input_size") or (channels, 224, 224)
    crop_pct = settings.get("crop_pct") or DEFAULT_CROP_PCT
    mode, interpolation = settings.get("crop_mode") or "center", settings.get("interpolation") or "bicubic"
    if not _is_size(size) or isinstance(crop_pct, bool) or not isinstance(crop_pct, int | float) or not crop_pct > 0:
        raise RequestError(f"{origin}: its config.json has input_size {size!r} and crop_pct {crop_pct!r}"[:300])
    side, resize = size[1], math.floor(size[1] / crop_pct) if crop_pct > 1e-4 else 0
    crop_mode = next((ours for ours, timms in TIMM_CROP_MODES.items() if timms == mode), None)
    why = ""
    if size[1] != size[2]:
        why = f"input_size {tuple(size)} is not square"
    elif crop_mode is None or (crop_mode != "crop" and resize != side):
        why = f"crop_mode {mode!r} with crop_pct {crop_pct}"
    elif interpolation not in INTERPOLATIONS:
        why = f"interpolation {interpolation!r}"
    elif size[0] != channels or channels not in (1, 3):
        why = f"{channels} input channels"
    if why or crop_mode is None:
        return None, (f"timm's preprocessing has no equivalent here ({str(why)[:120]}), so none is set",)
    mean, std = settings.get("mean") or IMAGENET_MEAN, settings.get("std") or IMAGENET_STD
    values = {"image_size": side, "resize": resize, "fit": crop_mode, "interpolation": interpolation}
    with prefix_errors(f"{origin}: its config.json"):
        preprocessing = Preprocessing.from_dict(values | {"mean": mean, "std": std, "channels": channels})
    unused = ", ".join(f"{key} {settings[key]}" for key in ("test_input_size", "test_crop_pct") if settings.get(key))
    notes = (f"timm also has settings for tests, which were not used: {unused[:120]}",) if unused else ()
    return preprocessing, notes


def _is_size(size: object) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(size, list | tuple)
        and len(size) == 3
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 8192 for n in size)
    )


def _read_classes(settings: Mapping[str, object], count: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Read ``label_names``, a list or a dict by index; use ImageNet's classes if the tag says in1k."""
    names = settings.get("label_names")
    if isinstance(names, Mapping):
        names = [names.get(str(index), names.get(index)) for index in range(len(names))]
    if isinstance(names, list | tuple) and names:
        if len(names) == count and all(isinstance(name, str) for name in names):
            return tuple(names), ()
        return None, (f"label_names of config.json do not match the {count} outputs, so no classes are set",)
    tag = settings.get("tag")
    if count == 1000 and isinstance(tag, str) and tag.endswith("in1k"):
        return imagenet_classes(), ()
    return None, ()


def to_timm(model: Network) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Make the tensors (for model.safetensors) and the content of config.json of a folder that timm can open.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` then computes the same function.
    """
    a = model.architecture
    check_expressible(a)
    assert a.stage_channels is not None
    arguments: dict[str, Any] = {"layers": list(a.blocks or ())}
    planes = [channels // EXPANSION[a.block] for channels in a.stage_channels]
    if planes != [64, 128, 256, 512]:
        arguments["channels"] = planes
    if a.block == "bottleneck":
        arguments |= {"cardinality": a.cardinality, "base_width": _compute_base_width(a)}
    if a.in_channels != 3:
        arguments["in_chans"] = a.in_channels
    config: dict[str, Any] = {
        "architecture": "resnet50" if a.block == "bottleneck" else "resnet18",
        "num_classes": a.num_classes,
        "num_features": a.stage_channels[-1],
        "global_pool": "avg",
        "model_args": arguments,
    }
    if model.classes is not None:
        config["label_names"] = list(model.classes)
    config["pretrained_cfg"] = _make_pretrained_cfg(model)
    config[NATIVE_KEY] = {"preprocessing": None if model.preprocessing is None else model.preprocessing.to_dict()}
    return dict(convert_form(model, "grouped").state_dict()), config


def _make_pretrained_cfg(model: Network) -> dict[str, Any]:
    """Make timm's pretrained_cfg, which has the preprocessing."""
    a, p = model.architecture, model.preprocessing
    settings: dict[str, Any] = {"num_classes": a.num_classes, "first_conv": "conv1", "classifier": "fc"}
    settings |= {"input_size": [a.in_channels, 224, 224], "fixed_input_size": False}
    if p is not None:
        settings["input_size"] = [p.channels, p.image_size, p.image_size]
        settings |= {"mean": list(p.mean), "std": list(p.std), "interpolation": p.interpolation}
        settings["crop_mode"] = TIMM_CROP_MODES[p.crop_mode]
        settings["crop_pct"] = compute_crop_pct(p.image_size, p.resize) if p.crop_mode == "crop" else 1.0
    return settings


def compute_crop_pct(image_size: int, resize: int) -> float:
    """Compute a crop_pct for which floor(image_size / crop_pct) is exactly ``resize``."""
    share = image_size / resize
    return share if math.floor(image_size / share) == resize else math.nextafter(share, 0)


def check_expressible(a: Architecture) -> None:
    """Raise RequestError for the first field of the architecture that timm's ResNet cannot express."""
    if len(a.stages) != 4:
        raise RequestError(f"timm's ResNet has four stages; {a.name} has {len(a.stages)}")
    check_common_fields("timm", a, {"stride_in_1x1": False, "base_channels": 64})
    assert a.stage_widths is not None
    assert a.stage_channels is not None
    expansion = EXPANSION[a.block]
    channels = a.stage_channels
    if any(count % expansion for count in channels):
        raise RequestError(f"timm's ResNet has stage_channels that are multiples of {expansion}, not {channels}")
    base = _compute_base_width(a) / 64
    widths = channels if a.block == "basic" else tuple(int(c // expansion * base) * a.cardinality for c in channels)
    if widths != a.stage_widths:
        raise RequestError(
            f"timm's ResNet would have stage_widths {widths} with stage_channels {channels}; "
            f"{a.name} has {a.stage_widths}"
        )


def _compute_base_width(a: Architecture) -> int | float:
    """Compute timm's base_width: the width of a path in a stage of 64 planes."""
    assert a.stage_channels is not None
    planes = a.stage_channels[0] // EXPANSION[a.block]
    base = (a.width or 0) * 64 / max(planes, 1)
    return int(base) if base.is_integer() else base
