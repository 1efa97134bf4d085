"""Save and load detectors: our own format, run checkpoints, and torchvision's ``fasterrcnn_*_fpn`` state dicts."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor

from resnext.choices import CheckpointName
from resnext.detection.model.faster_rcnn import FasterRcnn, build_around
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import MAX_CHANNELS, STAGES, DetectorSettings, parse_category_ids
from resnext.errors import RequestError, prefix_errors
from resnext.files import atomic_write
from resnext.model.architecture import Architecture, Form
from resnext.model.network import Network
from resnext.recipe import build_settings, to_dict
from resnext.run_directory import RunDirectory, is_run, read_run_kind
from resnext.weights import build
from resnext.weights.adapters.registry import adapt
from resnext.weights.hub import fetch, is_remote
from resnext.weights.infer_architecture import infer_architecture
from resnext.weights.modify import change_form
from resnext.weights.native import BACKBONE_PREFIX, NETWORK_KEY
from resnext.weights.native import DETECTOR_FORMAT as KEY  # metadata key of our safetensors files
from resnext.weights.network_spec import RawCheckpoint
from resnext.weights.readers.detect_format import read_weights_file

VERSION = 1
TENSOR_NAMES = re.compile(r"(backbone\.(body|fpn)|rpn\.head|roi_heads\.box_(head|predictor))\.")
SCORES_WEIGHT, HEAD_WEIGHT = "roi_heads.box_predictor.cls_score.weight", "roi_heads.box_head.fc6.weight"
PYRAMID_WEIGHT = "backbone.fpn.layer_blocks.0.0.weight"
COCO_V1_NOTE = (
    "torchvision trained its COCO_V1 detectors with a BN eps of 0: to reproduce them exactly add bn_eps 1e-12"
)
NUMBERED_NOTE = "the file has no class names: classes are numbered from 1, like its outputs"
AS_COCO_NOTE = "the file has no class names: its 91 outputs are taken as COCO's categories in torchvision's numbering"
COCO_OUTPUTS = 91  # of torchvision's COCO detectors: background and COCO category ids up to 90


def serialize_detector(model: FasterRcnn, provenance: dict[str, Any] | None = None) -> bytes:
    """Serialize a detector to safetensors bytes, with its description in the metadata."""
    about = {"version": VERSION, **_describe_detector(model, provenance)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return serialize(tensors, metadata={KEY: json.dumps(about)})


def save_detector(model: FasterRcnn, path: Path | str) -> None:
    """Save ``model`` to a safetensors file at ``path``, atomically.

    Raises:
        WorkError: If the file cannot be written.
    """
    with atomic_write(Path(path)) as file:
        file.write(serialize_detector(model))


def load_detector(
    source: Path | str, checkpoint: CheckpointName = "best", *, bn_eps: float | None = None
) -> FasterRcnn:
    """Load a detector from our weights file, a detection run, or a torchvision state dict. Executes no code in it.

    Args:
        source: A path, ``hf://owner/name`` or ``https://...``.
        checkpoint: ``best`` or ``last``, where ``source`` is a run.
        bn_eps: Replaces the eps of BatchNorm, which torchvision's files do not state.

    Returns:
        The detector in eval mode on the CPU; ``.provenance["notes"]`` lists what was assumed.

    Raises:
        RequestError: If the source is missing or is not a detector.
    """
    raw = _read_source(source, checkpoint)
    return (from_native if KEY in raw.metadata else from_torchvision)(raw, bn_eps).eval()


def load_detector_or_network(source: Path | str, *, form: Form | None = None) -> FasterRcnn | Network:
    """Load a whole detector, or the network of any other weights file in ``form``; the file is read once."""
    raw = _read_source(source)
    if is_detector(raw):
        return (from_native if KEY in raw.metadata else from_torchvision)(raw).eval()
    spec = adapt(raw)
    with prefix_errors(source):
        spec = change_form(spec, form)
    return build.build_network(spec, str(source))


def copy_detector(model: FasterRcnn) -> FasterRcnn:
    """Copy ``model`` to eval mode, on its device. Raises RequestError for weights that are not finite."""
    twin = _build_without_weights(_describe_detector(model, {}), None)
    state = {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    build.check_values(state, "the detector")
    twin.load_state_dict(state, strict=True, assign=True)
    return twin.eval()


def is_detector(raw: RawCheckpoint) -> bool:
    """Return whether a weights file holds a whole detector rather than a backbone."""
    return KEY in raw.metadata or _find_torchvision_state(raw) is not None


def is_detector_source(source: Path | str) -> bool:
    """Return whether a run, a weights file or a file of a hub holds a detector.

    Raises RequestError for a file that is no weights file.
    """
    path = fetch(str(source)) if is_remote(str(source)) else Path(source)
    if path.is_dir():
        return read_run_kind(path) == "detection"
    return path.is_file() and is_detector(read_weights_file(path))


def _read_source(source: Path | str, checkpoint: CheckpointName = "best") -> RawCheckpoint:
    """Read a weights file, that of a run, or that of a hub. Raises RequestError."""
    path = fetch(str(source)) if is_remote(str(source)) else Path(source)
    if not path.exists():
        raise RequestError(f"{source} does not exist; expected a weights file or a run directory")
    return read_weights_file(RunDirectory(path).weights(checkpoint) if is_run(path) else path)


def from_native(raw: RawCheckpoint, bn_eps: float | None = None) -> FasterRcnn:
    """Build the detector of a file in our own format. Raises RequestError."""
    try:
        about = json.loads(raw.metadata[KEY])
        version = about["version"]
        if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= VERSION:
            raise RequestError(f"format version {version!r} is not supported (this program reads up to {VERSION})")
        model = _build_without_weights(about, bn_eps)
    except RequestError as error:
        raise RequestError(f"{raw.path}: {error}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RequestError(f"{raw.path}: its metadata does not describe a detector ({error!r:.80})") from None
    _load_weights(model, raw.tensors, str(raw.path))
    provenance = about.get("provenance")
    model.provenance = provenance if isinstance(provenance, dict) else {}
    return model


def from_torchvision(raw: RawCheckpoint, bn_eps: float | None = None) -> FasterRcnn:
    """Build the detector of a torchvision ``fasterrcnn_*_fpn`` state dict. Raises RequestError."""
    state = _find_torchvision_state(raw)
    if NETWORK_KEY in raw.metadata:
        raise RequestError(
            f"{raw.path} holds a classifier, not a detector; resnext predict and evaluate run it, and resnext detect "
            "train --init starts a detector from it"
        )
    if state is None:
        raise RequestError(
            f"{raw.path} is not a supported detector: expected a file of this program or a torchvision Faster R-CNN "
            "with FPN (for a backbone alone use --init)"
        )
    build.check_sharing(state.values(), str(raw.path))
    names = (SCORES_WEIGHT, HEAD_WEIGHT, PYRAMID_WEIGHT)
    outputs, head, channels = (_count_outputs(state, name, str(raw.path)) for name in names)
    if outputs < 2:
        raise RequestError(f"{raw.path}: {SCORES_WEIGHT} has no outputs except the background")
    length = len(BACKBONE_PREFIX)
    body = {name[length:]: value for name, value in state.items() if name.startswith(BACKBONE_PREFIX)}
    architecture = infer_architecture(body, str(raw.path)).change(num_classes=0)
    if bn_eps is not None:
        architecture = architecture.change(bn_eps=bn_eps)
    settings = DetectorSettings(fpn_channels=channels, head_channels=head)
    classes = list_coco_names() if outputs == COCO_OUTPUTS else tuple(map(make_class_name, range(1, outputs)))
    model = _build_on_meta(architecture, settings, classes, DetectPreprocessing(resize="torchvision"))
    _load_weights(model, state, str(raw.path))
    notes = [AS_COCO_NOTE if outputs == COCO_OUTPUTS else NUMBERED_NOTE]
    if bn_eps is None and not any(name.endswith("num_batches_tracked") for name in state):
        notes.append(COCO_V1_NOTE)
    model.has_numbered_classes = True
    if outputs == COCO_OUTPUTS:
        model.category_ids = tuple(range(1, outputs))
    model.provenance = {"format": "torchvision", "notes": notes}
    return model


def make_class_name(number: int) -> str:
    """Make a name for an output that has none."""
    return f"class {number}"


def list_coco_names() -> tuple[str, ...]:
    """List COCO's category names for ids 1 to 90 as in torchvision, with a numbered name for the ten unused ids."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(make_class_name(number) if name == "N/A" else name for number, name in enumerate(names) if number)


