"""Check a detection data set for everything that would stop or spoil training (``data check``). Read-only.

Uses the same readers as training, so that data without errors here can be trained on. Of errors that concern a whole
file (a duplicate id, an unknown category) only the first is reported; boxes and images are reported one by one.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from resnext.data.dataset import BadImageError
from resnext.data.tools import check_folder
from resnext.data.tools.findings import CheckReport, Finding, pluralize, sort_findings
from resnext.detection.data.annotated_split import AnnotatedSplit, find_data_root, get_reader, has_annotations
from resnext.detection.data.annotations import RawAnnotations, build_dataset
from resnext.detection.data.box_format import EDGE_SLACK, find_other_format
from resnext.detection.data.box_policy import FLAT, GOOD, NOT_FINITE, OUTSIDE, PROBLEMS, clip_boxes, to_corners
from resnext.detection.data.dataset import DetectionDataset, WrongSizeError, explain_no_boxes
from resnext.detection.data.exif_orientation import KEPT_AS_STORED, TURNED_UNSURE, decide_orientation
from resnext.detection.data.faulty_files import FaultyFilesError
from resnext.detection.data.find_annotations import TRAIN, VAL
from resnext.detection.data.image_paths import find_missing_files
from resnext.detection.data.open import check_known_categories, check_no_val_annotations
from resnext.detection.data.train_val_split import split_by_hash
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError

BAD_BOX_NAMES = {
    NOT_FINITE: "box not four numbers",
    FLAT: "box without width or height",
    OUTSIDE: "box outside the image",
}
NO_HELD_OUT = "training needs annotations for val, or a share to hold out, such as data.val_fraction 0.2"
MAX_COUNTED = 100  # detections per class and image in COCO's metric


@dataclass(frozen=True)
class BoxReport(CheckReport):
    """A report that counts boxes."""

    images: dict[str, int] = field(default_factory=dict)  # of each split

    def describe_split(self, split: str) -> str:
        """Describe the content of a split."""
        classes = self.counts[split]
        boxes = sum(classes.values())
        return f"{self.images[split]} images with {boxes} boxes in {len(classes)} classes"


def check_detection_data(settings: DetectDataSettings, workers: int | None = None, progress: bool = False) -> BoxReport:
    """Check every box and image of both splits. Raises RequestError where no split can be read.

    Where only train has annotations and there is no ``val_fraction``, train is checked and a note says so.
    """
    root = find_data_root(settings)
    findings: list[Finding] = []
    found: dict[str, AnnotatedSplit] = {}
    parsed: dict[str, RawAnnotations] = {}
    errors: list[RequestError] = []
    for split in _list_splits(settings):
        try:
            found[split] = get_reader(settings)(settings, split)
        except RequestError as error:
            errors.append(error)
            findings += _describe_unreadable(root, split, error)
    for split, one in found.items():
        try:
            parsed[split] = one.build_annotations([*found.values()])
        except RequestError as error:
            errors.append(error)
            findings += _describe_unreadable(root, split, error)
    if not parsed and not any(isinstance(error, FaultyFilesError) for error in errors):
        raise errors[0]
    if settings.val_fraction is not None and parsed:
        parsed, found = split_by_hash(parsed[TRAIN], settings), dict.fromkeys((TRAIN, VAL), found[TRAIN])
    elif VAL not in _list_splits(settings):
        findings.append(Finding("", "", "", "note", "no split", NO_HELD_OUT))
    datasets = _make_datasets(parsed, found, settings)
    findings += _check_categories(datasets)
    images: list[_SplitImage] = []
    counts = {split: _count_boxes(data) for split, data in datasets.items()}
    for split, dataset in datasets.items():
        if why := explain_no_boxes(dataset):
            findings.append(Finding("", "", split, "error", "no boxes at all", why))
        for what, severity in ((KEPT_AS_STORED, "note"), (TURNED_UNSURE, "warning")):
            if what in dataset.counts:
                detail = f"{dataset.counts[what]} {what}"
                findings.append(Finding("", "", split, severity, "EXIF fits both ways", detail))
        others = {datasets[other].name: counts[other] for other in datasets if other != split}
        annotations = SplitAnnotations(root, split, parsed[split], found[split].images, others)
        gone = set(find_missing_files(annotations.images, dataset.files))
        findings += annotations.find_problems(settings.bad_boxes == "error", gone)
        images += [_SplitImage(split, dataset, i, root) for i, file in enumerate(dataset.files) if file not in gone]
    done = list(check_folder.inspect_all(images, _inspect_image, workers, progress))
    findings += [one.file.to_finding(problem) for one in done for problem in one.problems]
    findings += check_folder.find_duplicates(done, split_unknown=VAL not in datasets)
    return BoxReport(str(root), counts, sort_findings(findings), {split: len(data) for split, data in datasets.items()})


def _describe_unreadable(root: Path, split: str, error: RequestError) -> Iterator[Finding]:
    """Report annotations that cannot be read: one finding per bad file where these are known."""
    if not isinstance(error, FaultyFilesError):
        yield Finding("", "", split, "error", "annotations", str(error))
        return
    for path, detail in error.faults:
        yield Finding(make_relative_path(root, path.parent, path.name), "", split, "error", "annotations", detail)


def _list_splits(settings: DetectDataSettings) -> tuple[str, ...]:
    """List the splits with their own annotations: only train where a share of it is, or must be, held out."""
    if settings.val_fraction is not None:
        check_no_val_annotations(settings)
        return (TRAIN,)
    alone = settings.val is None and has_annotations(settings, TRAIN) and not has_annotations(settings, VAL)
    return (TRAIN,) if alone else (TRAIN, VAL)


def _make_datasets(
    parsed: dict[str, RawAnnotations], found: dict[str, AnnotatedSplit], settings: DetectDataSettings
) -> dict[str, DetectionDataset]:
    """Build the data sets as in training, without bad boxes but with all images."""
    datasets = {
        split: build_dataset(one, found[split].images, exif=settings.exif, bad_boxes="drop")
        for split, one in parsed.items()
    }
    if settings.val_fraction is not None:
        return dict(zip(datasets, decide_orientation([*datasets.values()]), strict=True))
    return {split: decide_orientation([dataset])[0] for split, dataset in datasets.items()}


def _check_categories(datasets: dict[str, DetectionDataset]) -> Iterator[Finding]:
    if len(datasets) == 2:
        try:
            check_known_categories(datasets[TRAIN], datasets[VAL])
        except RequestError as error:
            yield Finding("", "", "", "error", "categories differ", str(error))


def _count_boxes(dataset: DetectionDataset) -> dict[str, int]:
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


@dataclass(frozen=True)
class SplitAnnotations:
    """The annotations of one split and its image folder."""

    root: Path
    name: str
    annotations: RawAnnotations
    images: Path
    others: Mapping[str, Mapping[str, int]]  # boxes per class of the other split, by its name

    def find_problems(self, strict: bool, gone: set[str]) -> Iterator[Finding]:
        """Find all problems that need no pixels; ``strict``: bad boxes are errors; ``gone``: the missing files."""
        for file in sorted(gone):
            yield self._make_finding(file, "", "error", "missing image", "the file does not exist")
        for problem in find_other_format(self.annotations):
            yield self._make_finding("", "", "error", "boxes in another format", problem)
        yield from self._check_bad_boxes(strict)
        yield from self._check_clipped_boxes()
        yield from self._check_duplicate_boxes()
        yield from self._check_crowded_images()
        yield from self._check_counts()
        for file, count in Counter(self.annotations.files).items():
            if count > 1:
                detail = f"{count} images have this file"
                yield self._make_finding(file, "", "warning", "one file, several images", detail)

    def _make_finding(self, file: str, class_name: str, severity: str, problem: str, detail: str) -> Finding:
        path = make_relative_path(self.root, self.images, file) if file else ""
        return Finding(path, class_name, self.name, severity, problem, detail)

    def _make_box_finding(self, place: int, severity: str, problem: str, detail: str) -> Finding:
        found = self.annotations.boxes
        file = self.annotations.files[found.image[place]]
        return self._make_finding(file, self.annotations.classes[found.labels[place]], severity, problem, detail)

    def _check_bad_boxes(self, strict: bool) -> Iterator[Finding]:
        fitted = clip_boxes(self.annotations.boxes.stated, self.annotations.sizes[self.annotations.boxes.image])
        for place in np.flatnonzero(fitted.problem != GOOD):
            kind = int(fitted.problem[place])
            detail = f"{self.annotations.describe_box(int(place))} {PROBLEMS[kind]}"
            yield self._make_box_finding(int(place), "error" if strict else "warning", BAD_BOX_NAMES[kind], detail)

    def _check_clipped_boxes(self) -> Iterator[Finding]:
        """Report boxes that extend past the image, one finding per image."""
        found, parsed = self.annotations.boxes, self.annotations
        sizes = parsed.sizes[found.image]
        corners = to_corners(found.stated)
        outside = np.concatenate([-corners[:, :2], corners[:, 2:] - sizes], axis=1).max(axis=1, initial=0.0)
        cut = np.flatnonzero(clip_boxes(found.stated, sizes).clipped)
        cut = cut[np.argsort(found.image[cut], kind="stable")]
        images, starts = np.unique(found.image[cut], return_index=True)
        for image, of_image in zip(images.tolist(), np.split(cut, starts[1:]), strict=False):  # of none one empty part
            most = float(outside[of_image].max())
            boxes = "1 box extends" if len(of_image) == 1 else f"{len(of_image)} boxes extend"
            severity = "note" if most <= EDGE_SLACK else "warning"
            detail = f"{boxes} past the image by up to {most:.2f} pixels; training clips at the edge"
            yield self._make_finding(parsed.files[image], "", severity, "box cut at the edge", detail)

    def _check_duplicate_boxes(self) -> Iterator[Finding]:
        """Report boxes that occur twice with the same class in the same image."""
        found = self.annotations.boxes
        seen: set[tuple[object, ...]] = set()
        rows = zip(found.image.tolist(), found.labels.tolist(), map(tuple, found.stated.tolist()), strict=True)
        for place, row in enumerate(rows):
            if row in seen:
                detail = f"{self.annotations.describe_box(place)} occurs before"
                yield self._make_box_finding(place, "warning", "duplicate box", detail)
            seen.add(row)

    def _check_counts(self) -> Iterator[Finding]:
        parsed, found = self.annotations, self.annotations.boxes
        for what, count in parsed.counts.items():
            yield self._make_finding("", "", "note", "not as stated", f"{parsed.name}: {count} {what}")
        used = np.bincount(found.labels, minlength=len(parsed.classes))
        for label in np.flatnonzero(used == 0):
            name = parsed.classes[label]
            there = "".join(f", {boxes[name]} in {other}" for other, boxes in self.others.items() if boxes.get(name))
            yield self._make_finding("", name, "warning", "class without boxes", f"none in {parsed.name}{there}")
        crowds = int(found.crowd.sum())
        if crowds:
            where = len(np.unique(found.image[found.crowd]))
            boxes = f"{crowds} of {len(found.crowd)} boxes, in {pluralize(where, 'image')}"
            detail = f"{boxes}; not trained on, never missed"
            yield self._make_finding("", "", "note", "crowds or difficult objects", detail)
        empty = np.flatnonzero(np.bincount(found.image, minlength=len(parsed.files)) == 0)
        if 2 * len(empty) > len(parsed.files) > len(empty):
            detail = f"{len(empty)} of {len(parsed.files)}; they count as background, so all must be labelled"
            yield self._make_finding("", "", "warning", "most images have no boxes", detail)
        for image in empty:
            yield self._make_finding(parsed.files[image], "", "note", "no boxes", "the image counts as background")

    def _check_crowded_images(self) -> Iterator[Finding]:
        """Report images with more boxes of a class than the metric counts detections."""
        found, parsed = self.annotations.boxes, self.annotations
        keys = found.image[~found.crowd] * len(parsed.classes) + found.labels[~found.crowd]
        for key, count in zip(*np.unique(keys, return_counts=True), strict=True):
            if count <= MAX_COUNTED:
                continue
            image, label = divmod(int(key), len(parsed.classes))
            detail = (
                f"{count} of a class, but COCO's AP counts {MAX_COUNTED} detections of a class; raise "
                "detector.detections to give and count more (evaluate --max-detections)"
            )
            problem = f"more than {MAX_COUNTED} boxes"
            yield self._make_finding(parsed.files[image], parsed.classes[label], "warning", problem, detail)


@dataclass(frozen=True)
class _SplitImage:
    """One image of an opened split."""

    split: str
    dataset: DetectionDataset
    index: int
    root: Path

    @property
    def file(self) -> check_folder.CheckedFile:
        """The image's file, for findings."""
        path = make_relative_path(self.root, Path(self.dataset.root), self.dataset.files[self.index])
        return check_folder.CheckedFile(path, self.split, "")


def _inspect_image(image: _SplitImage) -> check_folder.Inspection:
    """Read one image as training does, and report its problems."""
    file = image.file
    path = os.path.join(image.dataset.root, image.dataset.files[image.index])
    try:
        pixels, facts = image.dataset.load_image_with_facts(image.index)
        with open(path, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
    except WrongSizeError as error:
        return check_folder.Inspection(file, (("error", "size differs from the annotations", error.reason),))
    except (BadImageError, OSError) as error:
        return check_folder.Inspection(file, (check_folder.classify_read_error(path, error),))
    done = check_folder.inspect_pixels(file, pixels, facts, content)
    problems = tuple(problem for problem in done.problems if problem[1] != "small")  # they are enlarged anyway
    return replace(done, problems=problems)


def make_relative_path(root: Path, images: Path, file: str) -> str:
    """Return an image's path, relative to the checked folder where it is inside."""
    path = images / file
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
