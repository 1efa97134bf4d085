"""Interpret pickles safely: an interpreter of their instructions that can only make plain values.

A pickle is a program for a small stack machine. Python's unpickler calls whatever the program names. This one has a
list of allowed names, each with a pure function of ours (``allowed.py``, ``numpy_arrays.py``, ``torch_tensors.py``),
and refuses every other name. No module is imported, no attribute is looked up, nothing is executed, and no option
changes that.

It is not a subclass of ``pickle.Unpickler``, because there one instruction can make the memo allocate gigabytes, and
nested tuples as a dict key hang in hashing, as in ``torch.load(weights_only=True)``. Here the memory is bounded by the
size of the file, and the time by the number of instructions.

Protocols 0 to 5 are supported, except extension codes, out-of-band buffers and persistent ids in text. A ``str`` of
Python 2 is read as latin-1 text, unless it is the data of an array.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from resnext.errors import RequestError
from resnext.weights.pickle_names import refused
from resnext.weights.pickle_stream import (
    LONGEST_NUMBER,
    Stream,
    escaped_text,
    int_or_bool,
    quoted_string,
    real_number,
    whole_number,
)
from resnext.weights.pickle_values import Meter, Named, Record, Shell, described, shown

MOST_INSTRUCTIONS = 2**20  # weights files have a few thousand
LONGEST_NAME = 256
NEWEST_PROTOCOL = 5

Persistent = Callable[[Any], Any]


def interpret(stream: Stream, names: Mapping[str, Any], persistent: Persistent | None = None) -> Any:
    """Interpret the pickle at the position of ``stream``, which is then at the pickle's end.

    The result may have placeholders, which ``resolve`` replaces. ``names`` are the dotted names the pickle may use,
    each with an ``AllowedName`` or the value itself. ``persistent`` returns the value of a persistent id, such as
    torch's storages. Error messages do not include the path.
    """
    return _Machine(stream, names, persistent).run()


class _Machine:
    """The stack machine: the current stack, the stacks below the marks, and the memo.

    Most methods are one pickle instruction; the comments in ``pickletools.py`` describe each.
    """

    def __init__(self, stream: Stream, names: Mapping[str, Any], persistent: Persistent | None) -> None:
        self.stream, self.names, self.persistent = stream, names, persistent
        self.meter = Meter(stream.end - stream.position)
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Run until STOP, and return the top of the stack."""
        for _ in range(MOST_INSTRUCTIONS):
            code = self.stream.take(1)
            if code == b".":
                return self.pop()
            action = ACTIONS.get(code)
            if action is None:
                what = REFUSED.get(code, f"0x{code.hex()}, which is not a pickle instruction,")
                raise RequestError(f"has {what} at byte {self.stream.position - 1:,}")
            action(self)
        raise RequestError(f"is a pickle of more than {MOST_INSTRUCTIONS:,} instructions")

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
            raise RequestError(f"adds to {described(self.stack[-1])} as if it were a {kind.__name__}")
        return self.stack[-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        if not self.below:
            raise RequestError("is a broken pickle: it goes back to a mark that was never set")
        items, self.stack = self.stack, self.below.pop()
        return items

    def discard(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    # the memo

    def remember(self, index: int) -> None:
        if not 0 <= index < MOST_INSTRUCTIONS:
            raise RequestError(f"uses memo number {index:,}, which is larger than the number of values it can have")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise RequestError("is a broken pickle: it gets a value from the memo that was never stored")
        self.push(self.memo[index])

    # lists, dicts and sets

    def tuple_of(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def append_all(self) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def add_all(self) -> None:
        items = self.since_mark()
        self.top(set).update(self.meter.key(item) for item in items)

    def frozen_set(self) -> None:
        members = self.meter.new_set()
        members.update(self.meter.key(item) for item in self.since_mark())
        self.push(frozenset(members))

    def set_items(self, items: list[Any]) -> None:
        table = self.top()
        if type(table) not in (dict, OrderedDict, Record):
            raise RequestError(f"sets a key of {described(table)}")
        if len(items) % 2:
            raise RequestError("is a broken pickle: it sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            table[self.meter.key(key)] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def dictionary(self) -> None:
        items = self.since_mark()
        self.push({})
        self.set_items(items)

    # names and what is made from them

    def named(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise RequestError("refers to a name that is not text")
        dotted = f"{module}.{name}"
        if dotted not in self.names:
            raise RequestError(refused(dotted))
        self.push(self.names[dotted])

    def global_name(self) -> None:
        self.named(*(_name(self.stream.line(LONGEST_NAME)) for _ in range(2)))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.named(module, name)

    def make(self, named: Any, arguments: Any) -> None:
        if type(named) is not Named or named.make is None:
            raise RequestError(f"calls {described(named)}, which cannot be called; nothing was executed")
        if type(arguments) is not tuple:
            raise RequestError(f"calls {shown(named.name)} with {described(arguments)}, expected a tuple")
        self.push(named.make(arguments, self.meter))

    def reduce(self) -> None:
        arguments, named = self.pop(), self.pop()
        self.make(named, arguments)

    def new_object_by_keywords(self) -> None:
        keywords, arguments, named = self.pop(), self.pop(), self.pop()
        if type(keywords) is not dict or keywords:
            raise RequestError(f"makes {described(named)} with keyword arguments, which is not supported")
        self.make(named, arguments)

    def instance(self) -> None:
        self.global_name()
        named = self.pop()
        self.make(named, tuple(self.since_mark()))

    def object(self) -> None:
        items = self.since_mark()
        if not items:
            raise RequestError("is a broken pickle: it makes an object without a class")
        self.make(items[0], tuple(items[1:]))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Shell | Record):
            target.build(state, self.meter)
        elif type(target) is not OrderedDict or not isinstance(state, dict):  # a state dict's metadata are ignored
            raise RequestError(f"sets the state of {described(target)}, which has none")

    def persistent_value(self) -> None:
        if self.persistent is None:
            raise RequestError("has a persistent id, which refers to a value outside of the pickle")
        self.push(self.persistent(self.pop()))

    # single values

    def protocol(self) -> None:
        version = self.stream.number("<B")
        if version > NEWEST_PROTOCOL:
            raise RequestError(f"is a pickle of protocol {version}; supported are 0 to {NEWEST_PROTOCOL}")

    def long(self, count: int) -> None:
        if not 0 <= count <= LONGEST_NUMBER:
            raise RequestError(f"has a whole number of {count:,} bytes; at most {LONGEST_NUMBER:,} are supported")
        self.push(int.from_bytes(self.stream.take(count), "little", signed=True))

    def string(self, layout: str, kind: str) -> None:
        count = self.stream.number(layout)
        if count < 0:
            raise RequestError(f"has a string of {count:,} bytes")
        self.push(self.stream.string(count, kind))


def _name(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("refers to a name that is not text") from None


REFUSED = {
    b"P": "a persistent id in text, which torch never writes,",
    b"\x82": "an extension code, which is not supported,",
    b"\x83": "an extension code, which is not supported,",
    b"\x84": "an extension code, which is not supported,",
    b"\x97": "a buffer outside of the file",
    b"\x98": "a buffer outside of the file",
}

ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": lambda m: m.stream.number("<Q"),  # a frame length is only a hint how much to read at once
    # the stack and the memo
    b"(": _Machine.mark,
    b"0": _Machine.discard,
    b"1": lambda m: m.since_mark().clear(),
    b"2": lambda m: m.push(m.top()),
    b"p": lambda m: m.remember(whole_number(m.stream.line(LONGEST_NUMBER))),
    b"q": lambda m: m.remember(m.stream.number("<B")),
    b"r": lambda m: m.remember(m.stream.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.recall(whole_number(m.stream.line(LONGEST_NUMBER))),
    b"h": lambda m: m.recall(m.stream.number("<B")),
    b"j": lambda m: m.recall(m.stream.number("<I")),
    # single values
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(int_or_bool(m.stream.line(LONGEST_NUMBER))),
    b"L": lambda m: m.push(whole_number(m.stream.line(LONGEST_NUMBER))),
    b"J": lambda m: m.push(m.stream.number("<i")),
    b"K": lambda m: m.push(m.stream.number("<B")),
    b"M": lambda m: m.push(m.stream.number("<H")),
    b"\x8a": lambda m: m.long(m.stream.number("<B")),
    b"\x8b": lambda m: m.long(m.stream.number("<i")),
    b"F": lambda m: m.push(real_number(m.stream.line(LONGEST_NUMBER))),
    b"G": lambda m: m.push(m.stream.number(">d")),
    # strings
    b"S": lambda m: m.push(quoted_string(m.stream.line())),
    b"T": lambda m: m.string("<i", "latin1"),
    b"U": lambda m: m.string("<B", "latin1"),
    b"V": lambda m: m.push(escaped_text(m.stream.line())),
    b"X": lambda m: m.string("<I", "utf8"),
    b"\x8c": lambda m: m.string("<B", "utf8"),
    b"\x8d": lambda m: m.string("<Q", "utf8"),
    b"B": lambda m: m.string("<I", "bytes"),
    b"C": lambda m: m.string("<B", "bytes"),
    b"\x8e": lambda m: m.string("<Q", "bytes"),
    b"\x96": lambda m: m.string("<Q", "bytearray"),
    # lists, tuples, dicts and sets
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.since_mark()),
    b"a": _Machine.append,
    b"e": _Machine.append_all,
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"}": lambda m: m.push({}),
    b"d": _Machine.dictionary,
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.since_mark()),
    b"\x8f": lambda m: m.push(m.meter.new_set()),
    b"\x90": _Machine.add_all,
    b"\x91": _Machine.frozen_set,
    # names
    b"c": _Machine.global_name,
    b"\x93": _Machine.stack_name,
    b"R": _Machine.reduce,
    b"\x81": _Machine.reduce,  # NEWOBJ: a class and its arguments
    b"\x92": _Machine.new_object_by_keywords,
    b"i": _Machine.instance,
    b"o": _Machine.object,
    b"b": _Machine.build,
    b"Q": _Machine.persistent_value,
}
