"""The protocol every number carries: which images, which view of them, which weights."""

from collections.abc import Mapping
from typing import Any

from resnext.data.preprocessing import Preprocessing


def protocol(
    preprocessing: Preprocessing,
    *,
    data: str,
    split: str,
    device: str,
    precision: str = "fp32",
    batch_size: int | None = None,
    weights: str | None = None,
    checkpoint: str | None = None,
    step: int | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """The protocol as plain values for JSON.

    ``data`` names the data set, ``split`` says in a sentence how the images were held out, ``checkpoint`` and
    ``step`` say which weights of a run were judged.
    """
    view = preprocessing.to_dict()
    keys = ("image_size", "resize", "fit", "interpolation", "exif", "mean", "std", "channels")
    return {
        "data": data,
        "split": split,
        **{key: view[key] for key in keys if key in view},
        "precision": precision,
        "device": str(device),
        "batch_size": batch_size,
        "weights": weights,
        "checkpoint": checkpoint,
        "step": step,
        "command": command,
    }


def protocol_line(protocol: dict[str, Any], n: int) -> str:
    """The protocol in one line, as it stands under every result."""
    parts = [f"{n:,} images of {protocol.get('data')}", view_line(protocol)]
    parts += [str(protocol.get("precision")), f"split: {protocol.get('split')}"]
    if protocol.get("checkpoint"):
        step = protocol.get("step")
        parts.append(f"checkpoint {protocol['checkpoint']}" + (f" (step {step:,})" if isinstance(step, int) else ""))
    elif protocol.get("weights"):
        parts.append(f"weights {protocol['weights']}")
    return " · ".join(parts)


def view_line(view: Mapping[str, Any]) -> str:
    """What becomes of a picture before the network sees it, from a protocol or ``Preprocessing.to_dict()``."""
    size = f"{view.get('image_size')}×{view.get('image_size')}"
    how = {
        "crop": f"shorter side {view.get('resize')}, centre crop {size}",
        "squash": f"squashed to {size}",
        "pad": f"padded to {size}",
    }.get(str(view.get("fit")), size)
    return f"{how}, {view.get('interpolation')}"
