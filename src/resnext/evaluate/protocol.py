"""The protocol every number carries: which images, which view of them, which weights."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from resnext.data.preprocessing import Preprocessing
from resnext.evaluate.views import CENTER, Looks
from resnext.run_directory import RunDirectory

FREE = ("split", "changed", "step", "batch_size", "weights", "command")  # words of a protocol that pose no question
INPUT = ("image_size", "resize", "fit", "interpolation", "exif", "mean", "std", "channels")


def protocol(
    preprocessing: Preprocessing,
    *,
    data: str,
    split: str,
    device: str,
    precision: str = "fp32",
    channels_last: bool = False,
    batch_size: int | None = None,
    weights: str | None = None,
    checkpoint: str | None = None,
    step: int | None = None,
    command: str | None = None,
    looks: Looks = CENTER,
    corruption: str | None = None,
    restricted_to: str | None = None,
    ensemble: Sequence[Mapping[str, Any]] = (),
    ensemble_combine: str | None = None,
) -> dict[str, Any]:
    """The protocol as plain values for JSON.

    ``data`` names the data set, ``split`` says in a sentence how the images were held out, ``channels_last`` in which
    memory layout was computed, ``checkpoint`` and ``step`` which weights of a run were judged. ``looks`` is the view,
    ``corruption`` says how the images were corrupted, if here, and ``restricted_to`` which outputs were answers, if not
    all. Of several networks, ``ensemble`` has what ``member`` says of each.
    """
    return {
        "data": data,
        "split": split,
        **looks.to_dict(),
        **_input(preprocessing),
        "corruption": corruption,
        "restricted_to": restricted_to,
        "precision": precision,
        "layout": "NHWC" if channels_last else "NCHW",
        "device": str(device),
        "batch_size": batch_size,
        "weights": weights,
        "checkpoint": checkpoint,
        "step": step,
        "ensemble": [dict(one) for one in ensemble] or None,
        "ensemble_combine": ensemble_combine if ensemble else None,
        "command": command,
    }


def member(preprocessing: Preprocessing, weights: str, checkpoint: str | None, step: int | None) -> dict[str, Any]:
    """One network of an ensemble: its weights and its input."""
    return {"weights": weights, "checkpoint": checkpoint, "step": step, **_input(preprocessing)}


def protocol_line(protocol: dict[str, Any], n: int) -> str:
    """The protocol in one line, as it stands under every result."""
    parts = [f"{n:,} images of {protocol.get('data')}", _views(protocol)]
    if protocol.get("corruption"):
        parts.append(str(protocol["corruption"]))
    if protocol.get("restricted_to"):
        parts.append(f"answers restricted to {protocol['restricted_to']}")
    parts += [arithmetic(protocol), f"split: {protocol.get('split')}"]
    members = _members(protocol)
    if len(members) > 1:
        names = ", ".join(weights_line(one, named=True) for one in members)
        parts.append(f"ensemble of {len(members)} (mean of {protocol.get('ensemble_combine')}): {names}")
    elif weights_line(protocol):
        parts.append(weights_line(protocol))
    return " · ".join(parts)


def own_protocol(run: RunDirectory, kind: str) -> dict[str, Any]:
    """The protocol of the evaluation (of format ``kind``) that a run keeps; empty where there is none."""
    path = run.evaluation / "metrics.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    about = values.get("protocol") if isinstance(values, dict) and values.get("format") == kind else None
    return about if isinstance(about, dict) else {}


def changed_words(own: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What both protocols say and say differently, as (own, other); empty where they ask the same question."""
    other = json.loads(json.dumps(protocol))  # lists, as in a file
    return {
        key: (value, other[key])
        for key, value in own.items()
        if key in other and key not in FREE and value != other[key]
    }


def arithmetic(protocol: Mapping[str, Any]) -> str:
    """What convolutions were computed in; fast paths are only named where they were switched off."""
    off = ", RESNEXT_FAST=0" if protocol.get("fast") is False else ""
    layout = f" {protocol['layout']}" if protocol.get("layout") == "NHWC" else ""
    return f"{protocol.get('precision')}{layout}{off}"


def view_line(view: Mapping[str, Any]) -> str:
    """What becomes of a picture before the network sees it, from a protocol or ``Preprocessing.to_dict()``.

    Protocols of earlier versions have no view: theirs was the centre crop.
    """
    size = f"{view.get('image_size')}×{view.get('image_size')}"
    kind, _, scales = str(view.get("view") or "center").removesuffix("+flip").partition(":")
    flipped = " and its mirror image" if str(view.get("view")).endswith("+flip") else ""
    if kind == "ten-crop":
        how = f"shorter side {view.get('resize')}, ten crops {size}: centre, corners, and of the mirror image"
    elif kind == "dense":
        how = f"whole picture{flipped} at shorter side {scales.replace(',', ', ')}, every window of {size}"
    else:
        how = {
            "crop": f"shorter side {view.get('resize')}, centre crop {size}",
            "squash": f"squashed to {size}",
            "pad": f"padded to {size}",
        }.get(str(view.get("fit")), size)
        how += flipped
    combined = f", mean of {view['combine']}" if view.get("combine") else ""
    return f"{how}{combined}, {view.get('interpolation')}"


def _views(protocol: Mapping[str, Any]) -> str:
    """The view of all networks, or of each where they differ."""
    about = {key: protocol.get(key) for key in ("view", "combine")}
    lines = [view_line({**one, **about}) for one in _members(protocol)]
    return view_line(protocol) if len(set(lines)) < 2 else " | ".join(lines)


def _members(protocol: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The networks of an ensemble, of a file that nobody vouches for."""
    members = protocol.get("ensemble")
    return [one for one in members if isinstance(one, Mapping)] if isinstance(members, list) else []


def weights_line(about: Mapping[str, Any], named: bool = False) -> str:
    """Which weights a protocol says: a run's checkpoint (``named``: with the run), or a file; empty for neither."""
    if about.get("checkpoint"):
        step = about.get("step")
        run = f"{about.get('weights')} " if named else ""
        return f"{run}checkpoint {about['checkpoint']}" + (f" (step {step:,})" if isinstance(step, int) else "")
    return f"weights {about['weights']}" if about.get("weights") else ""


def _input(preprocessing: Preprocessing) -> dict[str, Any]:
    view = preprocessing.to_dict()
    return {key: view[key] for key in INPUT if key in view}
