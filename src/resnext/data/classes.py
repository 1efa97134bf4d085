"""Comparing lists of class names, and describing how they differ."""

from collections.abc import Sequence

from resnext.errors import RequestError

MAX_SHOWN = 5  # differences that a message spells out


def check_same_classes(model_classes: Sequence[str], data_classes: Sequence[str], what: str) -> None:
    """Raise RequestError unless both lists have the same names in the same order; ``what`` describes the data."""
    difference = describe_class_difference(model_classes, data_classes, "the model", what)
    if difference:
        raise RequestError(f"the classes of the model and of {what} differ: {difference}")


def describe_class_difference(first: Sequence[str], second: Sequence[str], first_name: str, second_name: str) -> str:
    """Return a clause on how two class lists differ, or an empty text when they are equal."""
    first, second = list(first), list(second)
    if first == second:
        return ""
    parts = []
    if len(first) != len(second):
        parts.append(f"{first_name} has {len(first)} and {second_name} {len(second)}")
    for owner, names, others in ((first_name, first, set(second)), (second_name, second, set(first))):
        alone = [name for name in names if name not in others]
        if alone:
            parts.append(f"only {owner} has {quote_names(alone)}")
    moved = [i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b]
    if moved and set(first) == set(second):
        places = [f"class {i} is {first[i]!r} in {first_name} but {second[i]!r} in {second_name}" for i in moved]
        parts.append("the order differs: " + ", ".join(places[:MAX_SHOWN]) + format_remainder(places))
    elif moved:
        i = moved[0]
        parts.append(f"the first difference is class {i}: {first[i]!r} against {second[i]!r}")
    return "; ".join(parts)


def quote_names(names: Sequence[str]) -> str:
    """Return the first few names in quotes, and how many more there are."""
    return ", ".join(repr(name) for name in names[:MAX_SHOWN]) + format_remainder(names)


def format_remainder(items: Sequence[str]) -> str:
    """Return the text "and N more" for the items beyond the first MAX_SHOWN; empty if there are none."""
    return f" and {len(items) - MAX_SHOWN} more" if len(items) > MAX_SHOWN else ""