def _count_outputs(state: Mapping[str, Tensor], name: str, origin: str) -> int:
    """Return the number of outputs of the layer with this weight. Raises RequestError."""
    if name not in state:
        raise RequestError(f"{origin}: {name} is missing")
    shape = tuple(state[name].shape)
    if not shape or not 1 <= shape[0] <= MAX_CHANNELS:
        raise RequestError(f"{origin}: {name} has the invalid shape {shape}")
    return shape[0]


def _describe_detector(model: FasterRcnn, provenance: dict[str, Any] | None) -> dict[str, Any]:
    about: dict[str, Any] = {
        "architecture": model.architecture.to_dict(),
        "detector": to_dict(model.settings),
        "learn": model.stage,
        "preprocessing": model.preprocessing.to_dict(),
        "classes": list(model.classes),
        "category_ids": None if model.category_ids is None else list(model.category_ids),
        "provenance": model.provenance if provenance is None else provenance,
    }
    if model.stage == "fast_rcnn":
        about["proposer"] = _describe_detector(model.proposer, None)
    return about


def _build_without_weights(about: Mapping[str, Any], bn_eps: float | None, *, is_proposer: bool = False) -> FasterRcnn:
    """Build the detector that ``about`` describes, without weights. Raises RequestError, KeyError, TypeError."""
    architecture = Architecture(**about["architecture"])
    if bn_eps is not None:
        architecture = architecture.change(bn_eps=bn_eps)
    settings = build_settings(DetectorSettings, about["detector"], "detector.")
    classes, learn = about["classes"], about["learn"]
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise RequestError("its classes must be a list of names")
    if learn not in STAGES or (is_proposer and learn != "rpn"):
        raise RequestError(f"its stage {learn!r} is not one of {', '.join(STAGES)}")
    proposer = _build_without_weights(about["proposer"], bn_eps, is_proposer=True) if learn == "fast_rcnn" else None
    view = DetectPreprocessing.from_dict(about["preprocessing"])
    model = _build_on_meta(architecture, settings, tuple(classes), view, stage=learn, proposer=proposer)
    model.category_ids = parse_category_ids(about.get("category_ids"), classes)
    return model


