"""Write .pt2 files: programs of ``torch.export`` with their facts in the extra file ``resnext.json``."""

import io
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram
from torch.torch_version import TorchVersion

from resnext.deploy.export_info import KEY, ExportInfo
from resnext.deploy.fold import FoldedNetwork
from resnext.deploy.graph_interface import MAX_BATCH, GraphInterface
from resnext.deploy.torch_graph import ExportedNetwork
from resnext.errors import RequestError
from resnext.files import report_write_errors

OLDEST = "2.9"  # torch whose files have weights as plain numbers; before, torch.export.save pickled them
EXAMPLE_BATCH = 2  # of a program for any batch; torch.export takes 0 and 1 for fixed numbers
EXAMPLE_SIDE = 64  # pixels, of pictures of any size
DEBUG_KEYS = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "custom")  # in the metadata of nodes


def write_torch_export(folded: FoldedNetwork, interface: GraphInterface, info: ExportInfo, path: Path) -> None:
    """Write a network as .pt2 file.

    Raises RequestError if the interface does not fit the network, WorkError if the file cannot be written.
    """
    write_torch_program(build_torch_program(folded, interface), info, path)


def build_torch_program(folded: FoldedNetwork, interface: GraphInterface) -> ExportedProgram:
    """Build the program that maps the input ``images`` to a dict of outputs.

    It has no example inputs, so that its file has no pickle, and no stack traces, which name folders of this machine.
    Raises RequestError if the interface does not fit the network, or torch is too old.
    """
    if TorchVersion(torch.__version__) < OLDEST:
        raise RequestError(f"exports for PyTorch need torch {OLDEST} or newer; this is torch {torch.__version__}")
    module = ExportedNetwork(folded, interface).eval()
    example, dims = _make_example(interface, folded.architecture.in_channels)
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=(dims,), strict=False)
    program.example_inputs = None
    for node in program.graph.nodes:
        for key in DEBUG_KEYS:
            node.meta.pop(key, None)
    return program


def _make_example(interface: GraphInterface, channels: int) -> tuple[torch.Tensor, dict[int, object]]:
    """Return an example input and, by axis, what is known of the lengths that may vary."""
    lengths, dims = [], {}
    for axis, length in enumerate(interface.get_shape(channels)):
        if isinstance(length, int):
            lengths.append(length)
            continue
        lengths.append(EXAMPLE_BATCH if length == "B" else EXAMPLE_SIDE + axis)
        dims[axis] = Dim("batch", min=1, max=MAX_BATCH) if length == "B" else Dim.DYNAMIC
    dtype = torch.float32 if interface.input == "normalised" else torch.uint8
    return torch.zeros(lengths, dtype=dtype), dims


def write_torch_program(program: ExportedProgram, info: ExportInfo, path: Path) -> None:
    """Write a program with its facts. Raises WorkError if it cannot be written."""
    buffer = io.BytesIO()  # where torch itself writes to a full disk, its destructor ends the process
    torch.export.save(program, buffer, extra_files={KEY: info.to_json()})
    with report_write_errors(path):
        path.write_bytes(buffer.getbuffer())
