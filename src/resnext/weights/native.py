"""Our own weights file: one safetensors file whose metadata says what the tensors are.

Any safetensors reader opens it. The metadata key ``resnext`` holds JSON: the format's version, the architecture,
the preprocessing, the classes, and where the weights come from.

How the format may grow: a program reads files of its own version and older. What a network's function does not depend
on becomes a new key of the JSON, which older programs pass over. A new field of the architecture is written only where
it is not at its default, so older programs go on to read what they can compute, and name the field where they cannot.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialize
from torch import Tensor

from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, nearest
from resnext.files import written_whole
from resnext.model.architecture import Architecture
from resnext.model.complexity import default_image_size
from resnext.model.network import Network
from resnext.weights.contents import Contents, Raw

VERSION = 1
DETECTOR = "resnext-detector"  # the metadata key of a detector's file (detect/files.py), and the format it is named
BODY, HEAD = (
    "backbone.body.",
    "roi_heads.box_head.",
)  # where a detector keeps its network; of c4 the last stage is apart
TRAINING = ("weights/", "optimizer/", "groups/")  # what names begin with in the part of a checkpoint that goes on
ADDED = ("stride_in_1x1", "bn_eps")  # fields of Architecture that version 1 began without


def save(model: Network, path: Path | str, provenance: dict[str, Any] | None = None) -> None:
    """Write ``model`` with its architecture, preprocessing and classes to ``path``, whole or not at all.

    ``provenance`` is free JSON (recipe, epoch, metrics) kept in the file; the model's own where not given. Raises
    WorkError when the disk refuses.
    """
    data = serialized(model, provenance)
    with written_whole(Path(path)) as file:
        file.write(data)


def serialized(model: Network, provenance: dict[str, Any] | None = None) -> bytes:
    """The bytes of the weights file."""
    architecture = model.architecture.to_dict()
    for name in ADDED:
        if architecture[name] == Architecture.__dataclass_fields__[name].default:
            del architecture[name]
    about = {
        "version": VERSION,
        "architecture": architecture,
        "preprocessing": None if model.preprocessing is None else model.preprocessing.to_dict(),
        "classes": None if model.classes is None else list(model.classes),
        "provenance": model.provenance if provenance is None else provenance,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return serialize(tensors, metadata={"resnext": json.dumps(about)})  # one key: safetensors shuffles more


def is_native(raw: Raw) -> bool:
    """Whether a safetensors file has our metadata."""
    return "resnext" in raw.metadata


def adapt(raw: Raw) -> Contents:
    """What a file written by ``save`` says of its network. Raises RequestError naming what is wrong."""
    about = _about(raw, "resnext")
    try:
        architecture = Architecture(**_architecture_fields(about))
        preprocessing = Preprocessing.from_dict(about["preprocessing"]) if about.get("preprocessing") else None
    except RequestError as error:
        raise RequestError(f"{raw.path}: {error}") from None
    classes, provenance = about.get("classes"), about.get("provenance")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise RequestError(f"{raw.path}: its classes are not a list of names")
    return Contents(
        architecture=architecture,
        state=raw.value,
        format="resnext",
        preprocessing=preprocessing,
        classes=None if classes is None else tuple(classes),
        notes=_earlier_notes(provenance),
        provenance=provenance if isinstance(provenance, dict) else {},
    )


def is_detector(raw: Raw) -> bool:
    """Whether a safetensors file has the metadata of our own detectors."""
    return DETECTOR in raw.metadata


def adapt_detector(raw: Raw) -> Contents:
    """The network below a detector of ours: its architecture, weights and colours. Raises RequestError."""
    about = _about(raw, DETECTOR)
    try:
        architecture = Architecture(**_architecture_fields(about)).change(num_classes=0)
        state = _below_detector(raw.value, about)
        preprocessing = _colours_of_detector(about["preprocessing"], architecture)
    except RequestError as error:
        raise RequestError(f"{raw.path}: {error}") from None
    except (KeyError, TypeError) as error:
        raise RequestError(f"{raw.path}: its metadata does not say which detector it is ({error!r:.80})") from None
    provenance = about.get("provenance")
    return Contents(
        architecture=architecture,
        state=state,
        format=DETECTOR,
        preprocessing=preprocessing,
        provenance=(provenance if isinstance(provenance, dict) else {}) | {"format": DETECTOR},
        notes=(
            *_earlier_notes(provenance),
            "of the detector only the network is taken, with its mean, std and exif; "
            f"{preprocessing.resize}/{preprocessing.image_size} pixels are the usual, a detector has none",
        ),
    )


def _below_detector(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors; of the c4 layout the last stage is the detector's head."""
    split = about["detector"]["layout"] == "c4"
    if split and about["learn"] == "rpn":
        raise RequestError("it is a c4 detector of the rpn step, which has no last stage to start from")
    prefixes = (BODY, HEAD) if split else (BODY,)
    return {
        name.removeprefix(prefix): tensor
        for prefix in prefixes
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _colours_of_detector(view: Mapping[str, Any], architecture: Architecture) -> Preprocessing:
    """A detector's mean, std and exif, with the usual crop of pictures."""
    size = default_image_size(architecture)
    return Preprocessing(
        image_size=size,
        resize=256 if size == 224 else size,
        interpolation="bilinear",
        mean=view["mean"],
        std=view["std"],
        channels=architecture.in_channels,
        exif=view["exif"],
    )


def check_no_training_state(raw: Raw) -> None:
    """Raises RequestError for the file of a checkpoint that a run goes on with: its tensors are no network's."""
    if raw.container == "safetensors" and any(name.startswith(TRAINING) for name in raw.value):
        raise RequestError(
            f"{raw.path} is what a run needs to go on, not its weights; those are in model-*.safetensors beside it"
        )


def _earlier_notes(provenance: Any) -> tuple[str, ...]:
    """What was noted when the weights were converted to this file."""
    notes = provenance.get("notes") if isinstance(provenance, dict) else None
    return tuple(note for note in notes if isinstance(note, str)) if isinstance(notes, list) else ()


def _about(raw: Raw, key: str) -> dict[str, Any]:
    try:
        about = json.loads(raw.metadata[key])
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{raw.path}: its {key} metadata is not JSON: {error}") from None
    if not isinstance(about, dict) or "architecture" not in about:
        raise RequestError(f"{raw.path}: its {key} metadata does not say which network the tensors belong to")
    version = about.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise RequestError(f"{raw.path} has version {version!r} of the format; this program reads up to {VERSION}")
    return about


def _architecture_fields(about: dict[str, Any]) -> dict[str, Any]:
    values = about["architecture"]
    if not isinstance(values, dict):
        raise RequestError("its architecture is not a table of fields")
    known = set(Architecture.__dataclass_fields__)
    for key in values:
        if key not in known:
            raise RequestError(
                f"its architecture has the unknown field {key!r}{nearest(key, known)} (or a newer resnext wrote it)"
            )
    return values
