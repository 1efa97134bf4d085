"""The names of Python's standard library that a pickle may use (at the end), and the error message for all others.

Names are listed under the modules of Python 2 and 3. Classes such as ``int`` in ``defaultdict(int)`` may be named but
not called.
"""

from collections import OrderedDict
from typing import Any

from resnext.errors import RequestError
from resnext.weights.readers.pickle import values
from resnext.weights.readers.pickle.values import AllowedName, Budget, LongString, Make, Record, describe, escape_name

UNSUPPORTED_TENSORS = {
    "a quantized tensor": "_rebuild_qtensor",
    "a sparse tensor": "_rebuild_sparse_tensor _rebuild_sparse_csr_tensor",
    "a nested tensor": "_rebuild_nested_tensor",
    "a meta tensor, which has no data": "_rebuild_meta_tensor_no_storage",
    "a tensor of a subclass": "_rebuild_wrapper_subclass _rebuild_from_type_v2",
    "a tensor of a special device": "_rebuild_device_tensor_from_numpy _rebuild_xla_tensor",
    "a tensor of an unusual dtype": "_rebuild_tensor_v3",
    "a fake tensor, which has no data": "FakeTensor",
    "complex numbers": "ComplexFloatStorage ComplexDoubleStorage",
    "quantized numbers": "QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage QUInt2x4Storage",
}
MODEL_MODULES = ("torch.nn.modules.", "torch.nn.parallel.", "torchvision.models.", "timm.models.", "timm.layers.")
PATH_CLASSES = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")


def describe_refused(dotted: str) -> str:
    """Make the error message for a name that is not allowed."""
    name = dotted.rsplit(".", 1)[-1]
    for what, names in UNSUPPORTED_TENSORS.items():
        if dotted.startswith("torch.") and name in names.split():
            return f"refers to {escape_name(dotted)}: {what}, not supported; save plain dense tensors"
    sentence = f"refers to {escape_name(dotted)}, which is not data; nothing was executed"
    if dotted.startswith(MODEL_MODULES) or name[:1].isupper():
        sentence += "; if a whole model or trainer was pickled, save model.state_dict() with the program that made it"
    return sentence


def _make_dict(arguments: tuple[Any, ...], budget: Budget) -> dict[Any, Any]:
    return dict(_list_entries(arguments, budget))


def _make_default_dict(arguments: tuple[Any, ...], budget: Budget) -> Any:
    if arguments and not (arguments[0] is None or isinstance(arguments[0], AllowedName)):
        raise RequestError(f"has a defaultdict of {describe(arguments[0])}")
    return dict(_list_entries(arguments[1:], budget))


def _list_entries(arguments: tuple[Any, ...], budget: Budget) -> list[tuple[Any, Any]]:
    """List keys and values of a dict or, as Python 2 writes an OrderedDict, of a list of pairs."""
    match arguments:
        case ():
            return []
        case (dict() as table,):
            budget.charge(values.ENTRY_BYTES * len(table))
            return list(table.items())
        case (list() as pairs,):
            budget.charge(values.ENTRY_BYTES * len(pairs))
            if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
                raise RequestError("has a dict made from a list that has something else than pairs")
            return [(budget.check_key(key), value) for key, value in pairs]
    raise RequestError("has a dict made from something else than a dict or pairs")


def _list_members(arguments: tuple[Any, ...], budget: Budget) -> Any:
    match arguments:
        case ():
            return ()
        case (list() | tuple() | set() | frozenset() as members,):
            budget.charge(values.ENTRY_BYTES * len(members))
            return members
    raise RequestError("has a set or list made from something else than a list")


def _make_set(arguments: tuple[Any, ...], budget: Budget) -> set[Any]:
    return {budget.check_key(member) for member in _list_members(arguments, budget)}


def _make_complex(arguments: tuple[Any, ...], budget: Budget) -> Any:  # noqa: ARG001
    match arguments:
        case (float() as real, float() as imaginary):
            return complex(real, imaginary)
    raise RequestError("has a malformed complex number")


