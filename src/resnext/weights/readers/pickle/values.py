"""Placeholders that a pickle's instructions make, and the step that replaces them by plain values.

A pickle may refer to a value before its data are known. A ``Placeholder`` then takes its place. ``resolve`` replaces
all placeholders after the whole pickle was read and found harmless.
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from resnext.errors import RequestError

MAX_DEPTH = 100  # dicts inside dicts; checkpoints have less than ten
MAX_EXPANDED_VALUES = 10_000_000  # values, each counted as often as it is reached
LONG_STRING_BYTES = 4096  # bytes; longer strings stay in the file until they are needed
SMALL_INT_LIMIT = 2**20  # hashes of whole numbers below it do not collide
MAX_NUMBER_KEYS = 10_000  # other numbers and tuples: a hostile file can make hashes collide, which takes quadratic time
BUDGET_ALLOWANCE = 16 << 20  # bytes that a pickle may take beyond twice its size
ENTRY_BYTES = 100  # bytes of one entry of a dict or set, roughly


class Placeholder:
    """A value that is not complete yet; never part of the final result."""

    __slots__ = ()

    def build(self, state: Any, budget: "Budget") -> None:  # noqa: ARG002
        """Handle BUILD, the instruction that sets an object's state. By default an error."""
        raise RequestError(f"sets the state of {describe(self)}, which has none")

    def resolve(self) -> Any:
        """Return the plain value. By default an error."""
        raise RequestError(f"holds {describe(self)} where data was expected")


class Budget:
    """The limits of one pickle: memory in proportion to the file's size, and the number of keys that can collide."""

    def __init__(self, size: int) -> None:
        self.bytes_left = 2 * size + BUDGET_ALLOWANCE
        self.number_keys = 0

    def charge(self, count: int) -> None:
        """Subtract ``count`` bytes from the budget, before they are allocated."""
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise RequestError("needs far more memory than the size of the file, as it copies its own parts")

    def new_set(self) -> set[Any]:
        """Make an empty set, and charge for its memory."""
        self.charge(ENTRY_BYTES)
        return set()

    def check_key(self, value: Any) -> Any:
        """Check and return a dict key or set member: text, bytes, a number, None, or a short tuple of those."""
        if type(value) in (str, bytes, bool, type(None)) or (type(value) is int and 0 <= value < SMALL_INT_LIMIT):
            return value
        if type(value) is tuple and len(value) <= 16 and all(type(item) is not tuple for item in value):
            for item in value:
                self.check_key(item)
        elif type(value) not in (int, float):
            raise RequestError(f"has {describe(value)} as a key, expected text, a number or a short tuple of them")
        self.number_keys += 1
        if self.number_keys > MAX_NUMBER_KEYS:
            raise RequestError(f"has more than {MAX_NUMBER_KEYS:,} keys that are not text")
        return value


Make = Callable[[tuple[Any, ...], Budget], Any]  # makes a value from the arguments in the pickle


@dataclass(frozen=True, slots=True, eq=False)
class AllowedName(Placeholder):
    """An allowed dotted name and, if it may be called, our function for it."""

    name: str
    make: Make | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LongString(Placeholder):
    """A long string that is still in the file; ``kind`` is bytes, bytearray, latin1 (Python 2's str) or utf8."""

    file: IO[bytes]
    offset: int
    length: int
    kind: str

    def read_into(self, buffer: memoryview) -> None:
        """Read the bytes into ``buffer``, which has their length; the position of the file does not change."""
        back = self.file.tell()
        self.file.seek(self.offset)
        read_exactly(self.file, buffer)
        self.file.seek(back)

    def resolve(self) -> bytes | bytearray | str:
        """Read the string as the type that ``kind`` names."""
        data = bytearray(self.length)
        self.read_into(memoryview(data))
        return data if self.kind == "bytearray" else decode_string(data, self.kind)


class Record(dict[str, Any]):
    """The attributes of an object such as argparse.Namespace, without the object."""

    def build(self, state: Any, budget: Budget) -> None:
        """Add the attributes in ``state``."""
        if not isinstance(state, dict):
            raise RequestError(f"sets attributes from {describe(state)}, expected a dict")
        budget.charge(ENTRY_BYTES * len(state))
        for key, value in state.items():
            self[budget.check_key(key)] = value


