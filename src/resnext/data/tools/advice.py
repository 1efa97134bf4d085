"""What to do about a data set before training on it: unreadable and double pictures, unequal and small classes."""

from collections.abc import Iterator, Mapping, Sequence

from resnext.data.classes import format_remainder, quote_names
from resnext.data.tools.findings import Finding, pluralize

IMBALANCE = 10  # pictures of the largest class for one of the smallest, from which on the classes are too unequal
FEW_PICTURES = 20  # of a class, below which a class is too small
GOOD_COUNT = 50
MAX_NAMED = 5
LAYOUT_PROBLEMS = ("empty class", "class missing in a split", "one class", "layout")
PROBLEM_ADVICE = {
    "duplicate across splits": "are in more than one split, so part of the result is memory: remove them from one",
    "near-duplicate across splits": "look like one in another split: if they show the same, keep them on one side",
    "one image, two classes": "are in two classes, so one label is wrong: remove the wrong one",
    "near-duplicate in two classes": "look like one of another class: see which label is right",
}


def list_class_advice(counts: Mapping[str, int], *, is_balanced: bool = False) -> Iterator[str]:
    """List what to do about classes with fewer than FEW_PICTURES pictures, or a tenth of those of the largest class.

    Args:
        counts: Training pictures of each class.
        is_balanced: Whether training shows all classes equally often already.
    """
    filled = sorted(((count, name) for name, count in counts.items() if count), key=lambda pair: pair[0])
    if not filled:
        return
    (least, smallest), (most, largest) = filled[0], filled[-1]
    rare = [name for count, name in filled if count * IMBALANCE <= most]
    if rare:
        who = smallest if len(rare) == 1 else f"these {len(rare)} classes"
        others = "" if len(rare) == 1 else f" and {len(rare) - 1} others at most a tenth"
        verdict = f"know {who} least well" if is_balanced else f"rarely answer {who}"
        yield (
            f"{largest} has {pluralize(most, 'picture')}, {smallest} only {least}{others}: the model will {verdict}; "
            "more pictures help most"
            + ("" if is_balanced else ", and --data.sampling balanced or --data.class_weights balanced helps too")
        )
    few = [f"{name} ({count})" for count, name in filled if count < FEW_PICTURES]
    usable = f"{GOOD_COUNT} or more of each class give a usable model"
    if len(few) == 1 and not rare:
        yield f"{smallest} has only {pluralize(least, 'picture')}; {usable}"
    elif len(few) > 1:
        named = ", ".join(few[:MAX_NAMED]) + format_remainder(few)
        yield f"{len(few)} classes have fewer than {FEW_PICTURES} pictures, {named}; {usable}"


def list_finding_advice(findings: Sequence[Finding]) -> Iterator[str]:
    """List what to do about the findings on files, the most important first."""
    errors = {f.path for f in findings if f.severity == "error" and f.problem not in LAYOUT_PROBLEMS and f.path}
    if errors:
        yield (
            f"{pluralize(len(errors), 'picture')} cannot be read, such as {quote_names(sorted(errors)[:1])}: mend or "
            "remove what the findings name, or train without them by --data.on_bad_image skip"
        )
    for problem, advice in PROBLEM_ADVICE.items():
        paths = sorted({f.path for f in findings if f.problem == problem})
        if paths:
            yield f"{pluralize(len(paths), 'picture')}, such as {quote_names(paths[:1])}, {advice}"
