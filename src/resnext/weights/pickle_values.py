"""What stands between a pickle's instructions and plain values: names, places in the file, and the last look at all.

A pickle builds from the inside out, so a value may be named before its numbers are known. A ``Shell`` stands in its
place, and ``settled`` puts the values in once the whole program has been read and found harmless.
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from resnext.errors import RequestError

DEEPEST = 100  # tables inside tables; checkpoints have less than ten
LARGEST_UNFOLDED = 10_000_000  # values, each counted as often as it is reached
LONG = 4096  # bytes; longer strings stay in the file until they are needed
SMALL_INT = 2**20  # whole numbers below it do not collide in a table
MOST_NUMBER_KEYS = 10_000  # other numbers and tuples: their hashes can be made to collide, which takes quadratic time
SPARE = 16 << 20  # bytes that a pickle may take beyond twice its size
ENTRY = 100  # bytes of one entry of a table or set, roughly


class Shell:
    """What a pickle holds on the way: never part of the final value."""

    __slots__ = ()

    def build(self, state: Any, meter: "Meter") -> None:  # noqa: ARG002
        """BUILD, the instruction that sets an object's state; most things here have none."""
        raise RequestError(f"sets the state of {described(self)}, which has none")

    def settle(self) -> Any:
        """The plain value; where there is none, RequestError."""
        raise RequestError(f"holds {described(self)} where data was expected")


