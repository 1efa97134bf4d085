"""Write and read checkpoints: safetensors and JSON, replaced atomically.

A checkpoint folder holds ``state.json`` and the tensor files it names. A new checkpoint writes its tensor files beside
the old ones under new names, then replaces ``state.json`` by a rename, then deletes the files that are no longer named.
A process killed at any moment leaves a ``state.json`` whose files all exist. No pickle is used.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import nn

from resnext.errors import RequestError, WorkError
from resnext.files import atomic_write, report_write_errors
from resnext.run_directory import RunDirectory, get_file_name, read_state
from resnext.training.ema import Ema
from resnext.training.state import EpochSums, ModelT, Position, RunFacts, SavedState
from resnext.weights.build import check_tensors

FORMAT_VERSION = 2


def write_checkpoint(
    run: RunDirectory,
    which: str,
    saved: SavedState,
    model: ModelT,
    ema: Ema[ModelT] | None,
    optimizer: torch.optim.Optimizer,
    serialize_model: Callable[[ModelT, dict[str, Any]], bytes],
) -> None:
    """Write the "last" or "best" checkpoint.

    The model file holds the weights to evaluate: the averaged ones if there is an EMA. "last" also holds what training
    needs to resume. ``serialize_model`` returns the bytes of a model's weights file, with what it is given added to the
    model's provenance. Raises WorkError on a write error; the previous checkpoint then stays intact.
    """
    used, position = model if ema is None else ema.model, saved.position
    check_finite(used, position)
    provenance = {"step": position.step, "epoch": position.epoch, "checkpoint": which}
    files = {"model": serialize_model(used, provenance)}
    if which == "last":
        files["training"] = serialize(_collect_training_tensors(model, ema, optimizer))
    folder = run.checkpoint(which)
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {}
    for key, data in files.items():
        name = f"{key}-{position.step:08d}.safetensors"
        with atomic_write(folder / name) as file:
            file.write(data)
        about[key] = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    state = {"format": "resnext-checkpoint", "version": FORMAT_VERSION, **asdict(saved), "files": about}
    with atomic_write(folder / "state.json", "w") as file:
        json.dump(state, file, indent=1)
    _delete_unreferenced(folder, {entry["name"] for entry in about.values()})


def read_checkpoint(run: RunDirectory, which: str = "last") -> dict[str, bytes]:
    """Read the files of a checkpoint, verify their checksums and return their bytes by name.

    The names are ``state`` (JSON), ``model`` and, for "last" only, ``training``.
    Raises RequestError if the checkpoint is incomplete or damaged.
    """
    folder = run.checkpoint(which)
    state = read_state(folder)
    if state.get("version") != FORMAT_VERSION:
        raise RequestError(
            f"{folder} has version {state.get('version')!r} of the checkpoint format, not {FORMAT_VERSION}"
        )
    keys = ("model", "training") if which == "last" else ("model",)
    return {"state": json.dumps(state).encode()} | {key: _read_verified(folder, state, key) for key in keys}


def restore_checkpoint(
    files: dict[str, bytes], run: RunDirectory, model: ModelT, ema: Ema[ModelT] | None, optimizer: torch.optim.Optimizer
) -> SavedState:
    """Load the "last" checkpoint (from ``read_checkpoint``) into network, EMA and optimizer; return what else it holds.

    ``run`` is used in error messages only. Raises RequestError if the checkpoint does not fit the network.
    """
    folder, state = run.checkpoint("last"), json.loads(files["state"])
    names = {key: folder / get_file_name(state, key, folder) for key in ("model", "training")}
    weights, training = (_parse_tensors(files[key], names[key]) for key in ("model", "training"))
    _load_state(model if ema is None else ema.model, weights, names["model"])
    if ema is not None:
        _load_state(model, _select_prefix("weights/", training), names["training"])
    _restore_optimizer(optimizer, model, _select_prefix("optimizer/", training), names["training"])
    for full, value in _select_prefix("groups/", training).items():
        number, _, key = full.partition("/")
        if number.isdecimal() and int(number) < len(optimizer.param_groups):
            optimizer.param_groups[int(number)][key] = int(value) if value.dtype == torch.int64 else value
    try:
        parts = (Position(**state["position"]), EpochSums(**state["sums"]), RunFacts(**state["facts"]))
        return SavedState(*parts, scaler=dict(state["scaler"]))
    except (KeyError, TypeError):
        raise RequestError(f"{folder / 'state.json'} has no valid training position") from None


def check_finite(model: nn.Module, position: Position) -> None:
    """Raise WorkError naming the first tensor with a NaN or infinite value."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WorkError(
                f"{name} is not finite after step {position.step}: the last good checkpoint was kept; "
                "a lower optimizer.lr, schedule.warmup_epochs or train.grad_clip_norm may help"
            )


def _collect_training_tensors(
    model: ModelT, ema: Ema[ModelT] | None, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    if ema is not None:
        tensors |= {f"weights/{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{key}/{name}"] = value
    for number, group in enumerate(optimizer.param_groups):  # LAMB keeps its step count here; older timm as an int
        group = {key: torch.as_tensor(value) if key == "step" else value for key, value in group.items()}
        tensors |= {f"groups/{number}/{key}": value for key, value in group.items() if isinstance(value, torch.Tensor)}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor], origin: Path
) -> None:
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for full, value in tensors.items():
        key, _, name = full.partition("/")
        if name not in parameters:
            raise RequestError(f"{origin} holds optimizer state for {name!r}, which the network does not have")
        parameter = parameters[name]
        if value.ndim and value.shape != parameter.shape:
            raise RequestError(f"{origin}: {full} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
        if value.ndim:  # use the parameter's memory layout, so that a resumed run computes the same bits
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][key] = value


def _read_verified(folder: Path, state: dict[str, Any], key: str) -> bytes:
    path = folder / get_file_name(state, key, folder)
    entry = state["files"][key]
    try:
        data = path.read_bytes() if path.stat().st_size == entry.get("bytes") else None
    except OSError as error:
        raise RequestError(f"the checkpoint file {path} cannot be read: {error.strerror}") from None
    if data is None or hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise RequestError(f"the checkpoint file {path} is damaged: its size or SHA-256 does not match state.json")
    return data


def _parse_tensors(data: bytes, path: Path) -> dict[str, torch.Tensor]:
    try:
        return deserialize(data)
    except SafetensorError as error:
        raise RequestError(f"the checkpoint file {path} is not a safetensors file: {error}") from None


def _load_state(model: nn.Module, tensors: dict[str, torch.Tensor], origin: Path) -> None:
    check_tensors(tensors, model.state_dict(), str(origin))
    model.load_state_dict(tensors, strict=True)


def _select_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _delete_unreferenced(folder: Path, keep: set[str]) -> None:
    """Delete tensor files and leftovers of killed processes that ``state.json`` does not name."""
    for path in folder.iterdir():
        if path.name.endswith((".safetensors", ".part")) and path.name not in keep:
            path.unlink(missing_ok=True)
