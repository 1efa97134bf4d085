"""Interpret pickles safely: an interpreter of their instructions that can only make plain values.

A pickle is a program for a small stack machine. Python's unpickler calls whatever the program names. This one has a
list of allowed names, each with a pure function of ours (``allowed.py``, ``numpy_arrays.py``, ``torch_tensors.py``),
and refuses every other name. No module is imported, no attribute is looked up, nothing is executed, and no option
changes that.

It is not a subclass of ``pickle.Unpickler``, because there one instruction can make the memo allocate gigabytes, and
nested tuples as a dict key hang in hashing, as in ``torch.load(weights_only=True)``. Here the memory is bounded by the
size of the file, and the time by the number of instructions. A ``str`` of Python 2 is read as latin-1 text.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from resnext.errors import RequestError
from resnext.weights.readers.pickle.allowed import describe_refused
from resnext.weights.readers.pickle.stream import (
    MAX_NUMBER_LENGTH,
    PickleStream,
    parse_escaped_text,
    parse_float,
    parse_int_or_bool,
    parse_integer,
    parse_quoted_string,
)
from resnext.weights.readers.pickle.values import AllowedName, Budget, Placeholder, Record, describe, escape_name

MAX_INSTRUCTIONS = 2**20  # weights files have a few thousand
MAX_NAME_LENGTH = 256
MAX_PROTOCOL = 5

PersistentLoad = Callable[[Any], Any]


def interpret(stream: PickleStream, names: Mapping[str, Any], persistent: PersistentLoad | None = None) -> Any:
    """Interpret the pickle at the position of ``stream``, which is then at the pickle's end.

    The result may have placeholders, which ``resolve`` replaces. ``names`` maps the dotted names the pickle may use to
    an ``AllowedName`` or the value itself. ``persistent`` returns the value of a persistent id (torch's storages).
    """
    return _Machine(stream, names, persistent).run()


class _Machine:
    """The stack machine. Most methods are one pickle instruction; the comments in ``pickletools.py`` describe each."""

    def __init__(self, stream: PickleStream, names: Mapping[str, Any], persistent: PersistentLoad | None) -> None:
        self.stream, self.names, self.persistent = stream, names, persistent
        self.budget = Budget(stream.end - stream.position)
        self.stack: list[Any] = []
        self.stacks_below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Run until STOP, and return the top of the stack."""
        for _ in range(MAX_INSTRUCTIONS):
            code = self.stream.take(1)
            if code == b".":
                return self.pop()
            action = INSTRUCTIONS.get(code)
            if action is None:
                what = REFUSED_INSTRUCTIONS.get(code, f"0x{code.hex()}, which is not a pickle instruction,")
                raise RequestError(f"has {what} at byte {self.stream.position - 1:,}")
            action(self)
        raise RequestError(f"is a pickle of more than {MAX_INSTRUCTIONS:,} instructions")

    # the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise RequestError("is a broken pickle: it takes a value from an empty stack")
        return self.stack.pop()

    def top(self, kind: type | None = None) -> Any:
        if not self.stack:
            raise RequestError("is a broken pickle: it changes a value on an empty stack")
        if kind is not None and type(self.stack[-1]) is not kind:
            raise RequestError(f"adds to {describe(self.stack[-1])} as if it were a {kind.__name__}")
        return self.stack[-1]

    def mark(self) -> None:
        self.stacks_below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.stacks_below:
            raise RequestError("is a broken pickle: it goes back to a mark that was never set")
        items, self.stack = self.stack, self.stacks_below.pop()
        return items

    def discard(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    # the memo

    def memoize(self, index: int) -> None:
        if not 0 <= index < MAX_INSTRUCTIONS:
            raise RequestError(f"uses memo number {index:,}, which is larger than the number of values it can have")
        self.memo[index] = self.top()

    def push_memo(self, index: int) -> None:
        if index not in self.memo:
            raise RequestError("is a broken pickle: it gets a value from the memo that was never stored")
        self.push(self.memo[index])

    # lists, dicts and sets

    def push_tuple(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def append_all(self) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def add_all(self) -> None:
        items = self.pop_mark()
        self.top(set).update(map(self.budget.check_key, items))

    def push_frozenset(self) -> None:
        members = self.budget.new_set()
        members.update(map(self.budget.check_key, self.pop_mark()))
        self.push(frozenset(members))

    def set_items(self, items: list[Any]) -> None:
        table = self.top()
        if type(table) not in (dict, OrderedDict, Record):
            raise RequestError(f"sets a key of {describe(table)}")
        if len(items) % 2:
            raise RequestError("is a broken pickle: it sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            table[self.budget.check_key(key)] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def push_dict(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    # names and what is made from them

    def push_name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise RequestError("refers to a name that is not text")
        dotted = f"{module}.{name}"
        if dotted not in self.names:
            raise RequestError(describe_refused(dotted))
        self.push(self.names[dotted])

    def push_global(self) -> None:
        self.push_name(*(_decode_name(self.stream.read_line(MAX_NAME_LENGTH)) for _ in range(2)))

    def push_stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push_name(module, name)

    def make(self, named: Any, arguments: Any) -> None:
        if type(named) is not AllowedName or named.make is None:
            raise RequestError(f"calls {describe(named)}, which cannot be called; nothing was executed")
        if type(arguments) is not tuple:
            raise RequestError(f"calls {escape_name(named.name)} with {describe(arguments)}, expected a tuple")
        self.push(named.make(arguments, self.budget))

    def reduce(self) -> None:
        arguments, named = self.pop(), self.pop()
        self.make(named, arguments)

    def make_object_by_keywords(self) -> None:
        keywords, arguments, named = self.pop(), self.pop(), self.pop()
        if type(keywords) is not dict or keywords:
            raise RequestError(f"makes {describe(named)} with keyword arguments, which is not supported")
        self.make(named, arguments)

    def make_instance(self) -> None:
        self.push_global()
        named = self.pop()
        self.make(named, tuple(self.pop_mark()))

    def make_object(self) -> None:
        items = self.pop_mark()
        if not items:
            raise RequestError("is a broken pickle: it makes an object without a class")
        self.make(items[0], tuple(items[1:]))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Placeholder | Record):
            target.build(state, self.budget)
        elif type(target) is not OrderedDict or not isinstance(state, dict):  # a state dict's metadata are ignored
            raise RequestError(f"sets the state of {describe(target)}, which has none")

    def push_persistent(self) -> None:
        if self.persistent is None:
            raise RequestError("has a persistent id, which refers to a value outside of the pickle")
        self.push(self.persistent(self.pop()))

    # single values

    def check_protocol(self) -> None:
        version = self.stream.read_number("<B")
        if version > MAX_PROTOCOL:
            raise RequestError(f"is a pickle of protocol {version}; supported are 0 to {MAX_PROTOCOL}")

    def push_long(self, count: int) -> None:
        if not 0 <= count <= MAX_NUMBER_LENGTH:
            raise RequestError(f"has a whole number of {count:,} bytes; at most {MAX_NUMBER_LENGTH:,} are supported")
        self.push(int.from_bytes(self.stream.take(count), "little", signed=True))

    def push_string(self, layout: str, kind: str) -> None:
        count = self.stream.read_number(layout)
        if count < 0:
            raise RequestError(f"has a string of {count:,} bytes")
        self.push(self.stream.read_string(count, kind))


def _decode_name(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("refers to a name that is not text") from None


REFUSED_INSTRUCTIONS = {
    b"P": "a persistent id in text, which torch never writes,",
    **dict.fromkeys((b"\x82", b"\x83", b"\x84"), "an extension code, which is not supported,"),
    **dict.fromkeys((b"\x97", b"\x98"), "a buffer outside of the file"),
}

INSTRUCTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.check_protocol,
    b"\x95": lambda m: m.stream.read_number("<Q"),  # a frame length is only a hint how much to read at once
    # the stack and the memo
    b"(": _Machine.mark,
    b"0": _Machine.discard,
    b"1": lambda m: m.pop_mark().clear(),
    b"2": lambda m: m.push(m.top()),
    b"p": lambda m: m.memoize(parse_integer(m.stream.read_line(MAX_NUMBER_LENGTH))),
    b"q": lambda m: m.memoize(m.stream.read_number("<B")),
    b"r": lambda m: m.memoize(m.stream.read_number("<I")),
    b"\x94": lambda m: m.memoize(len(m.memo)),
    b"g": lambda m: m.push_memo(parse_integer(m.stream.read_line(MAX_NUMBER_LENGTH))),
    b"h": lambda m: m.push_memo(m.stream.read_number("<B")),
    b"j": lambda m: m.push_memo(m.stream.read_number("<I")),
    # single values
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(parse_int_or_bool(m.stream.read_line(MAX_NUMBER_LENGTH))),
    b"L": lambda m: m.push(parse_integer(m.stream.read_line(MAX_NUMBER_LENGTH))),
    b"J": lambda m: m.push(m.stream.read_number("<i")),
    b"K": lambda m: m.push(m.stream.read_number("<B")),
    b"M": lambda m: m.push(m.stream.read_number("<H")),
    b"\x8a": lambda m: m.push_long(m.stream.read_number("<B")),
    b"\x8b": lambda m: m.push_long(m.stream.read_number("<i")),
    b"F": lambda m: m.push(parse_float(m.stream.read_line(MAX_NUMBER_LENGTH))),
    b"G": lambda m: m.push(m.stream.read_number(">d")),
    # strings
    b"S": lambda m: m.push(parse_quoted_string(m.stream.read_line())),
    b"T": lambda m: m.push_string("<i", "latin1"),
    b"U": lambda m: m.push_string("<B", "latin1"),
    b"V": lambda m: m.push(parse_escaped_text(m.stream.read_line())),
    b"X": lambda m: m.push_string("<I", "utf8"),
    b"\x8c": lambda m: m.push_string("<B", "utf8"),
    b"\x8d": lambda m: m.push_string("<Q", "utf8"),
    b"B": lambda m: m.push_string("<I", "bytes"),
    b"C": lambda m: m.push_string("<B", "bytes"),
    b"\x8e": lambda m: m.push_string("<Q", "bytes"),
    b"\x96": lambda m: m.push_string("<Q", "bytearray"),
    # lists, tuples, dicts and sets
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.pop_mark()),
    b"a": _Machine.append,
    b"e": _Machine.append_all,
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"}": lambda m: m.push({}),
    b"d": _Machine.push_dict,
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x8f": lambda m: m.push(m.budget.new_set()),
    b"\x90": _Machine.add_all,
    b"\x91": _Machine.push_frozenset,
    # names
    b"c": _Machine.push_global,
    b"\x93": _Machine.push_stack_global,
    b"R": _Machine.reduce,
    b"\x81": _Machine.reduce,  # NEWOBJ: a class and its arguments
    b"\x92": _Machine.make_object_by_keywords,
    b"i": _Machine.make_instance,
    b"o": _Machine.make_object,
    b"b": _Machine.build,
    b"Q": _Machine.push_persistent,
}
