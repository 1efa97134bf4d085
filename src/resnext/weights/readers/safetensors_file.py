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
from resnext.weights.readers.pickle.values import escape_name
from resnext.weights.readers.torch_tensors import MAX_DIMENSIONS, MAX_ELEMENTS, read_bytes, to_native_byte_order

HEADER_LENGTH = struct.Struct("<Q")
MAX_HEADER_BYTES = 16 << 20  # bytes; the header of a network has about 100,000
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


def can_be_safetensors(head: bytes) -> bool:
    """Return whether a file starts with the length of a JSON header, and a header."""
    return len(head) > HEADER_LENGTH.size and head[HEADER_LENGTH.size : HEADER_LENGTH.size + 1] == b"{" and head[7] == 0


def read_safetensors(path: Path, file: IO[bytes], size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors by name and the metadata. Error messages do not include the path."""
    file.seek(0)
    length = HEADER_LENGTH.unpack(file.read(HEADER_LENGTH.size))[0]
    start = HEADER_LENGTH.size + length
    if start > size:
        raise RequestError(f"is truncated: its header declares {length:,} bytes, the file has {size:,}")
    if length > MAX_HEADER_BYTES:
        raise RequestError(f"has a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are supported")
    try:
        with safe_open(path, framework="pt") as checked:
            metadata = checked.metadata() or {}
        table = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RequestError(f"is not a complete safetensors file: {escape_name(str(error))}") from None
    tensors: dict[str, Tensor] = {}
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        dtype, shape = DTYPES.get(entry["dtype"]), entry["shape"]
        if dtype is None:
            expected = ", ".join(DTYPES)
            raise RequestError(f"has {escape_name(name)} of dtype {entry['dtype']}; expected one of {expected}")
        if len(shape) > MAX_DIMENSIONS or math.prod(max(side, 1) for side in shape) >= MAX_ELEMENTS:
            raise RequestError(f"has {escape_name(name)} with too many dimensions or elements")
        begin, end = entry["data_offsets"]
        data = to_native_byte_order(read_bytes(file, start + begin, end - begin), dtype, "little")
        if dtype == torch.bool:
            data.clamp_(max=1)
        tensors[name] = data.view(dtype).reshape(shape)
    return tensors, metadata