def _build_on_meta(
    architecture: Architecture,
    settings: DetectorSettings,
    classes: tuple[str, ...],
    preprocessing: DetectPreprocessing,
    **options: Any,
) -> FasterRcnn:
    network = build.build_on_meta(architecture.change(num_classes=0), build.MAX_UNCHECKED_TENSORS, "the file")
    with torch.device("meta"):
        return build_around(network, settings, classes, preprocessing, **options)


def _load_weights(model: FasterRcnn, state: Mapping[str, Tensor], origin: str) -> None:
    expected = model.state_dict()
    given = build.add_missing_counters(state, expected)
    build.check_tensors(given, expected, origin)
    build.check_values(given, origin)
    copies = {}
    for name, value in given.items():
        dtype = torch.float32 if value.is_floating_point() else torch.int64
        copies[name] = value.to(dtype).clone().contiguous()
    model.load_state_dict(copies, strict=True, assign=True)


def _find_torchvision_state(raw: RawCheckpoint) -> dict[str, Tensor] | None:
    """Return the tensors of a torchvision detector in a file; None where there is none."""
    value = raw.value
    if isinstance(value, dict) and isinstance(value.get("model"), dict):
        value = value["model"]  # a checkpoint of torchvision's reference scripts
    if not isinstance(value, dict) or "rpn.head.cls_logits.weight" not in value or HEAD_WEIGHT not in value:
        return None
    for name, tensor in value.items():
        if not (isinstance(name, str) and TENSOR_NAMES.match(name) and isinstance(tensor, Tensor)):
            return None
    return {_rename_old_key(name): tensor for name, tensor in value.items()}


def _rename_old_key(name: str) -> str:
    """Convert a tensor name of torchvision before 0.15, which lacks a level in two places."""
    name = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    return re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
