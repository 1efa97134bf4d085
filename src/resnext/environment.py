"""Versions, machine and threads that a result depends on; stored with every run and every result."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resnext.version import __version__

BF16_FEATURES = ("avx512_bf16", "amx_bf16")  # CPU features for bf16 arithmetic
# values of ONEDNN_MAX_CPU_ISA
ISA_CAPS_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
REPORTED_ISAS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve")


def describe_environment(device: str = "cpu") -> dict[str, Any]:
    """Describe the environment as plain JSON values, without names of user or host."""
    import numpy
    import PIL
    import torch
    import torchvision

    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "resnext": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": read_cpu_name(),
        "isa": read_cpu_features(),
        "cores": count_available_cores(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def count_available_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_cpu_name() -> str:
    """Read the name of the processor."""
    for line in _read_cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def read_cpu_features() -> list[str]:
    """Read which of the instruction sets in ``REPORTED_ISAS`` the processor has."""
    words = {word for line in _read_cpuinfo() if line.startswith(("flags", "Features")) for word in line.split()}
    return [name for name in REPORTED_ISAS if name in words]


def has_bf16() -> bool:
    """Return whether the processor has bf16 arithmetic and ONEDNN_MAX_CPU_ISA permits it."""
    return (
        bool(set(BF16_FEATURES) & set(read_cpu_features()))
        and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in ISA_CAPS_WITHOUT_BF16
    )


def _read_cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
