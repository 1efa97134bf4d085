"""Our own weights file: one safetensors file whose metadata says what the tensors are.

Any safetensors reader opens it. The metadata key ``resnext`` holds JSON: the format's version, the architecture,
the preprocessing, the classes, and where the weights come from.

How the format may grow: a program reads files of its own version and older. What a network's function does not depend
on becomes a new key of the JSON, which older programs pass over. A new field of the architecture is written only where
it is not at its default, so older programs go on to read what they can compute, and name the field where they cannot.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialize

from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, nearest
from resnext.files import written_whole
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from resnext.weights.contents import Contents, Raw

VERSION = 1
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
    about = _about(raw)
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


def _earlier_notes(provenance: Any) -> tuple[str, ...]:
    """What was noted when the weights were converted to this file."""
    notes = provenance.get("notes") if isinstance(provenance, dict) else None
    return tuple(note for note in notes if isinstance(note, str)) if isinstance(notes, list) else ()


def _about(raw: Raw) -> dict[str, Any]:
    try:
        about = json.loads(raw.metadata["resnext"])
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{raw.path}: its resnext metadata is not JSON: {error}") from None
    if not isinstance(about, dict) or "architecture" not in about:
        raise RequestError(f"{raw.path}: its resnext metadata does not say which network the tensors belong to")
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
