"""Read .pt2 files of ``resnext export`` without executing anything in them.

``torch.export.load`` unpickles weights, constants and example inputs, looks operators up by any name, and evaluates
expressions and guards that the file gives as text. So it is not used here: weights are read as bytes, and the graph as
a list of operators from a fixed table (``torch_program.py``). Error messages do not include the path.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from resnext.deploy.export_info import KEY, MAX_INFO_BYTES
from resnext.deploy.torch_operators import DTYPES
from resnext.deploy.torch_program import Graph, parse_graph
from resnext.errors import RequestError
from resnext.weights.readers.pickle.values import escape_name
from resnext.weights.readers.zip_entries import list_entries, read_entry

MODEL, INFO = "models/model.json", f"extra/{KEY}"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
NEEDED = (MODEL, WEIGHTS, CONSTANTS, "archive_format", "archive_version")
UNREAD = ("byteorder", "data/sample_inputs/model.pt", ".data/version", ".data/serialization_id")
WEIGHT = re.compile(r"data/weights/weight_\d{1,6}")
OLD_ENTRIES = ("serialized_exported_program.json", "data/weights/model.pt")  # of torch 2.7, and of 2.8, with pickles
MAX_JSON_BYTES = 12 << 20  # of a program; that of a network of 1,202 layers takes 6 MB
MAX_SMALL_BYTES = 1 << 10
SCHEMA_MAJOR = 8  # of the program's JSON, since torch 2.6


@dataclass(frozen=True)
class TorchProgram:
    """A program: its graph and its weights, by their names in the graph."""

    graph: Graph
    weights: Mapping[str, Tensor]


def read_torch_export(path: Path) -> tuple[TorchProgram, str | None]:
    """Read a .pt2 file; return the program and the text of its extra file ``resnext.json``.

    Raises RequestError for a file that ``resnext export`` does not write, or that is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        archive = _Archive(file, size)
        text = archive.read_text(INFO, MAX_INFO_BYTES) if INFO in archive.entries else None
        graph = _read_graph(archive)
        return TorchProgram(graph, _read_weights(archive, graph, size)), text


class _Archive:
    """The entries of a .pt2 file, all of known names and within the file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        try:
            self.entries = list_entries(file, size, _check_names)
        except RequestError as error:
            raise RequestError(f"it {error}") from None
        self.has_checksums = self.entries[MODEL].checksum != 0  # torch can write archives without; then all are 0
        for name, expected in (("archive_format", "pt2"), ("archive_version", "0")):
            if self.read_text(name, MAX_SMALL_BYTES) != expected:
                raise RequestError(f"its {name} is not {expected}; update resnext to read newer files")
        if "byteorder" in self.entries and self.read_text("byteorder", MAX_SMALL_BYTES) != "little":
            raise RequestError("its weights are not in the byte order little")

    def read(self, name: str) -> Tensor:
        """Read the bytes of an entry."""
        try:
            return read_entry(self.file, name, self.entries[name], self.has_checksums)
        except RequestError as error:
            raise RequestError(f"it {error}") from None

    def read_text(self, name: str, limit: int) -> str:
        """Read a text of at most ``limit`` bytes."""
        if self.entries[name].size > limit:
            raise RequestError(f"its {name} has {self.entries[name].size:,} bytes; at most {limit:,} are read")
        try:
            return self.read(name).numpy().tobytes().decode()
        except UnicodeDecodeError:
            raise RequestError(f"its {name} is not text") from None

    def read_json(self, name: str) -> Any:
        """Read a JSON value."""
        text = self.read_text(name, MAX_JSON_BYTES)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"its {name} is not JSON: {str(error)[:100]}") from None


def _check_names(names: list[str]) -> None:
    if any(name in names for name in OLD_ENTRIES):
        raise RequestError("was written by torch 2.8 or before, with pickles in it; export it again with torch 2.9")
    for name in names:
        if name not in (*NEEDED, *UNREAD) and not name.startswith("extra/") and not WEIGHT.fullmatch(name):
            raise RequestError(f"has the entry {escape_name(name)}, which no file of resnext export has")
    for name in NEEDED:
        if name not in names:
            raise RequestError(f"lacks the entry {name}, so it is not a .pt2 file of resnext export")


def _read_graph(archive: _Archive) -> Graph:
    program = archive.read_json(MODEL)
    match program:
        case {"schema_version": {"major": int(major)}, "graph_module": dict(module)}:
            if major != SCHEMA_MAJOR:
                raise RequestError(f"its program has schema {major}, but this program reads schema {SCHEMA_MAJOR}")
            return parse_graph(module)
    raise RequestError("its program has no schema version, or no graph")


def _read_weights(archive: _Archive, graph: Graph, size: int) -> dict[str, Tensor]:
    """Read the weights of the graph, by their names in it."""
    config, constants = (archive.read_json(name) for name in (WEIGHTS, CONSTANTS))
    if constants != {"config": {}}:
        raise RequestError("it has constants beside its weights, which no file of resnext export has")
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        raise RequestError(f"its {WEIGHTS} has no config")
    found, entries, total = dict[str, Tensor](), dict[str, Tensor](), 0
    for name, key in graph.weights.items():
        entry, number, shape = _parse_weight(config["config"].get(key), key)
        if entry not in archive.entries:
            raise RequestError(f"its weight {escape_name(key)!r} is missing")
        dtype = DTYPES[number]
        count = math.prod(shape) * dtype.itemsize
        total += count
        if count > archive.entries[entry].size or total > 2 * size:
            raise RequestError(f"its weight {escape_name(key)!r} is larger than its bytes in the file")
        if entry not in entries:
            entries[entry] = archive.read(entry)
        data = entries[entry][:count]  # any byte but 0 means True; torch itself relies on 0 and 1
        found[name] = (data != 0 if dtype == torch.bool else data.view(dtype)).view(shape)
    return found


def _parse_weight(value: Any, key: str) -> tuple[str, int, list[int]]:
    """Return entry, number of the type, and shape of a weight, which lies at the entry's begin, in row-major order."""
    match value:
        case {
            "path_name": str(path),
            "use_pickle": False,
            "tensor_meta": {
                "dtype": int(number),
                "sizes": list(sizes),
                "strides": list(strides),
                "storage_offset": {"as_int": 0},
            },
        } if number in DTYPES:
            shape, steps = (_parse_lengths(lengths) for lengths in (sizes, strides))
            expected, step = list[int](), 1
            for length in reversed(shape):
                expected.append(step)
                step *= length
            pairs = zip(shape, steps, reversed(expected), strict=False)
            if len(steps) == len(shape) and all(length == 1 or a == b for length, a, b in pairs):
                return f"data/weights/{path}", number, shape
    raise RequestError(f"its weight {escape_name(key)!r} is not stored as plain numbers, which resnext export writes")


def _parse_lengths(values: list[Any]) -> list[int]:
    lengths = [value.get("as_int") if isinstance(value, dict) else None for value in values]
    if len(lengths) > 8 or not all(isinstance(length, int) and 0 < length < 2**40 for length in lengths):
        raise RequestError("it has a weight whose shape is not a list of whole numbers")
    return [int(length) for length in lengths if length is not None]
