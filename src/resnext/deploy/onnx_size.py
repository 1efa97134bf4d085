"""Bound what parsing an .onnx file can take, by walking through its fields without parsing it.

Parsed, small messages take up to forty times their bytes. Most of a network's file are the bytes of its weights, which
take no more than they have; the rest must be small.
"""

from collections.abc import Iterator

from resnext.errors import RequestError

MAX_PARTS = 100_000  # of the model, its graph, and its tensors; a network of 1,202 layers has about 10,000
MAX_OTHER_BYTES = 16 << 20  # of all that is no weight; that of a network of 1,202 layers are 2 MB
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # numbers of the fields in ModelProto, GraphProto and TensorProto


def check_onnx_size(data: bytes) -> None:
    """Raise RequestError for a file with too many parts, or with too much beside its weights."""
    other, parts = len(data), 0
    path = (GRAPH, INITIALIZER, RAW_DATA)
    open_fields = [_iterate_fields(data, 0, len(data))]
    while open_fields:
        found = next(open_fields[-1], None)
        if found is None:
            open_fields.pop()
            continue
        parts += 1
        if parts > MAX_PARTS:
            raise RequestError(f"it has more than {MAX_PARTS:,} parts, which no network has")
        number, start, end = found
        if number != path[len(open_fields) - 1]:
            continue
        if number == RAW_DATA and len(open_fields) == len(path):
            other -= end - start
        else:
            open_fields.append(_iterate_fields(data, start, end))
    if other > MAX_OTHER_BYTES:
        raise RequestError(f"it has {other:,} bytes beside its weights; at most {MAX_OTHER_BYTES:,} are read")


def _iterate_fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Iterate over the fields of a message: number, start and end of the value.

    Source: protobuf's encoding. Raises RequestError for a field that does not end within the message.
    """
    while at < end:
        key, at = _read_number(data, at, end)
        kind = key & 7
        size = {0: 0, 1: 8, 5: 4}.get(kind)
        if kind == 0:
            _, at = _read_number(data, at, end)
        elif kind == 2:
            size, at = _read_number(data, at, end)
        if size is None or at + size > end:
            raise RequestError("it is not an ONNX model: its fields do not fit into each other")
        yield key >> 3 if kind == 2 else 0, at, at + size
        at += size


def _read_number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a number of variable length; return it and the place behind it."""
    value = 0
    for index in range(min(10, end - at)):
        byte = data[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    raise RequestError("it is not an ONNX model: a number in it does not end")
