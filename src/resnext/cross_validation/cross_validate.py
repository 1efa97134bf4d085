"""The whole cross-validation: plan, train each fold, pool what the networks say of unseen images, find wrong labels."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from rich.console import Console

from resnext.child_runs import check_jobs, signals_as_interrupts
from resnext.cross_validation.directory import Begun, CrossvalDirectory
from resnext.cross_validation.held_out import HeldOut, compute_held_out
from resnext.cross_validation.label_issues import LabelIssue, find_label_issues
from resnext.cross_validation.label_pages import LabelFindings, write_label_table, write_labels_page
from resnext.cross_validation.report import write_results
from resnext.cross_validation.request import CrossvalRequest, resolve_crossval
from resnext.cross_validation.summary import CrossvalSummary, summarize
from resnext.cross_validation.train_folds import count_epochs, train_folds
from resnext.data.dataset import Dataset, hash_dataset_listing
from resnext.data.folds import assign_folds
from resnext.data.groups import list_groups
from resnext.data.loader import default_workers, iterate_eval_batches
from resnext.data.near_duplicates import NearDuplicate, find_near_duplicates
from resnext.data.sources.registry import open_fold_images
from resnext.errors import RequestError, WorkError
from resnext.evaluation.evaluator import Evaluation
from resnext.progress_bar import show_image_progress
from resnext.screen import print_line, show_work
from resnext.settings import DataSettings, Recipe


@dataclass(frozen=True, eq=False)
class Crossval:
    """A finished cross-validation.

    Attributes:
        path: Its directory.
        recipe: The recipe of all folds.
        evaluation: The pooled evaluation: one row for each image, judged by the network that had not seen it.
        probabilities: Of each class, float64 [N, K].
        fold: The fold in which each image was held out, int64 [N], from 1.
        label_issues: Images that are given another label, the most suspicious first.
        conflicts: Near-duplicates under two labels, the most alike first.
        summary: The pooled numbers with their interval.
    """

    path: Path
    recipe: Recipe
    evaluation: Evaluation
    probabilities: np.ndarray
    fold: np.ndarray
    label_issues: tuple[LabelIssue, ...]
    conflicts: tuple[NearDuplicate, ...]
    summary: CrossvalSummary


def cross_validate(
    what: Path | str | Recipe,
    out: Path | str | None,
    folds: int | None,
    given: Mapping[str, Any],
    *,
    jobs: int,
    console: Console,
    dry_run: bool = False,
) -> Crossval | None:
    """Cross-validate PHOTOS or a RECIPE, or go on with what was begun; return None for a dry run.

    Args:
        what: A folder of photos, a recipe file, the name of a recipe, or a recipe.
        out: The directory; ``runs/crossval-NAME`` by default.
        folds: Number of folds; None is that of the directory, or 5.
        given: Settings that replace those of the recipe or of the plan.
        jobs: Folds that are trained side by side.
        console: Where plan, progress and results are printed.
        dry_run: Print the plan, its cost and the folds; train and write nothing.

    Raises:
        RequestError: The request, the data or the directory cannot be used.
        WorkError: A fold failed, an image cannot be read, or a signal came; the same call goes on.
    """
    check_jobs(jobs)
    with signals_as_interrupts(), _explain_interrupt():
        request = resolve_crossval(what, out, folds, given, console)
        settings = replace(request.recipe.data, fold=f"1/{request.folds}")
        whole = open_fold_images(settings)
        assigned = assign_folds(whole, settings, request.folds)
        _describe(request, whole, assigned, console)
        if dry_run:
            return None
        _begin(request, whole)
        train_folds(request, len(whole), jobs, console)
        return _finish(request, settings, whole, assigned, console)


@contextmanager
def _explain_interrupt() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a WorkError that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise WorkError("stopped by a signal; the same command goes on where it was") from None


def _describe(request: CrossvalRequest, whole: Dataset, assigned: np.ndarray, console: Console) -> None:
    """Print what is done: images, folds, directory; and what it costs, unless the plan for photos has said it."""
    sizes = np.bincount(assigned)
    held_out = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
    print_line(
        console,
        f"cross-validation of {len(whole):,} images of {whole.name} in {request.folds} folds of {held_out}; each is "
        f"held out once, and {request.folds} networks are trained on the others, into {request.directory.path}",
    )
    if request.is_planned:
        return
    epochs, trained = count_epochs(request, len(whole)), len(whole) * (request.folds - 1) // request.folds
    print_line(
        console,
        f"cost: {request.folds} networks x {epochs:,} epochs x {trained:,} images, that is "
        f"{request.folds * epochs * trained:,} images to train on (no time is estimated for a recipe)",
    )


def _begin(request: CrossvalRequest, whole: Dataset) -> None:
    """Write the record of a new cross-validation, or check that the images are still those it was begun with."""
    directory, listing = request.directory, hash_dataset_listing(whole)
    begun = directory.read_begun()
    if begun is None:
        check_readable(whole)
        directory.begin(request.recipe, Begun(request.folds, len(whole), listing))
    elif (begun.images, begun.listing) != (len(whole), listing):
        changed = f"{begun.images:,} images then, {len(whole):,} now"
        if begun.images == len(whole):
            changed = "as many as then, but some with other names or labels"
        raise RequestError(
            f"the images have changed since {directory.path} was begun ({changed}), so its folds do not fit: choose "
            "another --out"
        )


def check_readable(whole: Dataset) -> None:
    """Read all images. Raises RequestError if one cannot be read: each is held out once, after training began."""
    bad: list[str] = []
    if not whole.in_memory:
        for batch in iterate_eval_batches(
            whole, _discard, batch_size=64, workers=default_workers(whole), on_bad_image="skip"
        ):
            bad += batch.bad_images
    if bad:
        raise RequestError(
            f"{len(bad):,} of {len(whole):,} images cannot be read: {bad[0]}; every image is held out once, so mend or "
            "remove what resnext data check names"
        )


def _discard(_: Image) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8)


def _finish(
    request: CrossvalRequest, settings: DataSettings, whole: Dataset, assigned: np.ndarray, console: Console
) -> Crossval:
    """Pool what the networks say of unseen images, write all files, print the result."""
    directory = request.directory
    with _show_progress(console, len(whole)) as progress:
        held_out = compute_held_out(directory, request.recipe, request.runs, whole, assigned, progress)
    with show_work(console, "comparing images and writing the pages"):
        evaluation = held_out.evaluation
        issues = find_label_issues(evaluation.label, held_out.probabilities)
        duplicates = find_near_duplicates(held_out.pictures)
        conflicts = [pair for pair in duplicates if evaluation.label[pair.first] != evaluation.label[pair.second]]
        groups = None if settings.group is None else list_groups(whole, settings.group)
        summary = summarize(held_out, groups, [issue.is_strong for issue in issues], duplicates)
        write_results(directory, request.recipe, whole, held_out, summary)
        found = LabelFindings(issues, conflicts)
        is_new = write_label_table(directory, held_out, found)
        write_labels_page(directory, whole, held_out, found, f"{evaluation.name}, {request.folds} folds")
    for line in _list_result_lines(request, held_out, summary, is_new):
        print_line(console, line)
    return Crossval(
        directory.path, request.recipe, evaluation, held_out.probabilities, held_out.fold,
        tuple(issues), tuple(conflicts), summary,
    )  # fmt: skip


@contextmanager
def _show_progress(console: Console, images: int) -> Iterator[Callable[[int], None]]:
    """Show how many images the networks have judged, unless the console is quiet."""
    if console.quiet:
        yield lambda _: None
        return
    with show_image_progress(images) as progress:
        yield progress


def _list_result_lines(
    request: CrossvalRequest, held_out: HeldOut, summary: CrossvalSummary, is_new: bool
) -> Iterator[str]:
    """List the lines that tell the result, and what can be done next."""
    directory: CrossvalDirectory = request.directory
    low, high = summary.interval95
    lowest, highest = summary.range
    yield (
        f"{summary.right:,} of {summary.images:,} images right: {summary.accuracy:.1f} % (95 % interval {low:.1f} to "
        f"{high:.1f} %), in the folds {lowest:.1f} to {highest:.1f} %"
    )
    if summary.leaks:
        yield f"note: {summary.leaks:,} images have a near-duplicate in another fold; the share may look too good"
    names, first = held_out.evaluation.classes, f"{summary.label_issues:,} labels to look at"
    rows = np.flatnonzero(held_out.evaluation.label != held_out.evaluation.predicted)
    if len(rows):
        worst = rows[np.argmin(held_out.evaluation.probability_of_label[rows])]
        label, said = (names[which[worst]] for which in (held_out.evaluation.label, held_out.evaluation.predicted))
        first += f", first {held_out.evaluation.paths[worst]}: label {label}, looks like {said}"
    yield first
    if summary.conflicts:
        yield f"{summary.conflicts:,} pairs of near-duplicates under two labels"
    kept = "" if is_new else " (kept as it is: it may have your notes)"
    yield f"report         {directory.report}"
    yield f"labels         {directory.labels_page}, {directory.labels_table}{kept}"
    yield f"predictions    {directory.predictions}"
    yield f"next           resnext train {shlex.quote(request.what)}   one network, to use"