def _apply_codecs_encode(arguments: tuple[Any, ...], budget: Budget) -> Any:
    """Handle ``_codecs.encode``: bytes that were written as text, one character each."""
    match arguments:
        case (str() | LongString() as text, "latin1" | "latin-1"):
            budget.charge(text.length if isinstance(text, LongString) else len(text))
            data = encode_latin1(text)
            return data if len(data) < values.LONG_STRING_BYTES else values.make_long_string(data, "bytes")
    raise RequestError("calls _codecs.encode for something else than bytes")


def _make_bytes(arguments: tuple[Any, ...], budget: Budget) -> Any:  # noqa: ARG001
    if arguments:
        raise RequestError("calls bytes() with arguments, which is not supported")
    return b""


def _make_bytearray(arguments: tuple[Any, ...], budget: Budget) -> Any:
    match arguments:
        case ():
            return bytearray()
        case (bytes() | LongString() as data,):
            pass
        case (str() | LongString(), "latin-1" | "latin1"):
            data = _apply_codecs_encode(arguments, budget)
        case _:
            raise RequestError("makes a bytearray from something else than bytes")
    if isinstance(data, LongString):
        return LongString(data.file, data.offset, data.length, "bytearray")
    budget.charge(len(data))
    return bytearray(data)


def _make_path(arguments: tuple[Any, ...], budget: Budget) -> str:
    if not all(type(part) is str for part in arguments):
        raise RequestError("has a path whose parts are not text")
    budget.charge(sum(len(part) + 1 for part in arguments))
    return "/".join(arguments).replace("//", "/", 1) if arguments else "."


def _reconstruct(arguments: tuple[Any, ...], budget: Budget) -> Any:  # noqa: ARG001
    match arguments:
        case (AllowedName(name=name), AllowedName(name="object"), None) if name in RECORD_CLASSES:
            return Record()
    raise RequestError("calls copy_reg._reconstructor for an object that is not a dict of attributes")


def encode_latin1(text: "str | LongString") -> bytes:
    """Convert text back to the bytes it was made from, one character each."""
    found = text.resolve() if isinstance(text, LongString) else text
    if not isinstance(found, str):
        return bytes(found)
    try:
        return found.encode("latin-1")
    except UnicodeEncodeError:
        raise RequestError("has bytes written as text, with characters that are not latin-1") from None


RECORD_CLASSES = (
    "argparse.Namespace",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
_BUILTINS: dict[str, Make | None] = {
    "set": _make_set,
    "frozenset": lambda arguments, budget: frozenset(_make_set(arguments, budget)),
    "list": lambda arguments, budget: list(_list_members(arguments, budget)),
    "dict": _make_dict,
    "complex": _make_complex,
    "bytearray": _make_bytearray,
    "bytes": _make_bytes,
    **dict.fromkeys(("object", "int", "float", "str", "bool")),
}
_CONSTRUCTORS: dict[str, Make] = {
    "collections.OrderedDict": lambda arguments, budget: OrderedDict(_list_entries(arguments, budget)),
    "collections.defaultdict": _make_default_dict,
    "collections.Counter": _make_dict,
    "_codecs.encode": _apply_codecs_encode,
    **dict.fromkeys(RECORD_CLASSES, lambda arguments, budget: Record(_list_entries(arguments, budget))),
    **{f"{module}.{name}": _make_path for module in ("pathlib", "pathlib._local") for name in PATH_CLASSES},
    **dict.fromkeys(("copyreg._reconstructor", "copy_reg._reconstructor"), _reconstruct),
}
ALLOWED_NAMES: dict[str, Any] = {name: AllowedName(name, make) for name, make in _CONSTRUCTORS.items()} | {
    f"{module}.{name}": AllowedName(name, make)
    for module in ("builtins", "__builtin__")
    for name, make in _BUILTINS.items()
}
