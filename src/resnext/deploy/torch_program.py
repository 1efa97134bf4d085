"""Parse the graph of a .pt2 file: a list of operators from a fixed table, with checked arguments.

Only names, numbers and lists are taken from the file. Its expressions, guards and type trees, which
``torch.export.load`` evaluates, are not looked at; nor is anything looked up in torch by a name of the file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from resnext.deploy.torch_operators import CHECKS, DTYPES, OPERATORS, Operator
from resnext.errors import RequestError
from resnext.weights.readers.pickle.values import escape_name

MAX_OPERATORS = 20_000
MAX_NUMBER = 2**63 - 1
MAX_POSITIVE = 2**24  # of strides, sizes of kernels and the like
IGNORED = {"device": {"type": "cpu", "index": None}, "pin_memory": False}  # arguments of no effect: their only values


@dataclass(frozen=True)
class Reference:
    """The name of a value of the graph, as an argument."""

    name: str


Argument = Reference | list["Reference | None"] | torch.dtype | int | float | list[int] | None


@dataclass(frozen=True)
class Operation:
    """An operator of the graph with its arguments, and the name of its result."""

    function: Callable[..., Any]
    arguments: Mapping[str, Argument]
    name: str
    is_number: bool  # whether the result is a whole number, not a tensor
    releases: tuple[str, ...] = ()  # names of the values that no later operation takes

    def list_references(self) -> list[str]:
        """List the names of the values that it takes."""
        found = []
        for argument in self.arguments.values():
            items = argument if isinstance(argument, list) else [argument]
            found += [item.name for item in items if isinstance(item, Reference)]
        return found


@dataclass(frozen=True)
class Graph:
    """A graph with one input. Each operation takes only results of earlier ones, weights, and the input."""

    input: str
    weights: Mapping[str, str]  # name in the graph -> name in the file
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def parse_graph(module: Any) -> Graph:
    """Parse the value ``graph_module`` of a program. Raises RequestError for what ``resnext export`` never writes."""
    graph, signature = _get(module, "graph", dict), _get(module, "signature", dict)
    weights, given = _parse_inputs(_get(signature, "input_specs", list))
    known = {given, *weights}
    operations = list[Operation]()
    nodes = _get(graph, "nodes", list)
    if len(nodes) > MAX_OPERATORS:
        raise RequestError(f"its graph has {len(nodes):,} operators; at most {MAX_OPERATORS:,} are read")
    for node in nodes:
        if _get(node, "target", str) in CHECKS:
            continue
        operation = _parse_operation(node)
        for name in operation.list_references():
            if name not in known:
                raise RequestError(f"its graph uses the value {escape_name(name)!r}, which nothing computes before")
        if operation.name in known:
            raise RequestError(f"its graph computes the value {escape_name(operation.name)!r} twice")
        known.add(operation.name)
        operations.append(operation)
    outputs = [_get_name(output) for output in _get(graph, "outputs", list)]
    if not outputs or not known.issuperset(outputs):
        raise RequestError("its graph has no outputs, or outputs that nothing computes")
    return Graph(given, weights, _plan(operations, outputs), tuple(outputs))


def _plan(operations: list[Operation], outputs: list[str]) -> tuple[Operation, ...]:
    """Drop the operations on which no output depends, and say after which ones values are released."""
    used, kept = set(outputs), []
    for operation in reversed(operations):
        if operation.name in used:
            last = tuple(sorted(set(operation.list_references()) - used))
            kept.append(replace(operation, releases=last))
            used.update(last)
    return tuple(reversed(kept))


def _parse_inputs(specs: list[Any]) -> tuple[dict[str, str], str]:
    """Return the weights by their names in the graph, and the name of the input."""
    weights, given = dict[str, str](), list[str]()
    for spec in specs:
        match spec:
            case {"parameter": {"arg": {"name": str(name)}, "parameter_name": str(key)}}:
                weights[name] = key
            case {"buffer": {"arg": {"name": str(name)}, "buffer_name": str(key), "persistent": True}}:
                weights[name] = key
            case {"user_input": {"arg": {"as_tensor": {"name": str(name)}}}}:
                given.append(name)
            case _:
                raise RequestError("its graph has an input that is neither a weight nor a batch of images")
    if len(given) != 1 or given[0] in weights or len(weights) != len(specs) - 1:
        raise RequestError(f"its graph has {len(given)} inputs, or two of one name; expected the images alone")
    return weights, given[0]


def _parse_operation(node: Any) -> Operation:
    target = _get(node, "target", str)
    operator = OPERATORS.get(target)
    if operator is None:
        raise RequestError(
            f"its graph has the operator {escape_name(target)!r}; only the operators that resnext export writes are run"
        )
    arguments = dict[str, Argument]()
    for pair in _get(node, "inputs", list):
        name, value = _get(pair, "name", str), _get(pair, "arg", dict)
        kind = operator.arguments.get(name)
        if len(value) != 1 or name in arguments or (kind is None and name not in IGNORED):
            raise RequestError(f"its operator {target} has the argument {escape_name(name)!r}, which is not expected")
        if kind is not None:
            form, content = next(iter(value.items()))
            arguments[name] = _parse_argument(kind, form, content, target)
        elif next(iter(value.values())) != IGNORED[name]:
            raise RequestError(f"its operator {target} does not run on the CPU")
    _check_complete(target, operator, arguments)
    outputs = _get(node, "outputs", list)
    if len(outputs) != 1:
        raise RequestError(f"its operator {target} has {len(outputs)} results; expected one")
    return Operation(operator.function, arguments, _get_name(outputs[0]), operator.is_number)


def _check_complete(target: str, operator: Operator, arguments: Mapping[str, Argument]) -> None:
    for name, kind in operator.arguments.items():
        if name not in arguments and kind in ("tensor", "tensors"):
            raise RequestError(f"its operator {target} lacks the argument {name!r}")


def _parse_argument(kind: str, form: str, value: Any, target: str) -> Argument:
    """Parse an argument of a kind of ``Operator`` from its JSON ``{form: value}``."""
    match kind, form, value:
        case "tensor" | "tensor?", "as_tensor", {"name": str(name)}:
            return Reference(name)
        case "tensor?", "as_none", _:
            return None
        case "tensors", "as_tensors" | "as_optional_tensors", list():
            return [_parse_item(item, form) for item in value]
        case "int", "as_sym_int", {"as_name": str(name)}:
            return Reference(name)
        case "int", "as_int" | "as_sym_int", _:
            return _check_int(value["as_int"] if isinstance(value, dict) and "as_int" in value else value, target)
        case "ints" | "positive", "as_ints", list():
            return [_check_int(item, target, kind) for item in value]
        case "positive", "as_int", _:
            return _check_int(value, target, kind)
        case "bool", "as_bool", bool():
            return value
        case "float", "as_float" | "as_int", int() | float() if not isinstance(value, bool):
            return float(value)
        case "dtype", "as_scalar_type", int() if value in DTYPES:
            return DTYPES[value]
    raise RequestError(f"its operator {target} has an argument of another kind than {kind.rstrip('?')}")


def _parse_item(item: Any, form: str) -> Reference | None:
    """Parse a tensor of a list, where it may be None."""
    match form, item:
        case "as_tensors", {"name": str(name)}:
            return Reference(name)
        case "as_optional_tensors", {"as_tensor": {"name": str(name)}}:
            return Reference(name)
        case "as_optional_tensors", {"as_none": _}:
            return None
    raise RequestError("its graph has a list of tensors with something else in it")


def _check_int(value: Any, target: str, kind: str = "int") -> int:
    least, most = (1, MAX_POSITIVE) if kind == "positive" else (-MAX_NUMBER, MAX_NUMBER)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestError(f"its operator {target} has a number outside of {least} to {most}")
    return value


def _get_name(value: Any) -> str:
    """Return the name of a result: a tensor or a whole number."""
    match value:
        case {"as_tensor": {"name": str(name)}} | {"as_sym_int": {"as_name": str(name)}}:
            return name
    raise RequestError("its graph has a result that is neither a tensor nor a number")


def _get(values: Any, key: str, kind: type) -> Any:
    """Return an entry of a JSON object. Raises RequestError if it is missing or of another type."""
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, kind):
        raise RequestError(f"its program lacks {key!r}")
    return value
