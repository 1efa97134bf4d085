"""Graphs of each engine, built by the package's builders and run by the engine itself, for these tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext.deploy.fold import fold
from resnext.deploy.graph_interface import GraphInterface
from resnext.deploy.signal_stack import preserve_signal_stack
from resnext.model.network import Network

ENGINES = ["onnxruntime", "openvino"]
Graph = Callable[[np.ndarray], Any]


def run_onnx(model: bytes) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function from the input to the outputs by their names."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(None, {"images": x}), strict=True))


def compile_openvino(model: Any, **settings: object) -> Any:
    """Compile an OpenVINO model or file for the CPU, and keep this thread's signal stack."""
    with preserve_signal_stack():
        return pytest.importorskip("openvino").Core().compile_model(model, "CPU", settings)


def run_openvino(model: Any, precision: str = "f32") -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function from the input to the outputs by their names."""
    compiled = compile_openvino(model, INFERENCE_PRECISION_HINT=precision, INFERENCE_NUM_THREADS=1)
    names = [output.get_any_name() for output in compiled.outputs]
    return lambda x: {name: np.array(value) for name, value in zip(names, compiled(x).values(), strict=True)}


def export(engine: str, network: Network, interface: GraphInterface) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Build the graph of a network and return a function from its input to its outputs by their names."""
    if engine == "onnxruntime":
        pytest.importorskip("onnx")
        from resnext.deploy.onnx_graph import build_onnx_model

        return run_onnx(build_onnx_model(fold(network), interface))
    pytest.importorskip("openvino")
    from resnext.deploy.openvino_graph import build_openvino_model

    return run_openvino(build_openvino_model(fold(network), interface))


def build_graph_model(
    engine: str,
    interface: GraphInterface,
    add_operators: Callable[[Any, Any], Any],
    precision: str = "f32",
    file: Path | None = None,
) -> Graph:
    """Build a graph of some operators, without a network; return a function from its input to its only output.

    With ``file``, an OpenVINO model is saved there and read back.
    """
    assert interface.preprocessing is not None
    shape = interface.get_shape(interface.preprocessing.channels)
    if engine == "onnxruntime":
        return _build_onnx_graph(shape, interface, add_operators)
    ov = pytest.importorskip("openvino")
    from resnext.deploy.openvino_graph import OpenVinoGraph

    graph = OpenVinoGraph()
    x = graph.ops.parameter(ov.PartialShape([n if isinstance(n, int) else -1 for n in shape]), interface.dtype)
    y = add_operators(x, graph)
    y.output(0).get_tensor().set_names({"y"})
    model = ov.Model([y], [x])
    if file is not None:
        ov.save_model(model, file, compress_to_fp16=False)
        model = ov.Core().read_model(file)
    run = run_openvino(model, precision)
    return lambda x: run(x)["y"]


def _build_onnx_graph(shape: list[int | str], interface: GraphInterface, add_operators: Callable[..., str]) -> Graph:
    helper = pytest.importorskip("onnx").helper
    from resnext.deploy.onnx_graph import IR_VERSION, OPSET, OnnxGraph

    graph = OnnxGraph()
    name = add_operators("images", graph)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(interface.dtype))
    given = helper.make_tensor_value_info("images", kind, shape)
    made = helper.make_graph(graph.nodes, "test", [given], [helper.make_empty_tensor_value_info(name)], graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    run = run_onnx(helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString())
    return lambda x: run(x)[name]
