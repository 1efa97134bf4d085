"""Write what to look at: images whose label looks wrong, and near-duplicates under two labels (HTML and CSV)."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from resnext.cross_validation.directory import CrossvalDirectory
from resnext.cross_validation.held_out import HeldOut
from resnext.cross_validation.label_issues import LabelIssue
from resnext.data.dataset import BadImageError, Dataset, DatasetWrapper
from resnext.data.near_duplicates import NearDuplicate
from resnext.data.sources.image_folder import FolderDataset
from resnext.evaluation.output.html import write_html
from resnext.evaluation.output.tables import write_csv
from resnext.evaluation.output.thumbnails import make_thumbnail

MAX_SHOWN = 300  # images on the page; the table has all
MAX_PAIRS_SHOWN = 100
HEADER = ("rank", "reason", "file", "label", "proposed", "score", "probability_of_proposed", "fold", "like", "decision")


@dataclass(frozen=True, eq=False)
class LabelFindings:
    """What was found in the labels of a data set."""

    issues: Sequence[LabelIssue]  # the most suspicious first
    conflicts: Sequence[NearDuplicate]  # near-duplicates under two labels, the most alike first


def write_label_table(directory: CrossvalDirectory, held_out: HeldOut, found: LabelFindings) -> bool:
    """Write labels-to-look-at.csv, unless there is one, which may have a user's notes; return whether it was written.

    The column ``decision`` is empty, for the user. Raises WorkError if it cannot be written.
    """
    if directory.labels_table.exists():
        return False
    write_csv(directory.labels_table, HEADER, _list_rows(held_out, found))
    return True


def _list_rows(held_out: HeldOut, found: LabelFindings) -> Iterator[tuple[object, ...]]:
    evaluation, names = held_out.evaluation, held_out.evaluation.classes
    for rank, issue in enumerate(found.issues, start=1):
        yield (
            rank, "label looks wrong", evaluation.paths[issue.row], names[issue.label], names[issue.proposed],
            f"{issue.score:.6f}", f"{issue.probability:.6f}", int(held_out.fold[issue.row]), "", "",
        )  # fmt: skip
    for rank, pair in enumerate(found.conflicts, start=1):
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            yield (
                rank, "like an image of another label", evaluation.paths[one], names[evaluation.label[one]],
                names[evaluation.label[other]], "", "", int(held_out.fold[one]), evaluation.paths[other], "",
            )  # fmt: skip


def write_labels_page(
    directory: CrossvalDirectory, whole: Dataset, held_out: HeldOut, found: LabelFindings, title: str
) -> None:
    """Write labels-to-look-at.html with a thumbnail of each image. Raises WorkError if it cannot be written."""
    issues, pairs = found.issues[:MAX_SHOWN], found.conflicts[:MAX_PAIRS_SHOWN]
    names, label = held_out.evaluation.classes, held_out.evaluation.label
    content = {
        "title": title,
        "total": held_out.evaluation.n,
        "count": len(found.issues),
        "strong": sum(issue.is_strong for issue in found.issues),
        "issues": [
            {
                "image": _describe_image(directory, whole, held_out, issue.row),
                "label": names[issue.label], "proposed": names[issue.proposed], "score": issue.score,
                "probability": issue.probability, "is_strong": issue.is_strong,
            }
            for issue in issues
        ],
        "pair_count": len(found.conflicts),
        "pairs": [
            {
                "likeness": pair.likeness,
                "images": [
                    _describe_image(directory, whole, held_out, row) | {"label": names[label[row]]}
                    for row in (pair.first, pair.second)
                ],
            }
            for pair in pairs
        ],
        "table": directory.labels_table.name,
        "report": directory.report.name,
    }  # fmt: skip
    write_html(directory.labels_page, "resnext.cross_validation", "labels.html.j2", content)


def _describe_image(directory: CrossvalDirectory, whole: Dataset, held_out: HeldOut, row: int) -> dict[str, Any]:
    """Describe an image for the page: its path, a link if it is a file, and a thumbnail if it can be read."""
    try:
        thumbnail = make_thumbnail(whole.image(row))
    except BadImageError:
        thumbnail = None
    path = find_file(whole, row)
    link = None if path is None else quote(os.path.relpath(path, directory.path), errors="surrogateescape")
    return {"path": held_out.evaluation.paths[row], "link": link, "thumbnail": thumbnail, "fold": held_out.fold[row]}


def find_file(dataset: Dataset, index: int) -> str | None:
    """Return the path of an image's file; None if the image is not a file of its own on this disk."""
    inner = dataset
    while isinstance(inner, DatasetWrapper):
        index = inner.inner_index(index)
        inner = inner.dataset
    path = inner.full_path(index) if isinstance(inner, FolderDataset) else None
    return path if path is not None and os.path.isfile(path) else None
