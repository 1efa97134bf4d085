"""Which device a name means, on this machine."""

import re

import torch

from resnext.errors import RequestError

NAMES = re.compile(r"(?:cpu|mps)(?::0)?|cuda(?::(0|[1-9]\d{0,5}))?")  # torch.device takes cuda:256 for cuda:0
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions of autocast


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Within, convolutions and products are computed in ``precision``: bf16, fp16, or fp32 (nothing is cast)."""
    return torch.autocast(device.type, LOW.get(precision, torch.bfloat16), enabled=precision in LOW)


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device a recipe names; "auto" prefers CUDA, then MPS, then the CPU. Raises RequestError for one not here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    match = NAMES.fullmatch(name)
    if match is None:
        raise RequestError(f"device {name!r} is unknown; choose cpu, cuda, cuda:1, mps or auto")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = local_rank if match[1] is None else int(match[1])
        if index >= count:
            raise RequestError(f"device {name!r} is not here: this machine offers {count} CUDA devices")
        return torch.device("cuda", index)
    if name.startswith("mps") and not torch.backends.mps.is_available():
        raise RequestError(f"device {name!r} is not here")
    return torch.device(name)