def make_long_string(data: bytes, kind: str) -> LongString:
    """Make a LongString from bytes in memory."""
    return LongString(io.BytesIO(data), 0, len(data), kind)


def read_exactly(file: IO[bytes], buffer: memoryview) -> None:
    """Read until ``buffer`` is full. Raises RequestError if the file ends before."""
    at = 0
    while at < len(buffer):
        count = file.readinto(buffer[at:])  # type: ignore[attr-defined]
        if not count:
            raise RequestError(f"ends {len(buffer) - at:,} bytes too early")
        at += count


def decode_string(data: bytes | bytearray, kind: str) -> Any:
    """Convert the bytes of a string to the type that ``kind`` names (see ``LongString``)."""
    if kind == "latin1":
        return data.decode("latin-1")
    if kind != "utf8":
        return bytearray(data) if kind == "bytearray" else bytes(data)
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise RequestError("has text that is not UTF-8") from None


def describe(value: Any) -> str:
    """Describe a value in an error message by its type; its content may be too long."""
    if isinstance(value, AllowedName):
        return escape_name(value.name)
    if isinstance(value, LongString):
        return f"a long string ({value.kind})"
    return f"a value of type {type(value).__name__}"


def escape_name(name: str) -> str:
    """Escape and shorten a name from a file, so that it fits on one line of a terminal."""
    return name[:120].encode("unicode_escape", "backslashreplace").decode("ascii") + ("..." if len(name) > 120 else "")


class _Resolved(NamedTuple):
    original: Any  # kept, so that its id is not given to another
    value: Any
    depth: int
    expanded: int


def resolve(root: Any) -> Any:
    """Replace every Placeholder in ``root`` by its value. Lists and dicts are changed in place, tuples are new.

    The result is safe to walk by recursion: it has no cycle, is at most MAX_DEPTH deep, and has at most
    MAX_EXPANDED_VALUES values if shared parts are counted each time. Raises RequestError otherwise.
    """
    done: dict[int, _Resolved] = {}
    opened: set[int] = set()  # the path from the root to the current node
    todo = [root]
    while todo:
        node = todo[-1]
        if not _is_compound(node) or id(node) in done:
            todo.pop()
        elif id(node) in opened:
            todo.pop()
            opened.remove(id(node))
            done[id(node)] = _resolve_node(node, done)
        else:
            opened.add(id(node))
            _check_depth(len(opened))
            inside = [child for child in _get_children(node) if _is_compound(child) and id(child) not in done]
            if any(id(child) in opened for child in inside):
                raise RequestError("has a dict or list that contains itself")
            todo.extend(inside)
    return done[id(root)].value if id(root) in done else root


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RequestError(f"nests dicts and lists more than {MAX_DEPTH} deep")


def _is_compound(node: Any) -> bool:
    """Return whether the node may have something to resolve."""
    return isinstance(node, Placeholder) or (type(node) in (list, tuple, dict, OrderedDict, Record) and len(node) > 0)


def _get_children(node: Any) -> Any:
    if isinstance(node, dict):
        return node.values()
    return () if isinstance(node, Placeholder) else node


def _resolve_node(node: Any, done: dict[int, _Resolved]) -> _Resolved:
    """Resolve a node whose children are all resolved."""
    if isinstance(node, Placeholder):
        return _Resolved(node, node.resolve(), 0, 1)
    children = list(_get_children(node))
    parts = [done.get(id(child)) for child in children]  # None if there was nothing to resolve
    depth = 1 + max((part.depth for part in parts if part), default=0)
    unfolded = 1 + sum(part.expanded if part else 1 for part in parts)
    _check_depth(depth)
    if unfolded > MAX_EXPANDED_VALUES:
        raise RequestError(f"shares its parts so often that it expands to more than {MAX_EXPANDED_VALUES:,} values")
    values = [part.value if part else child for part, child in zip(parts, children, strict=True)]
    if isinstance(node, tuple):
        return _Resolved(node, tuple(values), depth, unfolded)
    if isinstance(node, list):
        node[:] = values
    else:
        node.update(zip(node, values, strict=True))
    return _Resolved(node, node, depth, unfolded)
