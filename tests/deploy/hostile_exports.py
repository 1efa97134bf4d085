"""Make hostile .onnx and .xml files of good ones, and open each in turn in a process that reports time and memory."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

OnnxChange = Callable[[Any], Any]
XmlChange = Callable[[str], str]


def add_external(place: str) -> OnnxChange:
    """Have a tensor at ``place`` keep its data in a file outside of the folder."""
    from onnx import AttributeProto, TensorProto, helper

    def change(model: Any) -> None:
        evil = TensorProto(name="evil", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "../../../../../../etc/passwd"), ("offset", "0"), ("length", "16")):
            evil.external_data.add(key=key, value=value)
        indices = helper.make_tensor("indices", 7, [4], [0, 1, 2, 3])
        if place == "weights":
            model.graph.initializer.append(evil)
        elif place == "sparse weights":
            model.graph.sparse_initializer.add(values=evil, indices=indices, dims=[9])
        elif place == "constant":
            model.graph.node.append(helper.make_node("Constant", [], ["evil"], value=evil))
        else:
            node = helper.make_node("Constant", [], ["evil"])
            attribute = node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
            attribute.sparse_tensor.values.CopyFrom(evil)
            attribute.sparse_tensor.indices.CopyFrom(indices)
            attribute.sparse_tensor.dims.append(9)
            model.graph.node.append(node)

    return change


def claim_shape(*shape: int) -> OnnxChange:
    """Have the first weight claim another shape than its bytes have."""
    return lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), shape)


def add_cycle(model: Any) -> None:
    """Add two operators that need each other."""
    from onnx import helper

    model.graph.node.insert(0, helper.make_node("Relu", ["b"], ["a"]))
    model.graph.node.insert(0, helper.make_node("Relu", ["a"], ["b"]))


def add_to_output(model: Any, nodes: list[Any], name: str) -> None:
    """Add the value ``name``, which ``nodes`` compute, to the first output."""
    from onnx import helper

    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if one == output else one for one in node.output]
    model.graph.node.extend([*nodes, helper.make_node("Add", ["before", name], [output])])


def add_constant_bomb(model: Any) -> None:
    """Have a few bytes become a tensor of 2 GB."""
    from onnx import helper

    model.graph.initializer.append(helper.make_tensor("shape", 7, [1], [1 << 29]))
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["zeros"])]
    add_to_output(model, [*nodes, helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0)], "sum")


def add_tile_bomb(model: Any) -> None:
    """Have the input repeated ten thousand times, when the network runs."""
    from onnx import helper

    model.graph.initializer.append(helper.make_tensor("times", 7, [4], [1, 400, 400, 1]))
    nodes = [helper.make_node("Tile", [model.graph.input[0].name, "times"], ["tiles"])]
    nodes.append(helper.make_node("Cast", ["tiles"], ["floats"], to=1))
    add_to_output(model, [*nodes, helper.make_node("ReduceMean", ["floats"], ["mean"], keepdims=0)], "mean")


def add_graph_in_graph(model: Any) -> None:
    """Add a loop whose body has a loop, and so on, as deep as protobuf allows."""
    from onnx import helper

    graph = helper.make_graph([], "body", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("Loop", ["n", "c"], ["x"], body=graph)], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n", "c"], ["x"], body=graph))


def add_function(model: Any) -> None:
    """Define an operator that calls itself."""
    from onnx import helper

    node = helper.make_node("Evil", [], [], domain="")
    model.functions.append(helper.make_function("", "Evil", [], [], [node], [helper.make_opsetid("", 18)]))


def write_field(number: int, data: bytes) -> bytes:
    """Write a field of a protobuf message."""
    size, length = len(data), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def add_nodes(count: int) -> OnnxChange:
    """Append operators, a few bytes each."""
    from onnx import helper

    node = write_field(1, helper.make_node("Relu", ["a"], ["b"]).SerializeToString())
    return lambda model: model.SerializeToString() + write_field(7, node * count)


def nest_fields(depth: int) -> OnnxChange:
    """Append a graph in an attribute of a node of a graph and so on, too deep for protobuf."""

    def change(model: Any) -> bytes:
        data = b""
        for _ in range(depth):
            data = write_field(1, write_field(5, write_field(6, data)))
        return model.SerializeToString() + write_field(7, data)  # type: ignore[no-any-return]

    return change


ONNX: dict[str, OnnxChange] = {
    **{f"data outside: {one}": lambda m, one=one: add_external(one)(m)  # type: ignore[misc]
       for one in ("weights", "sparse weights", "constant", "sparse constant")},
    "a claim of 2 GB": claim_shape(1 << 29),
    "a claim of 2^62": claim_shape(1 << 62, 4),
    "a claim below zero": claim_shape(-1),
    "a cycle": add_cycle,
    "a constant of 2 GB": add_constant_bomb,
    "an input made 160,000 times larger": add_tile_bomb,
    "graphs in graphs": add_graph_in_graph,
    "an operator that calls itself": add_function,
    "1,000,000 operators": lambda m: add_nodes(1_000_000)(m),
    "30,000 operators": lambda m: add_nodes(30_000)(m),
    "17 MB of names": lambda m: m.SerializeToString() + write_field(7, write_field(10, bytes(17 << 20))),
    "fields too deep": nest_fields(300),
    "an operator of others": lambda m: setattr(m.graph.node[0], "domain", "com.evil"),
    "half of the file": lambda m: m.SerializeToString()[: m.ByteSize() // 2],
    "no bytes": lambda m: b"",
    "zeros": lambda m: bytes(100_000),
    "a pickle": lambda m: b"\x80\x04cos\nsystem\n(S'touch executed'\ntR.",
}  # fmt: skip


def replace(old: str, new: str) -> XmlChange:
    """Replace the first ``old``, which must be there."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def append(part: str) -> XmlChange:
    """Put elements before the end of the network."""
    return lambda text: text[: text.rindex("</net>")] + part + "</net>"


