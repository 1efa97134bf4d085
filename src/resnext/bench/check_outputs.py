"""Check before timing that all candidates compute the same logits, loss and gradients from the same weights."""

from dataclasses import dataclass

from torch import Tensor, nn

from resnext.bench.train_step import TrainStep
from resnext.deploy.engines import compute_relative_error
from resnext.errors import WorkError

Distances = dict[str, float]  # what is compared -> distance from the reference

# Relative distances |a - b| / |b| from the fp32 reference that still count as rounding. Gradients differ more, because
# rounding can switch a ReLU whose input is close to 0: plain bf16 reaches 0.3.
TOLERANCES: dict[str, Distances] = {
    precision: {"logits in evaluation": logits, "logits in training": logits, "loss": logits, "gradients": gradients}
    for precision, logits, gradients in (
        ("fp32", 1e-4, 2e-2),
        ("tf32", 1e-2, 0.3),  # fp32 on a GPU whose convolutions round their inputs to 10 bits, PyTorch's default
        ("fp16", 1e-2, 0.3),
        ("bf16", 3e-2, 0.5),
    )
}


@dataclass(frozen=True)
class StepOutputs:
    """What one candidate computes on its batch before its first step."""

    eval_logits: Tensor  # logits of the first images in evaluation mode
    logits: Tensor  # logits of the batch in training mode
    loss: float
    gradients: dict[str, Tensor]  # of a few parameters of the first and the last layers


def compute_outputs(step: TrainStep) -> StepOutputs:
    """Compute logits, loss and gradients, then finish the training step; this is also the warm-up."""
    evaluated = step.compute_eval_logits()
    logits, loss = step.compute_gradients()
    step.unscale_gradients()
    gradients = {name: _read_gradient(step.model, name).clone() for name in select_parameters(step.model)}
    step.update_weights()
    return StepOutputs(evaluated.cpu(), logits.cpu(), loss.item(), gradients)


def select_parameters(model: nn.Module) -> list[str]:
    """Choose the parameters whose gradients are compared; all libraries use the same names for them."""
    known = dict(model.named_parameters())
    stages = sorted({name.split(".")[0] for name in known if name.startswith("layer")})
    last = max(int(name.split(".")[1]) for name in known if name.startswith(f"{stages[-1]}."))
    wanted = ["conv1.weight", "fc.weight", f"{stages[-1]}.{last}.conv1.weight", f"{stages[-1]}.{last}.bn1.bias"]
    for stage in stages:
        wanted += [f"{stage}.0.conv2.weight", f"{stage}.0.bn2.weight", f"{stage}.0.downsample.0.weight"]
    return [name for name in wanted if name in known]


def measure_distances(of: StepOutputs, to: StepOutputs) -> Distances:
    """Measure how far outputs are from those of the reference; for gradients the largest distance counts."""
    gradients = (compute_relative_error(gradient, to.gradients[name]) for name, gradient in of.gradients.items())
    return {
        "logits in evaluation": compute_relative_error(of.eval_logits, to.eval_logits),
        "logits in training": compute_relative_error(of.logits, to.logits),
        "loss": abs(of.loss - to.loss) / abs(to.loss),
        "gradients": max(gradients),
    }


def check_distances(candidate: str, precision: str, found: Distances, tolerances: Distances) -> None:
    """Check that distances can be explained by rounding. Raises WorkError for the first larger one."""
    for what, value in found.items():
        if not value <= tolerances[what]:
            raise WorkError(
                f"{candidate} does not compute the same as the reference: its {what} differ by {value:.2g}, but "
                f"rounding in {precision} explains at most {tolerances[what]:g}; nothing was timed"
            )


def _read_gradient(model: nn.Module, name: str) -> Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient.detach().float().cpu()
