"""Whether arms that are about to be timed compute the same: outputs, loss and gradients from the same weights."""

from dataclasses import dataclass

from torch import Tensor, nn

from resnext.bench.step import Step
from resnext.errors import WorkError

# Relative distances |a - b| / |b| to the fp32 reference that are taken as rounding: of logits, and of gradients, where
# a ReLU whose input lies within rounding of 0 is open in one arm and closed in the other: plain bf16 reaches 0.3.
TOLERANCES = {"fp32": (1e-4, 2e-2), "bf16": (3e-2, 0.5)}


@dataclass(frozen=True)
class Outcome:
    """What one arm computes on its batch before its first step."""

    evaluated: Tensor  # logits of the first images in evaluation mode
    logits: Tensor  # of the batch in training mode
    loss: float
    gradients: dict[str, Tensor]  # of a few parameters from both ends


@dataclass(frozen=True)
class Distance:
    """Relative distances of an outcome from the reference's."""

    evaluated: float
    logits: float
    loss: float
    gradients: float  # the largest


def outcome(step: Step) -> Outcome:
    """Of a step, which is then finished: this is its warm-up."""
    evaluated = step.evaluated()
    logits, loss = step.gradients()
    gradients = {name: _gradient(step.model, name).clone() for name in sampled(step.model)}
    step.finish()
    return Outcome(evaluated, logits, loss, gradients)


def sampled(model: nn.Module) -> list[str]:
    """The parameters whose gradients are compared, by the names that all libraries give them."""
    known = dict(model.named_parameters())
    stages = sorted({name.split(".")[0] for name in known if name.startswith("layer")})
    last = max(int(name.split(".")[1]) for name in known if name.startswith(f"{stages[-1]}."))
    wanted = ["conv1.weight", "fc.weight", f"{stages[-1]}.{last}.conv1.weight", f"{stages[-1]}.{last}.bn1.bias"]
    for stage in stages:
        wanted += [f"{stage}.0.conv2.weight", f"{stage}.0.bn2.weight", f"{stage}.0.downsample.0.weight"]
    return [name for name in wanted if name in known]


def distance(of: Outcome, to: Outcome) -> Distance:
    """How far an outcome is from the reference."""
    return Distance(
        _relative(of.evaluated, to.evaluated),
        _relative(of.logits, to.logits),
        abs(of.loss - to.loss) / abs(to.loss),
        max(_relative(gradient, to.gradients[name]) for name, gradient in of.gradients.items()),
    )


def check(arm: str, precision: str, found: Distance) -> None:
    """Raises WorkError where ``found`` is more than rounding."""
    outputs, gradients = TOLERANCES[precision]
    for what, value, most in (
        ("logits in evaluation", found.evaluated, outputs),
        ("logits in training", found.logits, outputs),
        ("loss", found.loss, outputs),
        ("gradients", found.gradients, gradients),
    ):
        if not value <= most:
            raise WorkError(
                f"{arm} does not compute what the reference does: its {what} differ by {value:.2g} of their size, "
                f"where rounding in {precision} makes at most {most:g}; nothing was timed"
            )


def _gradient(model: nn.Module, name: str) -> Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient.detach().float()


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
