"""Check before timing that all candidates compute the same logits, loss and gradients from the same weights."""

from dataclasses import dataclass

from torch import Tensor, nn

from resnext.bench.step import Step
from resnext.errors import WorkError

# Relative distances |a - b| / |b| from the fp32 reference that still count as rounding: (logits, gradients).
# Gradients differ more, because rounding can switch a ReLU whose input is close to 0: plain bf16 reaches 0.3.
TOLERANCES = {"fp32": (1e-4, 2e-2), "bf16": (3e-2, 0.5)}


@dataclass(frozen=True)
class Outcome:
    """What one candidate computes on its batch before its first step."""

    evaluated: Tensor  # logits of the first images in evaluation mode
    logits: Tensor  # logits of the batch in training mode
    loss: float
    gradients: dict[str, Tensor]  # of a few parameters of the first and the last layers


@dataclass(frozen=True)
class Distance:
    """Relative distances of a candidate's outputs from the reference."""

    evaluated: float
    logits: float
    loss: float
    gradients: float  # the largest over the compared parameters


def outcome(step: Step) -> Outcome:
    """Compute logits, loss and gradients, then finish the training step; this is also the warm-up."""
    evaluated = step.evaluated()
    logits, loss = step.gradients()
    gradients = {name: _gradient(step.model, name).clone() for name in sampled(step.model)}
    step.finish()
    return Outcome(evaluated, logits, loss, gradients)


def sampled(model: nn.Module) -> list[str]:
    """Choose the parameters whose gradients are compared; all libraries use the same names for them."""
    known = dict(model.named_parameters())
    stages = sorted({name.split(".")[0] for name in known if name.startswith("layer")})
    last = max(int(name.split(".")[1]) for name in known if name.startswith(f"{stages[-1]}."))
    wanted = ["conv1.weight", "fc.weight", f"{stages[-1]}.{last}.conv1.weight", f"{stages[-1]}.{last}.bn1.bias"]
    for stage in stages:
        wanted += [f"{stage}.0.conv2.weight", f"{stage}.0.bn2.weight", f"{stage}.0.downsample.0.weight"]
    return [name for name in wanted if name in known]


def distance(of: Outcome, to: Outcome) -> Distance:
    """Measure how far outputs are from those of the reference."""
    return Distance(
        _relative(of.evaluated, to.evaluated),
        _relative(of.logits, to.logits),
        abs(of.loss - to.loss) / abs(to.loss),
        max(_relative(gradient, to.gradients[name]) for name, gradient in of.gradients.items()),
    )


def check(arm: str, precision: str, found: Distance) -> None:
    """Check that a distance can be explained by rounding. Raises WorkError if it is larger."""
    outputs, gradients = TOLERANCES[precision]
    for what, value, most in (
        ("logits in evaluation", found.evaluated, outputs),
        ("logits in training", found.logits, outputs),
        ("loss", found.loss, outputs),
        ("gradients", found.gradients, gradients),
    ):
        if not value <= most:
            raise WorkError(
                f"{arm} does not compute the same as the reference: its {what} differ by a relative distance of "
                f"{value:.2g}, but rounding in {precision} explains at most {most:g}; nothing was timed"
            )


def _gradient(model: nn.Module, name: str) -> Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient.detach().float()


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
