"""Check before timing that all candidates compute the same logits, loss and gradients from the same weights."""

from dataclasses import dataclass

from torch import Tensor, nn

from resnext.bench.train_step import TrainStep
from resnext.errors import WorkError

# Relative distances |a - b| / |b| from the fp32 reference that still count as rounding: (logits, gradients).
# Gradients differ more, because rounding can switch a ReLU whose input is close to 0: plain bf16 reaches 0.3.
TOLERANCES = {"fp32": (1e-4, 2e-2), "bf16": (3e-2, 0.5)}


@dataclass(frozen=True)
class StepOutputs:
    """What one candidate computes on its batch before its first step."""

    eval_logits: Tensor  # logits of the first images in evaluation mode
    logits: Tensor  # logits of the batch in training mode
    loss: float
    gradients: dict[str, Tensor]  # of a few parameters of the first and the last layers


@dataclass(frozen=True)
class OutputDistance:
    """Relative distances of a candidate's outputs from the reference."""

    eval_logits: float
    logits: float
    loss: float
    gradients: float  # the largest over the compared parameters


def compute_outputs(step: TrainStep) -> StepOutputs:
    """Compute logits, loss and gradients, then finish the training step; this is also the warm-up."""
    evaluated = step.compute_eval_logits()
    logits, loss = step.compute_gradients()
    gradients = {name: _read_gradient(step.model, name).clone() for name in select_parameters(step.model)}
    step.update_weights()
    return StepOutputs(evaluated, logits, loss, gradients)


def select_parameters(model: nn.Module) -> list[str]:
    """Choose the parameters whose gradients are compared; all libraries use the same names for them."""
    known = dict(model.named_parameters())
    stages = sorted({name.split(".")[0] for name in known if name.startswith("layer")})
    last = max(int(name.split(".")[1]) for name in known if name.startswith(f"{stages[-1]}."))
    wanted = ["conv1.weight", "fc.weight", f"{stages[-1]}.{last}.conv1.weight", f"{stages[-1]}.{last}.bn1.bias"]
    for stage in stages:
        wanted += [f"{stage}.0.conv2.weight", f"{stage}.0.bn2.weight", f"{stage}.0.downsample.0.weight"]
    return [name for name in wanted if name in known]


def measure_distance(of: StepOutputs, to: StepOutputs) -> OutputDistance:
    """Measure how far outputs are from those of the reference."""
    return OutputDistance(
        _relative_distance(of.eval_logits, to.eval_logits),
        _relative_distance(of.logits, to.logits),
        abs(of.loss - to.loss) / abs(to.loss),
        max(_relative_distance(gradient, to.gradients[name]) for name, gradient in of.gradients.items()),
    )


def check_distance(arm: str, precision: str, found: OutputDistance) -> None:
    """Check that a distance can be explained by rounding. Raises WorkError if it is larger."""
    outputs, gradients = TOLERANCES[precision]
    for what, value, most in (
        ("logits in evaluation", found.eval_logits, outputs),
        ("logits in training", found.logits, outputs),
        ("loss", found.loss, outputs),
        ("gradients", found.gradients, gradients),
    ):
        if not value <= most:
            raise WorkError(
                f"{arm} does not compute the same as the reference: its {what} differ by a relative distance of "
                f"{value:.2g}, but rounding in {precision} explains at most {most:g}; nothing was timed"
            )


def _read_gradient(model: nn.Module, name: str) -> Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient.detach().float()


def _relative_distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
