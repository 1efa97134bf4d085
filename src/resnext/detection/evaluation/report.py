"""Write ``report.html`` of a detection run, a single self-contained file."""

from pathlib import Path
from typing import Any

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation.coco_eval import DetectionEvaluation
from resnext.detection.evaluation.matching import Matches
from resnext.detection.evaluation.protocol import format_detection_protocol
from resnext.evaluation.output.html import read_epochs, write_page
from resnext.run_directory import RunDirectory

MAX_WORST_IMAGES = 12  # rows in the table of images
PICTURES = ("precision_recall.png", "images.png")


def write_detection_report(
    run_dir: Path | str, evaluation: DetectionEvaluation, dataset: DetectionDataset, metrics: dict[str, Any]
) -> Path:
    """Write the run's ``report.html`` atomically; return its path.

    ``metrics`` is what ``write_detection_evaluation`` returned for ``evaluation``. Plots, settings and epochs are read
    from the run's files; missing or damaged ones are left out. Raises WorkError where writing fails.
    """
    run, protocol = RunDirectory(Path(run_dir)), metrics["protocol"]
    epochs = read_epochs(run.metrics, "ap", max)
    best = evaluation.ap is not None and protocol.get("checkpoint") == "best"
    content = {
        "protocol": format_detection_protocol(protocol, evaluation.n, evaluation.boxes),
        "chosen": best and not (epochs and epochs["last_epoch"] == epochs["best_epoch"]),  # on these images
        "classes": evaluation.per_class,
        "worst": _list_worst_images(evaluation.matches, dataset),
    }
    return write_page(run, "resnext.detection.evaluation", metrics, epochs, PICTURES, content)


def _list_worst_images(m: Matches, dataset: DetectionDataset) -> list[dict[str, Any]]:
    """List the images with the lowest F1, those with more mistakes first."""
    mistakes = (m.missed + m.false).tolist()
    ranked = sorted((i for i, count in enumerate(mistakes) if count), key=lambda i: (m.f1[i], -mistakes[i]))
    return [
        {
            "path": dataset.files[i],
            "f1": m.f1[i],
            **{key: int(getattr(m, key)[i]) for key in ("boxes", "matched", "missed", "false")},
        }
        for i in ranked[:MAX_WORST_IMAGES]
    ]
