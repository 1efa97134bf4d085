"""ImageNet-C: the error under 15 corruptions at 5 severities, and the mCE (Hendrycks & Dietterich 2019)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.data.sources.image_folder import list_subfolders
from resnext.errors import RequestError
from resnext.evaluation.metrics import compute_interval95, to_percent

SEVERITIES = (1, 2, 3, 4, 5)
# AlexNet's mean error over the severities, by which mCE divides (test.py of the authors' repository,
# hendrycks/robustness).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
CORRUPTIONS = tuple(ALEXNET_ERRORS)
LAYOUT = "expected DIR/CORRUPTION/SEVERITY/CLASS/IMAGE, or the same below noise/, blur/, weather/, digital/"


@dataclass(frozen=True)
class CorruptionResult:
    """The number of images of one corruption and severity, and of wrong predictions."""

    corruption: str
    severity: int
    n: int
    wrong: int

    @property
    def error(self) -> float:
        """Top-1 error, percent."""
        return to_percent(self.wrong, self.n)

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the error."""
        return compute_interval95(self.wrong, self.n)


def find_corruptions(root: Path) -> dict[tuple[str, int], Path]:
    """Find the class folders of each (corruption, severity), in the paper's order.

    Raises RequestError if ``root`` is no folder of corruptions.
    """
    if not root.is_dir():
        raise RequestError(f"--corruptions {root} is not a folder; {LAYOUT}")
    found: dict[tuple[str, int], Path] = {}
    for parent in (root, *(root / name for name in list_subfolders(root))):
        for name in list_subfolders(parent):
            for severity in sorted(set(list_subfolders(parent / name)) & set(map(str, SEVERITIES))):
                folder = parent / name / severity
                if (name, int(severity)) in found:
                    raise RequestError(f"{name} {severity} exists twice: {found[name, int(severity)]} and {folder}")
                found[name, int(severity)] = folder
    if not found:
        raise RequestError(f"{root} holds no corruptions; {LAYOUT}")
    return dict(sorted(found.items(), key=lambda item: _sort_key(*item[0])))


def compute_mean_errors(results: Sequence[CorruptionResult]) -> dict[str, float]:
    """Compute the error of each corruption in percent: the mean over the available severities."""
    errors: dict[str, list[float]] = {}
    for result in sorted(results, key=lambda result: _sort_key(result.corruption, result.severity)):
        errors.setdefault(result.corruption, []).append(result.error)
    return {name: math.fsum(values) / len(values) for name, values in errors.items()}


def explain_missing_mce(results: Sequence[CorruptionResult]) -> str:
    """Say in a clause why there is no mCE; empty if all 75 errors exist, of equally many images."""
    there = {(result.corruption, result.severity) for result in results}
    missing = [f"{name} {severity}" for name in CORRUPTIONS for severity in SEVERITIES if (name, severity) not in there]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return f"{len(missing)} of the {len(CORRUPTIONS) * len(SEVERITIES)} are missing: {', '.join(missing[:3])}{more}"
    counts = sorted({result.n for result in results if result.corruption in ALEXNET_ERRORS})
    return f"they hold between {counts[0]:,} and {counts[-1]:,} images" if len(counts) > 1 else ""


def compute_mce(results: Sequence[CorruptionResult]) -> float | None:
    """Compute the mean corruption error in percent: our error over AlexNet's, averaged over the 15 corruptions.

    Both errors are means over the five severities. None if results are missing.
    """
    if explain_missing_mce(results):
        return None
    means = compute_mean_errors(results)
    return math.fsum(means[name] / alexnet for name, alexnet in ALEXNET_ERRORS.items()) / len(ALEXNET_ERRORS)


def summarize_results(results: Sequence[CorruptionResult], official: bool) -> dict[str, Any]:
    """Summarize the results as plain JSON values; ``official``: the images are ImageNet-C's own files."""
    means = compute_mean_errors(results)
    return {
        "errors": means,
        "mean_error": math.fsum(means.values()) / len(means),
        "mce": compute_mce(results) if official else None,
        "no_mce_because": (explain_missing_mce(results) or None)
        if official
        else "the images were corrupted here, not taken from ImageNet-C",
        "results": [
            {
                "corruption": r.corruption,
                "severity": r.severity,
                "n": r.n,
                "wrong": r.wrong,
                "top1_error": r.error,
                "top1_error_interval95": list(r.interval95),
            }
            for r in results
        ],
        "units": "errors and mCE in percent; the mean error is the unweighted mean over corruptions",
    }


def _sort_key(corruption: str, severity: int) -> tuple[int, str, int]:
    """Sort key: the paper's order, then other corruptions by name."""
    place = CORRUPTIONS.index(corruption) if corruption in ALEXNET_ERRORS else len(CORRUPTIONS)
    return place, corruption, severity
