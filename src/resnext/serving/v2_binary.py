"""The binary extension of the Open Inference Protocol: raw tensors behind the JSON of a request or an answer.

The header ``Inference-Header-Content-Length`` says how many bytes of the body are JSON. A BYTES tensor is, for each
element, its length (4 bytes, little-endian) and its bytes.
Source: Triton, ``protocol/extension_binary_data.md``.
"""

import struct
from collections.abc import Iterable

from resnext.serving.problems import ProblemError

HEADER = "Inference-Header-Content-Length"


def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """Split a body into its JSON and the bytes behind it, without a copy of those. Raises ProblemError (400)."""
    if header is None:
        return body, memoryview(b"")
    if not (header.isascii() and header.isdecimal()) or len(header) > 12 or int(header) > len(body):
        raise ProblemError(400, f"{HEADER} {header[:40]!r} is not a number of bytes up to the {len(body)} of the body")
    return body[: int(header)], memoryview(body)[int(header) :]


def decode_elements(data: memoryview, count: int) -> list[bytes]:
    """Decode a BYTES tensor of ``count`` elements. Raises ProblemError (400) if it has others, or is cut off."""
    elements: list[bytes] = []
    place = 0
    while place < len(data):
        if len(elements) == count or place + 4 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, place)
        if length > len(data) - place - 4:
            break
        elements.append(bytes(data[place + 4 : place + 4 + length]))
        place += 4 + length
    if place != len(data) or len(elements) != count:
        raise ProblemError(400, f"the binary data is not a BYTES tensor of {count} elements: length and bytes of each")
    return elements


def encode_elements(elements: Iterable[bytes]) -> bytes:
    """Encode a BYTES tensor."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