class Meter:
    """What one pickle may take: copies are paid for by the file's size, and keys that can collide are counted."""

    def __init__(self, size: int) -> None:
        self.left = 2 * size + SPARE
        self.number_keys = 0

    def charge(self, count: int) -> None:
        """Take ``count`` bytes, before they are allocated."""
        self.left -= count
        if self.left < 0:
            raise RequestError("copies its own parts until they outgrow the file many times over")

    def new_set(self) -> set[Any]:
        """An empty set, which takes far more than its instruction."""
        self.charge(ENTRY)
        return set()

    def key(self, value: Any) -> Any:
        """A key of a table or a member of a set: text, bytes, number, None, or a short tuple of those."""
        if type(value) in (str, bytes, bool, type(None)) or (type(value) is int and 0 <= value < SMALL_INT):
            return value
        if type(value) is tuple and len(value) <= 16 and all(type(item) is not tuple for item in value):
            for item in value:
                self.key(item)
        elif type(value) not in (int, float):
            raise RequestError(f"has {described(value)} as a key, expected text, a number or a short tuple of them")
        self.number_keys += 1
        if self.number_keys > MOST_NUMBER_KEYS:
            raise RequestError(f"has more than {MOST_NUMBER_KEYS:,} keys that are not text")
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Named(Shell):
    """A dotted name out of the allow-list and, if it may be called, our own function for it."""

    name: str
    make: Callable[[tuple[Any, ...], Meter], Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Payload(Shell):
    """A long string that was left where it lies: ``kind`` is bytes, bytearray, latin1 (Python 2's str) or utf8."""

    file: IO[bytes]
    offset: int
    length: int
    kind: str

    def read(self) -> bytearray:
        """A fresh copy of its bytes."""
        data = bytearray(self.length)
        self.read_into(memoryview(data))
        return data

    def read_into(self, buffer: memoryview) -> None:
        """Its bytes into ``buffer``, which has their length; whoever reads the file goes on where it was."""
        back = self.file.tell()
        self.file.seek(self.offset)
        fill(self.file, buffer)
        self.file.seek(back)

    def settle(self) -> bytes | bytearray | str:
        data = self.read()
        if self.kind == "utf8":
            return text(data)
        if self.kind == "latin1":
            return data.decode("latin-1")
        return data if self.kind == "bytearray" else bytes(data)


class Record(dict[str, Any]):
    """The attributes of an object such as argparse.Namespace, without the object."""

    def build(self, state: Any, meter: Meter) -> None:
        if not isinstance(state, dict):
            raise RequestError(f"sets attributes from {described(state)}, expected a table")
        meter.charge(ENTRY * len(state))
        for key, value in state.items():
            self[meter.key(key)] = value


def payload(data: bytes, kind: str) -> Payload:
    """A long string that had to be decoded first."""
    return Payload(io.BytesIO(data), 0, len(data), kind)


def fill(file: IO[bytes], buffer: memoryview) -> None:
    """Read until ``buffer`` is full. Raises RequestError where the file ends before."""
    at = 0
    while at < len(buffer):
        count = file.readinto(buffer[at:])  # type: ignore[attr-defined]
        if not count:
            raise RequestError(f"ends {len(buffer) - at:,} bytes too early")
        at += count


def text(data: bytes | bytearray) -> str:
    """UTF-8 as pickle writes it."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise RequestError("has text that is not UTF-8") from None


def described(value: Any) -> str:
    """A word for a value in an error: never its contents, which may be endless."""
    if isinstance(value, Named):
        return shown(value.name)
    if isinstance(value, Payload):
        return f"a long string ({value.kind})"
    return f"a value of type {type(value).__name__}"


def shown(name: str) -> str:
    """A name out of a file, made fit for one line of a terminal."""
    return name[:120].encode("unicode_escape", "backslashreplace").decode("ascii") + ("..." if len(name) > 120 else "")


class _Done(NamedTuple):
    original: Any  # kept, so that its id is not given to another
    value: Any
    depth: int
    unfolded: int


def settled(root: Any) -> Any:
    """``root`` with every Shell replaced by its value: lists and tables in place, tuples anew.

    Whoever gets the result may walk it by recursion: it has no cycle, is at most DEEPEST deep and not endless through
    parts that are shared over and over. Raises RequestError for what is, and for what is no data.
    """
    done: dict[int, _Done] = {}
    opened: set[int] = set()  # not yet done: exactly the way from the root to the current node
    todo = [root]
    while todo:
        node = todo[-1]
        if not _is_compound(node) or id(node) in done:
            todo.pop()
        elif id(node) in opened:
            todo.pop()
            opened.remove(id(node))
            done[id(node)] = _finished(node, done)
        else:
            opened.add(id(node))
            _check_depth(len(opened))
            inside = [child for child in _children(node) if _is_compound(child) and id(child) not in done]
            if any(id(child) in opened for child in inside):
                raise RequestError("holds a table or list that contains itself")
            todo.extend(inside)
    return done[id(root)].value if id(root) in done else root


def _check_depth(depth: int) -> None:
    if depth > DEEPEST:
        raise RequestError(f"nests tables and lists more than {DEEPEST} deep")


def _is_compound(node: Any) -> bool:
    """Whether there is something to settle: not in what is empty."""
    return isinstance(node, Shell) or (type(node) in (list, tuple, dict, OrderedDict, Record) and len(node) > 0)


def _children(node: Any) -> Any:
    if isinstance(node, dict):
        return node.values()
    return () if isinstance(node, Shell) else node


def _finished(node: Any, done: dict[int, _Done]) -> _Done:
    """``node`` after all its children."""
    if isinstance(node, Shell):
        return _Done(node, node.settle(), 0, 1)
    children = list(_children(node))
    parts = [done.get(id(child)) for child in children]  # None where there was nothing to settle
    depth = 1 + max((part.depth for part in parts if part), default=0)
    unfolded = 1 + sum(part.unfolded if part else 1 for part in parts)
    _check_depth(depth)
    if unfolded > LARGEST_UNFOLDED:
        raise RequestError(f"shares its parts so often that it unfolds into more than {LARGEST_UNFOLDED:,} values")
    values = [part.value if part else child for part, child in zip(parts, children, strict=True)]
    if isinstance(node, tuple):
        return _Done(node, tuple(values), depth, unfolded)
    if isinstance(node, list):
        node[:] = values
    else:
        node.update(zip(node, values, strict=True))
    return _Done(node, node, depth, unfolded)
