"""Find pictures that are there twice: with equal pixels, or looking alike in two splits or classes."""

from collections.abc import Iterator, Sequence

import numpy as np

from resnext.data.near_duplicates import find_near_duplicates
from resnext.data.tools.findings import Finding
from resnext.data.tools.inspection import MAX_COMPARED, Inspection


def find_duplicates(inspections: list[Inspection], split_unknown: bool) -> Iterator[Finding]:
    """Find images with equal pixels."""
    groups: dict[bytes, list[Inspection]] = {}
    for done in inspections:
        if done.pixel_digest:
            groups.setdefault(done.pixel_digest, []).append(done)
    for group in groups.values():
        if len(group) == 1:
            continue
        across = len({done.file.split for done in group}) > 1
        for done in group:
            others = [other for other in group if other is not done]
            if across:
                apart = [other for other in others if other.file.split != done.file.split]
                yield done.file.to_finding(("warning", "duplicate across splits", _describe_match(done, apart)))
            elif split_unknown:
                detail = _describe_match(done, others) + "; they may end up in different splits"
                yield done.file.to_finding(("warning", "duplicate", detail))
            else:
                yield done.file.to_finding(("note", "duplicate within a split", _describe_match(done, others)))
            elsewhere = [other for other in others if other.file.class_name != done.file.class_name]
            if elsewhere:
                yield done.file.to_finding(("warning", "one image, two classes", _describe_match(done, elsewhere)))


def report_near_duplicates(inspections: Sequence[Inspection]) -> Iterator[Finding]:
    """Report pictures that look alike in two splits or two classes, without those that are equal."""
    if any(done.pixel_digest and done.small_picture is None for done in inspections):
        detail = f"pictures that look alike are found among up to {MAX_COMPARED:,} files"
        yield Finding("", "", "", "note", "no search for near-duplicates", detail)
        return
    for pair in _match_small_pictures(inspections):
        if pair[0].pixel_digest == pair[1].pixel_digest:
            continue
        for done, match in (pair, pair[::-1]):
            detail = f"looks like {match.file.path}"
            if done.file.split != match.file.split:
                yield done.file.to_finding(("warning", "near-duplicate across splits", detail))
            if done.file.class_name != match.file.class_name:
                yield done.file.to_finding(("warning", "near-duplicate in two classes", detail))


def _match_small_pictures(inspections: Sequence[Inspection]) -> Iterator[tuple[Inspection, Inspection]]:
    """Iterate over the pairs that look alike, of pictures that were shrunk to the same size."""
    by_shape: dict[tuple[int, ...], list[tuple[Inspection, np.ndarray]]] = {}
    for done in inspections:
        if done.small_picture is not None:
            by_shape.setdefault(done.small_picture.shape, []).append((done, done.small_picture))
    for group in by_shape.values():
        for alike in find_near_duplicates(np.stack([small for _, small in group])):
            yield group[alike.first][0], group[alike.second][0]


def _describe_match(done: Inspection, others: list[Inspection]) -> str:
    what = "bytes" if others[0].content_digest == done.content_digest else "pixels"
    rest = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"the same {what} as {others[0].file.path}{rest}"
