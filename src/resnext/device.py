"""Which device a name means, on this machine."""

import torch

from resnext.errors import RequestError

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
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"device {name!r} is unknown; choose cpu, cuda, cuda:1, mps or auto") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if device.index >= count:
            raise RequestError(f"device {name!r} is not here: this machine offers {count} CUDA devices")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise RequestError("device 'mps' is not here")
    elif device.type not in ("cpu", "mps"):
        raise RequestError(f"device {name!r} cannot be used; choose cpu, cuda, cuda:1, mps or auto")
    return device
