"""Devices by name, and autocast."""

import re

import torch

from resnext.errors import RequestError

DEVICE_PATTERN = re.compile(r"(?:cpu|mps)(?::0)?|cuda(?::(0|[1-9]\d{0,5}))?")  # torch.device takes cuda:256 for cuda:0
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # dtypes of autocast


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Create an autocast context for ``precision``: bf16, fp16, or fp32, which casts nothing."""
    return torch.autocast(
        device.type, AUTOCAST_DTYPES.get(precision, torch.bfloat16), enabled=precision in AUTOCAST_DTYPES
    )


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device of a name; "auto" prefers CUDA, then MPS, then the CPU.

    A plain "cuda" means the device of ``local_rank``. Raises RequestError if the device is unknown or not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    match = DEVICE_PATTERN.fullmatch(name)
    if match is None:
        raise RequestError(f"device {name!r} is unknown; choose cpu, cuda, cuda:1, mps or auto")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = local_rank if match[1] is None else int(match[1])
        if index >= count:
            raise RequestError(f"device {name!r} is not available: this machine has {count} CUDA devices")
        return torch.device("cuda", index)
    if name.startswith("mps") and not torch.backends.mps.is_available():
        raise RequestError(f"device {name!r} is not available on this machine")
    return torch.device(name)
