"""Check a detection data set for everything that would stop or spoil training (``data check``). Read-only.

Uses the same readers as training, so that data without errors here can be trained on. Of errors that concern a whole
file (a duplicate id, an unknown category) only the first is reported; boxes and images are reported one by one.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from resnext.data.check import File, Inspection, duplicates, inspect_all, inspection, why_unreadable
from resnext.data.findings import Finding, Report, count_of, in_order
from resnext.data.source import BadImage
from resnext.detect.box_format import find_other_format
from resnext.detect.boxes import FLAT, GOOD, NOT_FINITE, OUTSIDE, PROBLEMS, corners_of, fit
from resnext.detect.dataset import DetectionDataset, WrongSize, explain_no_boxes
from resnext.detect.divide import divide
from resnext.detect.exif import LEFT, UNSURE, decide_orientation
from resnext.detect.faults import Faults
from resnext.detect.find_annotations import TRAIN, VAL, has_annotations
from resnext.detect.open import Found, check_known_categories, check_undivided, data_root
from resnext.detect.parsed import Parsed, dataset_of
from resnext.detect.places import missing_files
from resnext.detect.settings import DetectDataSettings
from resnext.errors import RequestError

BAD = {NOT_FINITE: "box not four numbers", FLAT: "box without width or height", OUTSIDE: "box outside the image"}
NO_SPLIT = "training needs annotations for val, or a share to hold out, such as data.val_fraction 0.2"
MOST_COUNTED = 100  # detections per class and image in COCO's metric
ROUNDING = 1.0  # pixels by which correct boxes may extend past the image


@dataclass(frozen=True)
class BoxReport(Report):
    """A report that counts boxes."""

    images: dict[str, int] = field(default_factory=dict)  # of each split

    def holds(self, split: str) -> str:
        """Describe the content of a split."""
        classes = self.counts[split]
        boxes = sum(classes.values())
        return f"{self.images[split]} images with {boxes} boxes in {len(classes)} classes"


def check_detection(settings: DetectDataSettings, workers: int | None = None, progress: bool = False) -> BoxReport:
    """Check every box and image of both splits. Raises RequestError where no split can be read.

    Where only train has annotations and there is no ``val_fraction``, train is checked and a note says so.
    """
    root = data_root(settings)
    findings: list[Finding] = []
    found: dict[str, Found] = {}
    parsed: dict[str, Parsed] = {}
    errors: list[RequestError] = []
    for split in _list_splits(settings):
        try:
            found[split] = Found(settings, split)
        except RequestError as error:
            errors.append(error)
            findings += _describe_unreadable(root, split, error)
    for split, one in found.items():
        try:
            parsed[split] = one.parsed([*found.values()])
        except RequestError as error:
            errors.append(error)
            findings += _describe_unreadable(root, split, error)
    if not parsed and not any(isinstance(error, Faults) for error in errors):
        raise errors[0]
    if settings.val_fraction is not None and parsed:
        parsed, found = divide(parsed[TRAIN], settings), dict.fromkeys((TRAIN, VAL), found[TRAIN])
    elif VAL not in _list_splits(settings):
        findings.append(Finding("", "", "", "note", "no split", NO_SPLIT))
    datasets = _make_datasets(parsed, found, settings)
    findings += _disagreement(datasets)
    images: list[_Image] = []
    counts = {split: _boxes_of(data) for split, data in datasets.items()}
    for split, dataset in datasets.items():
        if why := explain_no_boxes(dataset):
            findings.append(Finding("", "", split, "error", "no boxes at all", why))
        for what, severity in ((LEFT, "note"), (UNSURE, "warning")):
            if what in dataset.counts:
                detail = f"{dataset.counts[what]} {what}"
                findings.append(Finding("", "", split, severity, "EXIF fits both ways", detail))
        others = {datasets[other].name: counts[other] for other in datasets if other != split}
        annotations = Split(root, split, parsed[split], found[split].images, others)
        gone = set(missing_files(annotations.images, dataset.files))
        findings += annotations.findings(settings.bad_boxes == "error", gone)
        images += [_Image(split, dataset, i, root) for i, file in enumerate(dataset.files) if file not in gone]
    done = list(inspect_all(images, _inspect, workers, progress))
    findings += [one.file.finding(problem) for one in done for problem in one.problems]
    findings += duplicates(done, unstated=VAL not in datasets)
    return BoxReport(str(root), counts, in_order(findings), {split: len(data) for split, data in datasets.items()})


def _describe_unreadable(root: Path, split: str, error: RequestError) -> Iterator[Finding]:
    """Report annotations that cannot be read: one finding per bad file where these are known."""
    if not isinstance(error, Faults):
        yield Finding("", "", split, "error", "annotations", str(error))
        return
    for path, detail in error.faults:
        yield Finding(path_below(root, path.parent, path.name), "", split, "error", "annotations", detail)


def _list_splits(settings: DetectDataSettings) -> tuple[str, ...]:
    """List the splits with their own annotations: only train where a share of it is, or must be, held out."""
    if settings.val_fraction is not None:
        check_undivided(settings)
        return (TRAIN,)
    root = data_root(settings)
    alone = settings.val is None and has_annotations(root, settings, TRAIN) and not has_annotations(root, settings, VAL)
    return (TRAIN,) if alone else (TRAIN, VAL)


def _make_datasets(
    parsed: dict[str, Parsed], found: dict[str, Found], settings: DetectDataSettings
) -> dict[str, DetectionDataset]:
    """Build the data sets as in training, without bad boxes but with all images."""
    datasets = {
        split: dataset_of(one, found[split].images, exif=settings.exif, bad_boxes="drop")
        for split, one in parsed.items()
    }
    if settings.val_fraction is not None:
        return dict(zip(datasets, decide_orientation([*datasets.values()]), strict=True))
    return {split: decide_orientation([dataset])[0] for split, dataset in datasets.items()}


def _disagreement(datasets: dict[str, DetectionDataset]) -> Iterator[Finding]:
    if len(datasets) == 2:
        try:
            check_known_categories(datasets[TRAIN], datasets[VAL])
        except RequestError as error:
            yield Finding("", "", "", "error", "categories differ", str(error))


def _boxes_of(dataset: DetectionDataset) -> dict[str, int]:
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


@dataclass(frozen=True)
class Split:
    """The annotations of one split and its image folder."""

    root: Path
    name: str
    parsed: Parsed
    images: Path
    others: Mapping[str, Mapping[str, int]]  # boxes per class of the other split, by its name

    def findings(self, strict: bool, gone: set[str]) -> Iterator[Finding]:
        """Find all problems that need no pixels; ``strict``: bad boxes are errors; ``gone``: the missing files."""
        for file in sorted(gone):
            yield self._of(file, "", "error", "missing image", "the file does not exist")
        for problem in find_other_format(self.parsed):
            yield self._of("", "", "error", "boxes in another format", problem)
        yield from self._bad_boxes(strict)
        yield from self._cut_boxes()
        yield from self._same_boxes()
        yield from self._crowded_images()
        yield from self._counts()
        names: dict[str, int] = {}
        for file in self.parsed.files:
            names[file] = names.get(file, 0) + 1
        for file, count in names.items():
            if count > 1:
                yield self._of(file, "", "warning", "one file, several images", f"{count} images have this file")

    def _of(self, file: str, class_name: str, severity: str, problem: str, detail: str) -> Finding:
        path = path_below(self.root, self.images, file) if file else ""
        return Finding(path, class_name, self.name, severity, problem, detail)

    def _of_box(self, place: int, severity: str, problem: str, detail: str) -> Finding:
        found = self.parsed.found
        file = self.parsed.files[found.image[place]]
        return self._of(file, self.parsed.classes[found.labels[place]], severity, problem, detail)

    def _bad_boxes(self, strict: bool) -> Iterator[Finding]:
        fitted = fit(self.parsed.found.stated, self.parsed.sizes[self.parsed.found.image])
        for place in np.flatnonzero(fitted.problem != GOOD):
            kind = int(fitted.problem[place])
            detail = f"{self.parsed.box_name(int(place))} {PROBLEMS[kind]}"
            yield self._of_box(int(place), "error" if strict else "warning", BAD[kind], detail)

    def _cut_boxes(self) -> Iterator[Finding]:
        """Report boxes that extend past the image, one finding per image."""
        found, parsed = self.parsed.found, self.parsed
        sizes = parsed.sizes[found.image]
        corners = corners_of(found.stated)
        outside = np.concatenate([-corners[:, :2], corners[:, 2:] - sizes], axis=1).max(axis=1, initial=0.0)
        cut = np.flatnonzero(fit(found.stated, sizes).cut)
        cut = cut[np.argsort(found.image[cut], kind="stable")]
        images, starts = np.unique(found.image[cut], return_index=True)
        for image, of_image in zip(images.tolist(), np.split(cut, starts[1:]), strict=False):  # of none one empty part
            most = float(outside[of_image].max())
            boxes = "1 box extends" if len(of_image) == 1 else f"{len(of_image)} boxes extend"
            severity = "note" if most <= ROUNDING else "warning"
            detail = f"{boxes} past the image by up to {most:.2f} pixels; training clips at the edge"
            yield self._of(parsed.files[image], "", severity, "box cut at the edge", detail)

    def _same_boxes(self) -> Iterator[Finding]:
        """Report boxes that occur twice with the same class in the same image."""
        found = self.parsed.found
        seen: dict[tuple[object, ...], int] = {}
        for place, key in enumerate(
            zip(found.image.tolist(), found.labels.tolist(), map(tuple, found.stated.tolist()), strict=True)
        ):
            if key in seen:
                yield self._of_box(place, "warning", "duplicate box", f"{self.parsed.box_name(place)} occurs before")
            seen[key] = place

    def _counts(self) -> Iterator[Finding]:
        parsed, found = self.parsed, self.parsed.found
        for what, count in parsed.counts.items():
            yield self._of("", "", "note", "not as stated", f"{parsed.name}: {count} {what}")
        used = np.bincount(found.labels, minlength=len(parsed.classes))
        for label in np.flatnonzero(used == 0):
            name = parsed.classes[label]
            there = "".join(f", {boxes[name]} in {other}" for other, boxes in self.others.items() if boxes.get(name))
            yield self._of("", name, "warning", "class without boxes", f"none in {parsed.name}{there}")
        crowds = int(found.crowd.sum())
        if crowds:
            where = len(np.unique(found.image[found.crowd]))
            detail = (
                f"{crowds} of {len(found.crowd)} boxes, in {count_of(where, 'image')}; not trained on, never missed"
            )
            yield self._of("", "", "note", "crowds or difficult objects", detail)
        empty = np.flatnonzero(np.bincount(found.image, minlength=len(parsed.files)) == 0)
        if 2 * len(empty) > len(parsed.files) > len(empty):
            detail = f"{len(empty)} of {len(parsed.files)}; they count as background, so all must be labelled"
            yield self._of("", "", "warning", "most images have no boxes", detail)
        for image in empty:
            yield self._of(parsed.files[image], "", "note", "no boxes", "the image counts as background")

    def _crowded_images(self) -> Iterator[Finding]:
        """Report images with more boxes of a class than the metric counts detections."""
        found, parsed = self.parsed.found, self.parsed
        keys = found.image[~found.crowd] * len(parsed.classes) + found.labels[~found.crowd]
        for key, count in zip(*np.unique(keys, return_counts=True), strict=True):
            if count <= MOST_COUNTED:
                continue
            image, label = divmod(int(key), len(parsed.classes))
            detail = (
                f"{count} of a class, but COCO's AP counts {MOST_COUNTED} detections of a class; raise "
                "detector.detections to give and count more (evaluate --max-detections)"
            )
            problem = f"more than {MOST_COUNTED} boxes"
            yield self._of(parsed.files[image], parsed.classes[label], "warning", problem, detail)


@dataclass(frozen=True)
class _Image:
    """One image of an opened split."""

    split: str
    dataset: DetectionDataset
    index: int
    root: Path

    @property
    def file(self) -> File:
        """The image's file, for findings."""
        return File(path_below(self.root, Path(self.dataset.root), self.dataset.files[self.index]), self.split, "")


def _inspect(image: _Image) -> Inspection:
    """Read one image as training does, and report its problems."""
    file = image.file
    path = os.path.join(image.dataset.root, image.dataset.files[image.index])
    try:
        pixels, facts = image.dataset.image_with_facts(image.index)
        with open(path, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
    except WrongSize as error:
        return Inspection(file, (("error", "size differs from the annotations", error.reason),))
    except (BadImage, OSError) as error:
        return Inspection(file, (why_unreadable(path, error),))
    done = inspection(file, pixels, facts, content)
    return replace(
        done, problems=tuple(problem for problem in done.problems if problem[1] != "small")
    )  # small images are enlarged anyway


def path_below(root: Path, images: Path, file: str) -> str:
    """Return an image's path, relative to the checked folder where it is inside."""
    path = images / file
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
