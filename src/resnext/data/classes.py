"""Class names are part of the data: wherever two lists of them must be the same list, and where they differ."""

from collections.abc import Sequence

from resnext.errors import RequestError

SHOWN = 5  # differences that a message spells out


def compare_classes(model_classes: Sequence[str], data_classes: Sequence[str], what: str) -> None:
    """Raise RequestError unless both lists are equal in count, names and order; ``what`` names the data."""
    difference = class_difference(model_classes, data_classes, "the model", what)
    if difference:
        raise RequestError(f"the classes of the model and of {what} differ: {difference}")


def class_difference(first: Sequence[str], second: Sequence[str], first_name: str, second_name: str) -> str:
    """A clause that shows two class lists where they differ; empty when they are the same list."""
    first, second = list(first), list(second)
    if first == second:
        return ""
    parts = []
    if len(first) != len(second):
        parts.append(f"{first_name} has {len(first)} and {second_name} {len(second)}")
    known, found = set(first), set(second)
    only_first = [name for name in first if name not in found]
    only_second = [name for name in second if name not in known]
    if only_first:
        parts.append(f"only {first_name} has {listing(only_first)}")
    if only_second:
        parts.append(f"only {second_name} has {listing(only_second)}")
    moved = [i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b]
    if moved and not (only_first or only_second):
        places = [f"class {i} is {first[i]!r} in {first_name} but {second[i]!r} in {second_name}" for i in moved]
        parts.append("the order differs: " + ", ".join(places[:SHOWN]) + more(places))
    elif moved:
        i = moved[0]
        parts.append(f"the first difference is class {i}: {first[i]!r} against {second[i]!r}")
    return "; ".join(parts)


def listing(names: Sequence[str]) -> str:
    """The first few names in quotes, and how many more there are."""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more(names)


def more(items: Sequence[str]) -> str:
    return f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
