"""The protocol stored with every result: which images, which view of them, which weights."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from resnext.data.preprocessing import Preprocessing
from resnext.evaluation.output.view_text import format_view
from resnext.evaluation.views import CENTER, Views
from resnext.files import read_result
from resnext.run_directory import RunDirectory

IGNORED_KEYS = ("split", "changed", "step", "batch_size", "weights", "command")  # they do not change what is measured
PREPROCESSING_KEYS = ("image_size", "resize", "fit", "interpolation", "exif", "mean", "std", "channels")


def build_protocol(
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
    views: Views = CENTER,
    corruption: str | None = None,
    restricted_to: str | None = None,
    ensemble: Sequence[Mapping[str, Any]] = (),
    ensemble_combine: str | None = None,
) -> dict[str, Any]:
    """Build the protocol as plain values for JSON.

    ``data`` names the data set; ``split`` is a sentence on how the images were held out; ``channels_last`` is the
    memory layout; ``checkpoint`` and ``step`` tell which weights of a run were evaluated. ``views`` are the crops of
    each image, ``corruption`` says how images were corrupted here, ``restricted_to`` which classes were allowed (None:
    all). ``ensemble`` holds ``describe_member`` of each network, if there are several.
    """
    return {
        "data": data,
        "split": split,
        **views.to_dict(),
        **_describe_preprocessing(preprocessing),
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


def describe_member(
    preprocessing: Preprocessing, weights: str, checkpoint: str | None, step: int | None
) -> dict[str, Any]:
    """Describe one network of an ensemble: its weights and its input."""
    return {"weights": weights, "checkpoint": checkpoint, "step": step, **_describe_preprocessing(preprocessing)}


def format_protocol(protocol: dict[str, Any], n: int) -> str:
    """Format the protocol as the line printed under every result."""
    parts = [f"{n:,} images of {protocol.get('data')}", _format_views(protocol)]
    if protocol.get("corruption"):
        parts.append(str(protocol["corruption"]))
    if protocol.get("restricted_to"):
        parts.append(f"predictions restricted to {protocol['restricted_to']}")
    parts += [format_arithmetic(protocol), f"split: {protocol.get('split')}"]
    members = _list_members(protocol)
    if len(members) > 1:
        names = ", ".join(format_weights(one, with_run=True) for one in members)
        parts.append(f"ensemble of {len(members)} (mean of {protocol.get('ensemble_combine')}): {names}")
    elif format_weights(protocol):
        parts.append(format_weights(protocol))
    return " · ".join(parts)


def read_run_protocol(run: RunDirectory, kind: str) -> dict[str, Any]:
    """Read the protocol of the evaluation (of format ``kind``) in a run; empty if there is none."""
    about = (read_result(run.evaluation / "metrics.json", kind) or {}).get("protocol")
    return about if isinstance(about, dict) else {}


def compare_protocols(own: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys of both protocols whose values differ, as (own, other); IGNORED_KEYS do not count."""
    other = json.loads(json.dumps(protocol))  # tuples become lists, as in a file
    return {
        key: (value, other[key])
        for key, value in own.items()
        if key in other and key not in IGNORED_KEYS and value != other[key]
    }


def format_arithmetic(protocol: Mapping[str, Any]) -> str:
    """Format the precision and memory layout; fast paths are only mentioned if they were switched off."""
    off = ", RESNEXT_FAST=0" if protocol.get("fast") is False else ""
    layout = f" {protocol['layout']}" if protocol.get("layout") == "NHWC" else ""
    return f"{protocol.get('precision')}{layout}{off}"


def _format_views(protocol: Mapping[str, Any]) -> str:
    """Format the view of all networks, or of each if they differ."""
    about = {key: protocol.get(key) for key in ("view", "combine")}
    lines = [format_view({**one, **about}) for one in _list_members(protocol)]
    return format_view(protocol) if len(set(lines)) < 2 else " | ".join(lines)


def _list_members(protocol: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the networks of an ensemble, from a file that may be damaged."""
    members = protocol.get("ensemble")
    return [one for one in members if isinstance(one, Mapping)] if isinstance(members, list) else []


def format_weights(about: Mapping[str, Any], with_run: bool = False) -> str:
    """Format the weights: a run's checkpoint (``with_run``: and the run), or a file; empty if unknown."""
    if about.get("checkpoint"):
        step = about.get("step")
        run = f"{about.get('weights')} " if with_run else ""
        return f"{run}checkpoint {about['checkpoint']}" + (f" (step {step:,})" if isinstance(step, int) else "")
    return f"weights {about['weights']}" if about.get("weights") else ""


def _describe_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    view = preprocessing.to_dict()
    return {key: view[key] for key in PREPROCESSING_KEYS if key in view}
