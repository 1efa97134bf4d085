"""Put together the report of a check of pictures."""

from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image

from resnext.data.sources.image_folder import TRAIN
from resnext.data.tools.advice import list_class_advice, list_finding_advice
from resnext.data.tools.findings import CheckReport, Finding, Picture, sort_findings
from resnext.data.tools.inspection import CheckedFile, Inspection
from resnext.data.tools.overview import summarize_pictures


def make_report(
    root: str,
    counts: dict[str, dict[str, int]],
    findings: Sequence[Finding],
    inspections: Sequence[Inspection],
    open_picture: Callable[[CheckedFile], Image.Image],
    hint: str = "",
) -> CheckReport:
    """Make the report of a check: what the pictures are, and advice from classes, findings and ``hint``."""
    readable = [done for done in inspections if done.info is not None]
    train = counts.get(TRAIN) or counts.get("", {})
    return CheckReport(
        root, counts, sort_findings(findings),
        overview=summarize_pictures((done.size, done.info) for done in readable if done.info is not None),
        advice=(*list_finding_advice(findings), *list_class_advice(train), *filter(None, [hint])),
        pictures=tuple(
            Picture(done.file.path, done.file.split, done.file.class_name, partial(open_picture, done.file))
            for done in readable
        ),
    )  # fmt: skip
