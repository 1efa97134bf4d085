"""The resnext weights file: a safetensors file whose metadata describes the network.

Any safetensors reader can open it. The metadata key ``resnext`` holds JSON: the format version, architecture,
preprocessing, classes and provenance.

A program reads files of its own format version and older. What does not affect the outputs becomes a new JSON key,
which older programs ignore; a new field of the architecture is written only if it is not at its default.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialize
from torch import Tensor

from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, prefix_errors
from resnext.files import atomic_write
from resnext.model.architecture import Architecture
from resnext.model.complexity import get_default_image_size
from resnext.model.network import Network
from resnext.weights.network_spec import NetworkSpec, RawCheckpoint

FORMAT_VERSION = 1
NETWORK_KEY = "resnext"  # metadata key of a network's file
DETECTOR_FORMAT = "resnext-detector"  # metadata key of a detector's file (detection/weights.py), and its format's name
# prefixes of a detector's backbone; in the c4 layout the last stage is in the box head
BACKBONE_PREFIX, BOX_HEAD_PREFIX = "backbone.body.", "roi_heads.box_head."
TRAINING_STATE_PREFIXES = ("weights/", "optimizer/", "groups/")  # of the tensors in a checkpoint's training state
FIELDS_ADDED_LATER = ("stride_in_1x1", "bn_eps")  # of Architecture, after the first files of version 1


def save(model: Network, path: Path | str, provenance: dict[str, Any] | None = None) -> None:
    """Save a network with its architecture, preprocessing and classes as one safetensors file.

    The file is written atomically.

    Args:
        model: the network.
        path: the file to write.
        provenance: free JSON (recipe, epoch, metrics) to store in the file; by default ``model.provenance``.

    Raises:
        WorkError: the file could not be written.
    """
    data = serialize_network(model, provenance)
    with atomic_write(Path(path)) as file:
        file.write(data)


def serialize_network(model: Network, provenance: dict[str, Any] | None = None) -> bytes:
    """Return the bytes of the weights file."""
    architecture = model.architecture.to_dict()
    for name in FIELDS_ADDED_LATER:
        if architecture[name] == Architecture.__dataclass_fields__[name].default:
            del architecture[name]
    about = {
        "version": FORMAT_VERSION,
        "architecture": architecture,
        "preprocessing": None if model.preprocessing is None else model.preprocessing.to_dict(),
        "classes": None if model.classes is None else list(model.classes),
        "provenance": model.provenance if provenance is None else provenance,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return serialize(
        tensors, metadata={NETWORK_KEY: json.dumps(about)}
    )  # one key, as safetensors does not keep an order


def adapt(raw: RawCheckpoint) -> NetworkSpec:
    """Read the spec from a file written by ``save``."""
    about = _parse_metadata(raw, NETWORK_KEY)
    with prefix_errors(raw.path):
        architecture = Architecture.from_dict(about["architecture"])
        preprocessing = Preprocessing.from_dict(about["preprocessing"]) if about.get("preprocessing") else None
    classes, provenance = about.get("classes"), about.get("provenance")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise RequestError(f"{raw.path}: its classes are not a list of names")
    return NetworkSpec(
        architecture=architecture,
        state=raw.tensors,
        format="resnext",
        preprocessing=preprocessing,
        classes=None if classes is None else tuple(classes),
        notes=_get_earlier_notes(provenance),
        provenance=provenance if isinstance(provenance, dict) else {},
    )


def is_detector(raw: RawCheckpoint) -> bool:
    """Return whether this is a weights file of a resnext detector."""
    return DETECTOR_FORMAT in raw.metadata


def adapt_detector(raw: RawCheckpoint) -> NetworkSpec:
    """Read the spec of a resnext detector's backbone."""
    about = _parse_metadata(raw, DETECTOR_FORMAT)
    try:
        with prefix_errors(raw.path):
            architecture = Architecture.from_dict(about["architecture"]).change(num_classes=0)
            state = _extract_backbone(raw.tensors, about)
            preprocessing = _convert_detector_preprocessing(about["preprocessing"], architecture)
    except (KeyError, TypeError) as error:
        raise RequestError(f"{raw.path}: its detector metadata is incomplete or invalid ({error!r:.80})") from None
    provenance = about.get("provenance")
    return NetworkSpec(
        architecture=architecture,
        state=state,
        format=DETECTOR_FORMAT,
        preprocessing=preprocessing,
        provenance=(provenance if isinstance(provenance, dict) else {}) | {"format": DETECTOR_FORMAT},
        notes=(
            *_get_earlier_notes(provenance),
            "only the backbone of the detector was read, with its mean, std and exif; resize and crop "
            f"({preprocessing.resize}/{preprocessing.image_size} pixels) are defaults, as a detector has none",
        ),
    )


def _extract_backbone(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Tensor]:
    """Get the backbone's tensors; in the c4 layout its last stage is in the box head."""
    split = about["detector"]["layout"] == "c4"
    if split and about["learn"] == "rpn":
        raise RequestError("it is a c4 detector from the rpn step of training, which has no last backbone stage")
    prefixes = (BACKBONE_PREFIX, BOX_HEAD_PREFIX) if split else (BACKBONE_PREFIX,)
    return {
        name.removeprefix(prefix): tensor
        for prefix in prefixes
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _convert_detector_preprocessing(view: Mapping[str, Any], architecture: Architecture) -> Preprocessing:
    """Combine a detector's mean, std and exif with the default resize and crop."""
    size = get_default_image_size(architecture)
    return Preprocessing(
        image_size=size,
        resize=256 if size == 224 else size,
        interpolation="bilinear",
        mean=view["mean"],
        std=view["std"],
        channels=architecture.in_channels,
        exif=view["exif"],
    )


def check_no_training_state(raw: RawCheckpoint) -> None:
    """Raise RequestError if this is the training state of a checkpoint, not its weights."""
    if raw.file_format == "safetensors" and any(name.startswith(TRAINING_STATE_PREFIXES) for name in raw.tensors):
        raise RequestError(
            f"{raw.path} is the training state of a run, not its weights; those are in model-*.safetensors beside it"
        )


def _get_earlier_notes(provenance: object) -> tuple[str, ...]:
    """Get the notes from the conversion that made this file."""
    notes = provenance.get("notes") if isinstance(provenance, dict) else None
    return tuple(note for note in notes if isinstance(note, str)) if isinstance(notes, list) else ()


def _parse_metadata(raw: RawCheckpoint, key: str) -> dict[str, Any]:
    try:
        about = json.loads(raw.metadata[key])
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{raw.path}: its {key} metadata is not JSON: {error}") from None
    if not isinstance(about, dict) or "architecture" not in about:
        raise RequestError(f"{raw.path}: its {key} metadata has no architecture")
    version = about.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise RequestError(
            f"{raw.path} has format version {version!r}; this program reads versions up to {FORMAT_VERSION}"
        )
    return about
