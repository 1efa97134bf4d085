"""The names of Python's standard library that a pickle may use, and the error message for all others.

    collections.OrderedDict                 OrderedDict without extra attributes
    collections.defaultdict, Counter        dict
    argparse.Namespace, Lightning's dicts   Record, a dict of the attributes
    pathlib's paths                         str
    set, frozenset, list, dict, complex, bytearray, bytes
    _codecs.encode                          bytes, as protocols 0 to 2 write them
    copy_reg._reconstructor                 an object of a class above, as protocols 0 and 1 make it

Names are listed under the modules of Python 2 and 3. Classes such as ``int`` in ``defaultdict(int)`` may be named but
not called.
"""

from collections import OrderedDict
from typing import Any

from resnext.errors import RequestError
from resnext.weights.pickle_values import ENTRY, LONG, Meter, Named, Payload, Record, described, payload, shown

TENSOR_KINDS = {
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no data",
    "_rebuild_wrapper_subclass": "a tensor of a subclass",
    "_rebuild_from_type_v2": "a tensor of a subclass",
    "_rebuild_device_tensor_from_numpy": "a tensor of a special device",
    "_rebuild_xla_tensor": "a tensor of a special device",
    "_rebuild_tensor_v3": "a tensor of an unusual dtype",
    "FakeTensor": "a fake tensor, which has no data",
    "ComplexFloatStorage": "complex numbers",
    "ComplexDoubleStorage": "complex numbers",
    "QInt8Storage": "quantized numbers",
    "QUInt8Storage": "quantized numbers",
    "QInt32Storage": "quantized numbers",
    "QUInt4x2Storage": "quantized numbers",
    "QUInt2x4Storage": "quantized numbers",
}
MODEL_MODULES = ("torch.nn.modules.", "torch.nn.parallel.", "torchvision.models.", "timm.models.", "timm.layers.")
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")


def refused(dotted: str) -> str:
    """Make the error message for a name that is not allowed."""
    name = dotted.rsplit(".", 1)[-1]
    if dotted.startswith("torch.") and name in TENSOR_KINDS:
        return f"refers to {shown(dotted)}: {TENSOR_KINDS[name]}, which is not supported; save plain dense tensors"
    sentence = f"refers to {shown(dotted)}, which is not data; nothing was executed"
    if dotted.startswith(MODEL_MODULES) or name[:1].isupper():
        sentence += "; if a whole model or trainer was pickled, save model.state_dict() with the program that made it"
    return sentence


def _ordered(arguments: tuple[Any, ...], meter: Meter) -> Any:
    return OrderedDict(_entries(arguments, meter))


def _table(arguments: tuple[Any, ...], meter: Meter) -> Any:
    return dict(_entries(arguments, meter))


def _default(arguments: tuple[Any, ...], meter: Meter) -> Any:
    if arguments and not (arguments[0] is None or isinstance(arguments[0], Named)):
        raise RequestError(f"has a defaultdict of {described(arguments[0])}")
    return dict(_entries(arguments[1:], meter))


def _entries(arguments: tuple[Any, ...], meter: Meter) -> list[tuple[Any, Any]]:
    """List keys and values of a dict or, as Python 2 writes an OrderedDict, of a list of pairs."""
    match arguments:
        case ():
            return []
        case (dict() as table,):
            meter.charge(ENTRY * len(table))
            return list(table.items())
        case (list() as pairs,):
            meter.charge(ENTRY * len(pairs))
            if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
                raise RequestError("has a dict made from a list that has something else than pairs")
            return [(meter.key(key), value) for key, value in pairs]
    raise RequestError("has a dict made from something else than a dict or pairs")


def _members(arguments: tuple[Any, ...], meter: Meter) -> Any:
    match arguments:
        case ():
            return ()
        case (list() | tuple() | set() | frozenset() as members,):
            meter.charge(ENTRY * len(members))
            return members
    raise RequestError("has a set or list made from something else than a list")


