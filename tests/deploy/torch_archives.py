"""Make .pt2 files, and take them apart and change them, for tests."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnext import Network
from resnext.data.preprocessing import Preprocessing
from resnext.deploy.export import ExportRequest, describe_export
from resnext.deploy.exported import open_exported
from resnext.deploy.fold import fold
from resnext.deploy.torch_export import write_torch_export
from resnext.deploy.torch_export_engine import TorchExportEngine
from tests.deploy.networks import lived

Entries = dict[str, bytes]


def make_network(channels: int = 3, side: int = 32, **changes: object) -> Network:
    """Build a small network with preprocessing and class names."""
    network = lived(in_channels=channels, **changes)
    network.classes = tuple(f"class {i}" for i in range(network.architecture.num_classes)) or None
    network.preprocessing = Preprocessing(
        image_size=side,
        resize=side + 4,
        channels=channels,
        mean=(0.5, 0.4, 0.3)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
    )
    return network


def write(network: Network, path: Path, **options: Any) -> Path:
    """Write a .pt2 file, with the options of ``ExportRequest``."""
    request = ExportRequest(format="torch-export", **options)
    assert network.preprocessing is not None
    interface = request.get_interface(network.preprocessing)
    write_torch_export(fold(network), interface, describe_export(network, request, None), path)
    return path


def open_engine(path: Path) -> TorchExportEngine:
    """Open a file as ``Predictor`` does."""
    engine = open_exported(path).build_engine("auto", None, "latency", 1, None)[2]
    assert isinstance(engine, TorchExportEngine)
    return engine


def read_entries(path: Path) -> Entries:
    """Return the archive's entries by their names below its folder, in order."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(entries: Entries, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(f"model/{name}", data)
    return buffer.getvalue()


def change_json(entries: Entries, name: str, change: Callable[[Any], object]) -> Entries:
    """Return the entries with one JSON changed in place by ``change``."""
    value = json.loads(entries[name])
    change(value)
    return entries | {name: json.dumps(value).encode()}


def get_nodes(program: Any) -> list[Any]:
    """Return the operators of a program's JSON."""
    nodes: list[Any] = program["graph_module"]["graph"]["nodes"]
    return nodes
