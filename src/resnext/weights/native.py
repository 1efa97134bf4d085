"""Our own weights file: one safetensors file whose metadata says what the tensors are.

Any safetensors reader opens it. The metadata key ``resnext`` holds JSON: the format's version, the architecture,
the preprocessing, the classes, and where the weights come from.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, nearest
from resnext.files import written_whole
from resnext.model.architecture import Architecture
from resnext.model.network import Network

VERSION = 1


def save(model: Network, path: Path | str, provenance: dict[str, Any] | None = None) -> None:
    """Write ``model`` with its architecture, preprocessing and classes to ``path``, whole or not at all.

    ``provenance`` is free JSON (recipe, epoch, metrics) kept in the file. Raises WorkError when the disk refuses.
    """
    data = serialized(model, provenance)
    with written_whole(Path(path)) as file:
        file.write(data)


def serialized(model: Network, provenance: dict[str, Any] | None = None) -> bytes:
    """The bytes of the weights file."""
    about = {
        "version": VERSION,
        "architecture": model.architecture.to_dict(),
        "preprocessing": None if model.preprocessing is None else model.preprocessing.to_dict(),
        "classes": None if model.classes is None else list(model.classes),
        "provenance": provenance or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return serialize(tensors, metadata={"resnext": json.dumps(about)})  # one key: safetensors shuffles more


def load_native(path: Path | str) -> Network:
    """The network in a file written by ``save``, in eval mode on the CPU. Raises RequestError naming what is wrong."""
    path = Path(path)
    about, tensors = _read(path)
    try:
        architecture = Architecture(**_architecture_fields(about))
        preprocessing = Preprocessing.from_dict(about["preprocessing"]) if about.get("preprocessing") else None
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    classes = about.get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise RequestError(f"{path}: its classes are not a list of names")
    if classes is not None and len(classes) != architecture.num_classes:
        raise RequestError(f"{path}: {len(classes)} class names for {architecture.num_classes} outputs")
    with torch.device("meta"):
        model = Network(architecture)
    check_tensors(tensors, model.state_dict(), str(path))
    model.load_state_dict(tensors, strict=True, assign=True)
    model.requires_grad_(True)
    model.preprocessing = preprocessing
    model.classes = None if classes is None else tuple(classes)
    return model.eval()


def check_tensors(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], origin: str) -> None:
    """Raises RequestError listing missing and extra names (with the nearest) and the first tensor of a wrong shape."""
    missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})")
        if extra:
            shown = ", ".join(name + nearest(name, missing or expected)[:80] for name in extra[:3])
            parts.append(f"{len(extra)} unknown ({shown}{', ...' if len(extra) > 3 else ''})")
        raise RequestError(f"{origin} does not fit the network: {'; '.join(parts)}")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            raise RequestError(
                f"{origin}: {name} has shape {tuple(given[name].shape)}, the network needs {tuple(tensor.shape)}"
            )
        if given[name].is_floating_point() != tensor.is_floating_point():
            raise RequestError(f"{origin}: {name} is {given[name].dtype}, the network needs {tensor.dtype}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("resnext", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise RequestError(f"there is no weights file {path}") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not a whole safetensors file: {error}") from None
    if not isinstance(about, dict) or "architecture" not in about:
        raise RequestError(f"{path} holds tensors, but no resnext metadata says which network they belong to")
    if not isinstance(about.get("version"), int) or about["version"] > VERSION:
        raise RequestError(
            f"{path} has version {about.get('version')!r} of the format; this program reads up to {VERSION}"
        )
    return about, tensors


def _architecture_fields(about: dict[str, Any]) -> dict[str, Any]:
    values = about["architecture"]
    if not isinstance(values, dict):
        raise RequestError("its architecture is not a table of fields")
    known = set(Architecture.__dataclass_fields__)
    for key in values:
        if key not in known:
            raise RequestError(f"its architecture has the unknown field {key!r}{nearest(key, known)}")
    return values