def _set(arguments: tuple[Any, ...], meter: Meter) -> Any:
    return {meter.key(member) for member in _members(arguments, meter)}


def _frozenset(arguments: tuple[Any, ...], meter: Meter) -> Any:
    return frozenset(meter.key(member) for member in _members(arguments, meter))


def _list(arguments: tuple[Any, ...], meter: Meter) -> Any:
    return list(_members(arguments, meter))


def _record(arguments: tuple[Any, ...], meter: Meter) -> Any:
    return Record(_entries(arguments, meter))


def _complex(arguments: tuple[Any, ...], meter: Meter) -> Any:  # noqa: ARG001
    match arguments:
        case (float() as real, float() as imaginary):
            return complex(real, imaginary)
    raise RequestError("has a malformed complex number")


def _encode(arguments: tuple[Any, ...], meter: Meter) -> Any:
    """Handle ``_codecs.encode``: bytes that were written as text, one character each."""
    match arguments:
        case (str() | Payload() as text, "latin1" | "latin-1"):
            meter.charge(text.length if isinstance(text, Payload) else len(text))
            data = latin1(text)
            return data if len(data) < LONG else payload(data, "bytes")
    raise RequestError("calls _codecs.encode for something else than bytes")


def _bytes(arguments: tuple[Any, ...], meter: Meter) -> Any:  # noqa: ARG001
    if arguments:
        raise RequestError("calls bytes() with arguments, which is not supported")
    return b""


def _bytearray(arguments: tuple[Any, ...], meter: Meter) -> Any:
    match arguments:
        case ():
            return bytearray()
        case (bytes() | Payload() as data,):
            pass
        case (str() | Payload(), "latin-1" | "latin1"):
            data = _encode(arguments, meter)
        case _:
            raise RequestError("makes a bytearray from something else than bytes")
    if isinstance(data, Payload):
        return Payload(data.file, data.offset, data.length, "bytearray")
    meter.charge(len(data))
    return bytearray(data)


def _path(arguments: tuple[Any, ...], meter: Meter) -> Any:
    if not all(type(part) is str for part in arguments):
        raise RequestError("has a path whose parts are not text")
    meter.charge(sum(len(part) + 1 for part in arguments))
    return "/".join(arguments).replace("//", "/", 1) if arguments else "."


def _reconstructor(arguments: tuple[Any, ...], meter: Meter) -> Any:
    match arguments:
        case (Named(make=make) as named, Named(name="object"), None) if make is not None and named.name in RECORDS:
            return make((), meter)
    raise RequestError("calls copy_reg._reconstructor for an object that is not a dict of attributes")


def latin1(text: "str | Payload") -> bytes:
    """Convert text back to the bytes it was made from, one character each."""
    found = text.settle() if isinstance(text, Payload) else text
    if not isinstance(found, str):
        return bytes(found)
    try:
        return found.encode("latin-1")
    except UnicodeEncodeError:
        raise RequestError("has bytes written as text, with characters that are not latin-1") from None


RECORDS = (
    "argparse.Namespace",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
_BUILTINS = {
    "set": _set,
    "frozenset": _frozenset,
    "list": _list,
    "dict": _table,
    "complex": _complex,
    "bytearray": _bytearray,
    "bytes": _bytes,
    **dict.fromkeys(("object", "int", "float", "str", "bool")),
}
_CALLED = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _default,
    "collections.Counter": _table,
    "_codecs.encode": _encode,
    **dict.fromkeys(RECORDS, _record),
    **{f"{module}.{name}": _path for module in ("pathlib", "pathlib._local") for name in PATHS},
    **dict.fromkeys(("copyreg._reconstructor", "copy_reg._reconstructor"), _reconstructor),
}
NAMES: dict[str, Any] = {name: Named(name, make) for name, make in _CALLED.items()} | {
    f"{module}.{name}": Named(name, make) for module in ("builtins", "__builtin__") for name, make in _BUILTINS.items()
}
