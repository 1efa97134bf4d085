"""Recognize files that are not supported weights from their first bytes, so that an error can say what the file is.

The most frequent case is a failed download.
"""

import re

HEAD_BYTES = 4096  # number of bytes that are examined

UNPACK_FIRST = "unpack it first"
OTHER_FRAMEWORK = "networks of other frameworks are not supported; use weights from torch, timm, detectron2 or Torch7"

# offset of the bytes, the bytes, what the file is
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", f"is compressed by gzip; {UNPACK_FIRST}"),
    (0, b"\xfd7zXZ\0", f"is compressed by xz; {UNPACK_FIRST}"),
    (0, b"\x28\xb5\x2f\xfd", f"is compressed by zstd; {UNPACK_FIRST}"),
    (0, b"BZh", f"is compressed by bzip2; {UNPACK_FIRST}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"is a 7z archive; {UNPACK_FIRST}"),
    (0, b"Rar!", f"is a RAR archive; {UNPACK_FIRST}"),
    (0, b"\x89HDF\r\n\x1a\n", f"is an HDF5 file (Keras); {OTHER_FRAMEWORK}"),
    (0, b"\x93NUMPY", "is a single NumPy array, not the weights of a network"),
    (0, b"GGUF", f"is a GGUF file (llama.cpp); {OTHER_FRAMEWORK}"),
    (0, b"\x89PNG\r\n", "is a PNG image, not weights"),
    (0, b"\xff\xd8\xff", "is a JPEG image, not weights"),
    (0, b"GIF8", "is a GIF image, not weights"),
    (8, b"WEBP", "is a WebP image, not weights"),
    (0, b"%PDF", "is a PDF, not weights"),
    (0, b"SQLite format 3", "is a SQLite database, not weights"),
    (0, b"PAR1", "is a Parquet table, not weights"),
    (4, b"TFL3", f"is a TensorFlow Lite model; {OTHER_FRAMEWORK}"),
    (4, b"ET1", "is an ExecuTorch program; save the state_dict() of the original model"),
    (0, b"PTMF", "is a PyTorch Mobile program; save the state_dict() of the original model"),
    (4, b"PTMF", "is a PyTorch Mobile program; save the state_dict() of the original model"),
    (0, b"version https://git-lfs.github.com", "is a Git LFS pointer, not the file itself; run: git lfs pull"),
    (0, b"\x08\x01\x12", f"is a TensorFlow SavedModel; {OTHER_FRAMEWORK}"),
    (0, b"\x7fELF", "is a program, not weights"),
)
# ir_version, then another field of ModelProto
ONNX_PATTERN = re.compile(rb"\x08[\x02-\x1f](?:[\x12\x1a\x22\x32\x3a\x42]|\x28)")
# a node and its operation
TENSORFLOW_GRAPH_PATTERN = re.compile(rb"(?s)\n.{1,5}\n.{1,300}\x12.(?:Placeholder|Const|VariableV2)")


def describe_binary(head: bytes) -> str | None:
    """Describe a known binary file from its first bytes; None if it is not known. The path is not included."""
    for at, magic, what in SIGNATURES:
        if head[at : at + len(magic)] == magic:
            return what
    if ONNX_PATTERN.match(head):
        return f"is an ONNX model; {OTHER_FRAMEWORK}"
    if TENSORFLOW_GRAPH_PATTERN.match(head):
        return f"is a TensorFlow graph; {OTHER_FRAMEWORK}"
    return None


def describe_text(head: bytes) -> str | None:
    """Describe a text file from its first bytes; None if it is not text."""
    try:
        words = head.decode("utf-8-sig") if len(head) < HEAD_BYTES else head[:-4].decode("utf-8-sig", "ignore")
    except UnicodeDecodeError:
        return None
    if any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in words) or head.count(b"\xff") > 2:
        return None
    start = words.lstrip().lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "is a web page, not weights: the download failed or needs a login; download the file itself"
    if start.startswith("<"):
        if "<net " in start:
            return f"is an OpenVINO model; {OTHER_FRAMEWORK}"
        return "is XML, not weights; was the download refused?"
    if start.startswith(("{", "[")):
        return "is JSON, not weights; the weights are in another file beside it"
    return "is text, not weights; the weights are in another file"
