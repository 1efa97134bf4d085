"""Read safetensors files: a JSON header, then the data of one tensor after the other.

The safetensors library checks the header (sizes, gaps, overlaps). The data are then copied to new memory, because the
library's tensors are views of the mapped file: if the file changes they change, and if it shrinks the process crashes.
"""

import json
import math
import struct
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resnext.errors import RequestError
from resnext.weights.pickle_values import shown
from resnext.weights.torch_tensors import LARGEST, MOST_DIMENSIONS, in_this_order, read_bytes

LENGTH = struct.Struct("<Q")
LARGEST_TABLE = 16 << 20  # bytes; the header of a network has about 100,000
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def looks_like_safetensors(head: bytes) -> bool:
    """Return whether a file starts with the length of a JSON header, and a header."""
    return len(head) > LENGTH.size and head[LENGTH.size : LENGTH.size + 1] == b"{" and head[7] == 0


def read_safetensors(path: Path, file: IO[bytes], size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors by name and the metadata. Error messages do not include the path."""
    file.seek(0)
    length = LENGTH.unpack(file.read(LENGTH.size))[0]
    start = LENGTH.size + length
    if start > size:
        raise RequestError(f"is truncated: its header declares {length:,} bytes, the file has {size:,}")
    if length > LARGEST_TABLE:
        raise RequestError(f"has a header of {length:,} bytes; at most {LARGEST_TABLE:,} are supported")
    try:
        with safe_open(path, framework="pt") as checked:
            metadata = checked.metadata() or {}
        table = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RequestError(f"is not a complete safetensors file: {shown(str(error))}") from None
    tensors: dict[str, Tensor] = {}
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise RequestError(f"has {shown(name)} of dtype {entry['dtype']}; expected one of {', '.join(DTYPES)}")
        shape = entry["shape"]
        if len(shape) > MOST_DIMENSIONS or math.prod(max(side, 1) for side in shape) >= LARGEST:
            raise RequestError(f"has {shown(name)} with too many dimensions or elements")
        begin, end = entry["data_offsets"]
        data = in_this_order(read_bytes(file, start + begin, end - begin), dtype, "little")
        if dtype == torch.bool:
            data.clamp_(max=1)
        tensors[name] = data.view(dtype).reshape(shape)
    return tensors, metadata
