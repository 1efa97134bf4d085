"""Quantise a network for an exported file: try ways of growing cost until one keeps the accuracy on held-out images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from resnext.deploy.int8 import Int8Step, count_int8_layers, list_steps, quantize_int8
from resnext.deploy.int8_gate import PairedResult, count_fewest_images, count_needed_images
from resnext.deploy.int8_judge import Judge, LabelledImages
from resnext.errors import WorkError

# Several tries are judged on the same images, so they share the 5 % that a bound may be wrong: the first try, which
# nearly always decides, takes most of it. 0.1 % remain, as bounds of 99.7 % miss up to 0.005 % more than they should.
CONFIDENCES = (0.96, *[0.997] * 3)
CONFIDENCE = 0.95  # of all tries together


@dataclass(frozen=True)
class Int8Plan:
    """What an export to int8 needs besides the network."""

    calibrate: Callable[[int], Tensor]  # loads up to this number of normalised training images [N, C, S, S]
    judged: LabelledImages  # held-out images
    max_loss: float  # share of correct predictions that may be lost
    calibration_source: str  # in words


@dataclass(frozen=True)
class Int8Try:
    """One way to quantise, and what it gave on the held-out images."""

    step: Int8Step
    calibration_images: int
    int8_layers: int  # convolutions and fully connected layers in int8
    layers: int  # and all of them
    result: PairedResult
    confidence: float

    @property
    def bound(self) -> float:
        """Upper bound on the loss."""
        return self.result.compute_bound(self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; the loss and its bound are shares, not points."""
        names = {"step": self.step.name, "calibration_images": self.calibration_images}
        layers = {"int8_layers": self.int8_layers, "layers": self.layers}
        found = {"loss": self.result.loss, "bound": self.bound, "confidence": self.confidence}
        return names | layers | asdict(self.result) | found


class AccuracyError(WorkError):
    """No way to quantise keeps the accuracy; ``tries`` are those that were made."""

    def __init__(self, words: str, tries: Sequence[Int8Try]) -> None:
        super().__init__(words)
        self.tries = tuple(tries)


@dataclass(frozen=True)
class Int8Result:
    """A quantised model that passed, and all tries up to it."""

    model: Any
    tries: list[Int8Try]

    def to_dict(self, plan: Int8Plan) -> dict[str, Any]:
        """Return JSON values for the file."""
        sources = {"calibration": plan.calibration_source, "judged": plan.judged.source}
        limits = {"max_loss": plan.max_loss, "confidence": CONFIDENCE}
        return sources | limits | {"tries": [one.to_dict() for one in self.tries]}


def quantize_within_loss(
    model: Any,
    plan: Int8Plan,
    judge: Judge,
    write: Callable[[Any], Path],
    progress: Callable[[str], None] = lambda _: None,
) -> Int8Result:
    """Quantise a model in the first way that keeps its accuracy.

    Args:
        model: An openvino.Model or onnx.ModelProto that takes normalised images.
        plan: Calibration images, held-out images and the loss that is allowed.
        judge: Runs files on the held-out images of ``plan``.
        write: Writes a quantised model to the file that would be kept; returns the file.
        progress: Called with a few words before and after each try.

    Raises:
        AccuracyError: No try passed, with the numbers and what would help.
    """
    tries: list[Int8Try] = []
    calibration: Tensor | None = None
    loaded = 0
    for step, confidence in zip(list_steps(model), CONFIDENCES, strict=True):
        if calibration is None or loaded < step.images:
            calibration, loaded = plan.calibrate(step.images), step.images
        progress(f"int8: {step.name}")
        copy = model.clone() if hasattr(model, "clone") else type(model).FromString(model.SerializeToString())
        quantised = quantize_int8(copy, calibration, step, plan.max_loss / 2)  # the other half is for the bound
        used, total = min(len(calibration), step.images), count_int8_layers(quantised)
        result = judge.judge(write(quantised))
        tries.append(Int8Try(step, used, *total, result, confidence))
        progress(describe_try(tries[-1].to_dict()))
        if tries[-1].int8_layers and tries[-1].bound <= plan.max_loss:
            return Int8Result(quantised, tries)
        if result.images < count_fewest_images(plan.max_loss, CONFIDENCES[-1]):
            break  # even a try that changes no prediction could not pass
    raise AccuracyError(describe_failure(tries, plan), tries)


def describe_try(values: Mapping[str, Any]) -> str:
    """Describe an entry of ``ExportInfo.int8["tries"]``: step, loss and its bound, and layers in int8."""
    return (
        f"{values['step']}; loses {100 * values['loss']:.2f} points, at most {100 * values['bound']:.2f} "
        f"({values['only_fp32']} right in fp32 only, {values['only_int8']} in int8 only, of {values['images']:,}); "
        f"{values['int8_layers']} of {values['layers']} layers in int8"
    )


def describe_failure(tries: list[Int8Try], plan: Int8Plan) -> str:
    """Say in numbers why no try passed, and what would help."""
    best = min(tries, key=lambda one: (not one.int8_layers, one.bound, one.result.loss))
    result, limit = best.result, f"{100 * plan.max_loss:g} points"
    counts = f"{result.only_fp32} right in fp32 only, {result.only_int8} right in int8 only"
    found = (
        f"int8 loses {100 * result.loss:.2f} points on {result.images:,} images ({counts}), at most "
        f"{100 * best.bound:.2f} with {100 * CONFIDENCE:g} % confidence, and --max-loss allows {limit}"
    )
    needed = count_needed_images(result, plan.max_loss, best.confidence)
    accept = f"--max-loss {round_up(100 * best.bound):g} accepts this"
    if needed is not None and needed > result.images:
        return f"{found}; about {needed:,} held-out images would show it (--data DIR), or {accept}; nothing was written"
    fewest = count_fewest_images(plan.max_loss, best.confidence)
    if result.images < fewest:
        return (
            f"{found}; {result.images:,} images are too few to show so little: even without any changed prediction it "
            f"takes {fewest:,} (--data DIR), or {accept}; nothing was written"
        )
    tried = f"after {len(tries)} tries" if len(tries) > 1 else "at the first try"
    return (
        f"{found}, {tried}; calibrate on other or more training images (--calibration DIR), export in fp32, or {accept}"
        "; nothing was written"
    )


def round_up(points: float) -> float:
    """Round percentage points up to one that a user would type, with two digits after the point."""
    return -(-points // 0.01) / 100
