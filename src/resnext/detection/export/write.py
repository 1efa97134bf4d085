"""Export a detector: write the file, verify it in another process, and put it in place only if it agrees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from resnext.data.preprocessing import check_choice
from resnext.deploy.engines import require_packages
from resnext.deploy.export import TOOLS
from resnext.deploy.export_info import FORMATS, ExportInfo
from resnext.deploy.exported import ENGINE_OF_SUFFIX
from resnext.deploy.model_files import move_into_place, work_beside, write_model
from resnext.detection.export.detector_graph import build_detector_model
from resnext.detection.export.engines import OUTPUTS
from resnext.detection.export.facts import DetectorFacts
from resnext.detection.export.verify import LEAST_SAME_UNSURE, DetectionAgreement, compare_with_detector
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.weights import copy_detector
from resnext.errors import RequestError, WorkError

DetectorFormat = Literal["onnx", "openvino"]
DETECTOR_FORMATS: tuple[DetectorFormat, ...] = get_args(DetectorFormat)
LEAST_DETECTIONS = 50  # detections to compare; with fewer, all scores are compared
MOST_CHECK_IMAGES = 8  # images of the comparison of all scores, and of the finished file


@dataclass(frozen=True)
class DetectorExport:
    """A finished export of a detector."""

    path: Path
    info: ExportInfo
    agreement: DetectionAgreement
    size: int  # bytes of all its files


def export_detector(
    model: FasterRcnn,
    out: Path,
    target: DetectorFormat,
    images: Sequence[Image.Image],
    *,
    weights_sha256: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> DetectorExport:
    """Write a detector to a file for another runtime, if the file gives the detector's results.

    The file takes a picture of any size, uint8 [1, H, W, 3], and gives boxes, labels and scores. It is written into a
    temporary folder beside ``out``; a process that knows only this file detects in the images; the results are compared
    with PyTorch's. Only then it is renamed. Where the detector finds little in the images, a twin without score
    threshold is compared too.

    Args:
        model: The detector, with the score threshold and the limits that the file shall have.
        out: The file to write; an OpenVINO model is a .xml with a .bin of the same name beside it.
        target: ``onnx`` or ``openvino``.
        images: Real images to verify with, upright; a dozen.
        weights_sha256: Hash of the weights file, for the record.
        progress: Called with a few words before each step.

    Raises:
        RequestError: The detector cannot be exported like this.
        WorkError: The file does not agree with the detector, or could not be written; ``out`` is then unchanged.
    """
    check_choice("format", target, DETECTOR_FORMATS)
    engine = ENGINE_OF_SUFFIX[FORMATS[target]]
    require_packages(engine)
    if out.suffix != FORMATS[target]:
        raise RequestError(f"{out} must end in {FORMATS[target]} for the format {target}")
    if not images:
        raise RequestError("an export is verified with real images; give --images DIR")
    facts = DetectorFacts.from_detector(model)
    info = facts.to_info(OUTPUTS, TOOLS[target], weights_sha256)
    twin = copy_detector(model).to("cpu")
    with work_beside(out) as folder:
        file = folder / out.name
        progress(f"writing {target}")
        made = build_detector_model(twin, engine)
        write_model(made, info, file)
        progress(f"verifying with {len(images)} images in a process of its own")
        agreement = compare_with_detector(twin, file, images)
        agreement.check()
        if agreement.detections < LEAST_DETECTIONS:
            progress("verifying without score threshold, as little was found")
            agreement = _compare_all_scores(twin, info, folder / f"all-scores{out.suffix}", images[:MOST_CHECK_IMAGES])
        info = replace(info, agreement=agreement.to_dict())
        write_model(made, info, file)
        compare_with_detector(twin, file, images[:1]).check()
        return DetectorExport(out, info, agreement, move_into_place(file, out))


def _compare_all_scores(
    model: FasterRcnn, info: ExportInfo, file: Path, images: Sequence[Image.Image]
) -> DetectionAgreement:
    """Compare a twin of the exported file whose score threshold is 0. Raises WorkError if it does not agree."""
    twin = copy_detector(model)
    twin.set_score_threshold(0.0)
    write_model(build_detector_model(twin, ENGINE_OF_SUFFIX[file.suffix]), info, file)
    agreement = compare_with_detector(twin, file, images)
    agreement.check(LEAST_SAME_UNSURE)
    if not agreement.detections:
        raise WorkError("the detector finds nothing in the images, at any score, so the file could not be verified")
    return agreement