def make_layers(count: int) -> str:
    """Return layers of one number each."""
    port = '<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>'
    data = '<data shape="1" element_type="f32"/>'
    return "".join(
        f'<layer id="{9000 + i}" name="x" type="Parameter" version="opset1">{data}{port}' for i in range(count)
    )


def point_edge_back(text: str) -> str:
    """Have a layer take what is computed from it."""
    edges = re.findall(r'<edge from-layer="(\d+)" from-port="(\d+)" to-layer="(\d+)" to-port="(\d+)" ?/>', text)
    _, _, layer, port = edges[0]
    last = edges[-1]
    first = f'<edge from-layer="{edges[0][0]}" from-port="{edges[0][1]}" to-layer="{layer}" to-port="{port}"'
    return replace(first, f'<edge from-layer="{last[2]}" from-port="0" to-layer="{layer}" to-port="{port}"')(text)


CONSTANT = 'offset="0" size="3072"'
LAUGHS = "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
XML: dict[str, XmlChange] = {
    "a billion laughs": replace("<net", f'<!DOCTYPE l [<!ENTITY a "haha">{LAUGHS}]><net'),
    "an entity of a file": replace("<net", '<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><net'),
    "100 MB of blanks": append(" " * (100 << 20)),
    "2 million elements": append("<a/>" * (2 << 20)),
    "1 million elements in each other": append("<a>" * 1_000_000 + "</a>" * 1_000_000),
    "metadata 500,000 deep": append("<rt_info>" + "<a>" * 500_000 + "</a>" * 500_000 + "</rt_info>"),
    "30,000 layers": lambda text: replace("</layers>", make_layers(30_000) + "</layers>")(text),
    "a shape of a million": replace('shape="?,32,32,3"', 'shape="?' + ",1" * 1_000_000 + '"'),
    "a claim of 2 GB": replace(CONSTANT, 'offset="0" size="2147483648"'),
    "a claim beyond its bytes": replace(f'shape="768" {CONSTANT}', f'shape="768000000" {CONSTANT}'),
    "an offset beyond the weights": replace(CONSTANT, 'offset="18446744073709551000" size="3072"'),
    "an offset below zero": replace(CONSTANT, 'offset="-16" size="3072"'),
    "a cycle": point_edge_back,
    "an edge from nowhere": replace(
        "<edges>", '<edges><edge from-layer="99999" from-port="2" to-layer="3" to-port="0"/>'
    ),
    "an operator of others": replace('type="Transpose" version="opset1"', 'type="Transpose" version="extension"'),
    "half of the file": lambda text: text[: len(text) // 2],
    "UTF-16": lambda text: text.encode("utf-16").decode("latin-1"),
}
WEIGHTS = {"truncated weights": 5000, "no weights": 0}  # bytes that are left
HARMLESS = ("2 million elements", "1 million elements in each other", "metadata 500,000 deep")  # may be ignored


def write_hostile(good: Path, folder: Path) -> dict[str, Path]:
    """Write every hostile file of the format of ``good``; return them by name."""
    found: dict[str, Path] = {}

    def place(name: str, data: bytes) -> Path:
        found[name] = folder / str(len(found)) / good.name
        found[name].parent.mkdir(parents=True)
        found[name].write_bytes(data)
        return found[name]

    if good.suffix == ".onnx":
        import onnx

        for name, change in ONNX.items():
            model = onnx.load(good)
            changed = change(model)
            place(name, changed if isinstance(changed, bytes) else model.SerializeToString())
        return found
    weights = good.with_suffix(".bin").read_bytes()
    for name, edit in XML.items():
        encoding = "latin-1" if name == "UTF-16" else "utf-8"
        place(name, edit(good.read_text("utf-8")).encode(encoding)).with_suffix(".bin").write_bytes(weights)
    for name, left in WEIGHTS.items():
        place(name, good.read_bytes()).with_suffix(".bin").write_bytes(weights[:left])
    return found


def report_opening(paths: Iterable[str]) -> None:
    """Open each file as ``Predictor`` does and print one line of JSON: outcome, seconds, MB of this and of children."""
    import resource

    import numpy as np
    import onnx  # noqa: F401  # imported before time is taken
    import onnxruntime  # noqa: F401

    from resnext.deploy.exported import open_exported
    from resnext.errors import RequestError, WorkError

    def read_peak() -> float:
        return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

    for path in paths:
        Path("/proc/self/clear_refs").write_text("5")
        before, start, words = read_peak(), time.monotonic(), ""
        try:
            engine = open_exported(Path(path)).build_engine("auto", None, "latency", 1, None)[2]
            engine(np.zeros((1, 32, 32, 3), np.uint8))
            outcome = "opened"
        except (RequestError, WorkError) as error:
            outcome, words = "refused", str(error)
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        memory = max(read_peak() - before, children)
        values = {"outcome": outcome, "words": words, "seconds": time.monotonic() - start, "megabytes": memory}
        print(json.dumps(values), flush=True)


if __name__ == "__main__":
    report_opening(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
