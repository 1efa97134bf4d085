"""One training step of a candidate: forward, loss, backward and SGD, the same for all libraries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnext.bench.peers import OURS, build_network
from resnext.choices import Precision
from resnext.device import autocast
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from resnext.model.plan import Plan, autotune, fuse_all, set_activation_checkpointing
from resnext.speed.allocator import tune_malloc

CPU = torch.device("cpu")
SGD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
Compile = Literal["no", "yes", "cuda-graphs"]  # as train.compile
NAMES: dict[Compile, str] = {"no": "", "yes": ", compiled", "cuda-graphs": ", CUDA graphs"}
EVAL_IMAGES = 4  # images whose logits are compared in evaluation mode


@dataclass(frozen=True)
class StepConfig:
    """How a candidate trains: library, precision, memory layout, recomputation level, and ``torch.compile``."""

    library: str
    precision: Precision = "bf16"
    channels_last: bool = True
    recompute: str = "no"
    compile: Compile = "no"

    def __str__(self) -> str:
        again = f", recompute {self.recompute}" if self.recompute != "no" else ""
        return f"{self.library} {self.precision} {self.layout}{again}{NAMES[self.compile]}"

    @property
    def layout(self) -> str:
        """The memory layout of images."""
        return "NHWC" if self.channels_last else "NCHW"

    def to_columns(self) -> dict[str, object]:
        """Return the columns of a CSV that say what was measured."""
        return {"library": self.library, "precision": self.precision, "layout": self.layout}


class TrainStep:
    """A network and its optimizer on one fixed batch of noise; calling it runs a training step."""

    def __init__(
        self,
        architecture: Architecture,
        config: StepConfig,
        batch: int,
        size: int,
        plan: Plan | None = None,
        device: torch.device = CPU,
    ) -> None:
        tune_malloc()  # for all candidates of this process, as in resnext train
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.config = config
        self.model: nn.Module = build_network(config.library, architecture)
        if isinstance(self.model, Network):
            (plan or Plan()).apply(self.model)
            if config.recompute != "no":
                set_activation_checkpointing(self.model, config.recompute)
        self.model.to(device).to(memory_format=layout)
        self.forward = compile_model(self.model, config.compile)
        # as in resnext train with fast paths; on a GPU other libraries are measured with their fastest settings too
        fused = config.library == "resnext" or device.type == "cuda" or None
        self.optimizer = torch.optim.SGD(self.model.parameters(), fused=fused, **SGD)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, architecture.in_channels, size, size, generator=generator)
        self.images = images.to(device).contiguous(memory_format=layout)
        self.labels = torch.randint(architecture.num_classes, (batch,), generator=generator).to(device)

    def __call__(self) -> None:
        """Run one training step."""
        self.compute_gradients()
        self.update_weights()

    def update_weights(self) -> None:
        """Update the weights and clear the gradients."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def compute_gradients(self) -> tuple[Tensor, Tensor]:
        """Run forward and backward pass; return logits [B, K] in training mode and the loss, both on the device.

        In fp16 the gradients are those of the loss times the scale, until ``unscale_gradients`` or the update.
        """
        with autocast(self.images.device, self.config.precision):
            logits = self.forward(self.images)
        loss = F.cross_entropy(logits.float(), self.labels)
        self.scaler.scale(loss).backward()
        return logits.detach().float(), loss.detach()

    def unscale_gradients(self) -> None:
        """Divide the gradients by the scale of the loss, as the update would do."""
        self.scaler.unscale_(self.optimizer)

    def compute_eval_logits(self) -> Tensor:
        """Compute the logits of the first images in evaluation mode."""
        self.model.eval()
        with torch.no_grad(), autocast(self.images.device, self.config.precision):
            logits: Tensor = self.model(self.images[:EVAL_IMAGES])
        self.model.train()
        return logits.float()


def compile_model(model: nn.Module, how: Compile) -> nn.Module:
    """Compile a network as ``train.compile`` does; its parameters stay those of ``model``."""
    if how == "no":
        return model
    return cast(nn.Module, torch.compile(model, mode="reduce-overhead" if how == "cuda-graphs" else None))


def tune_plan(
    architecture: Architecture,
    batch: int,
    size: int,
    precision: Precision,
    progress: Callable[[str], None] = lambda _: None,
    device: torch.device = CPU,
) -> Plan:
    """Find the plan that ``resnext.tune`` chooses for training on such batches; uses and fills the tuning cache."""
    model = build_network(OURS, architecture).to(device).to(memory_format=torch.channels_last)
    images = torch.zeros(batch, architecture.in_channels, size, size, device=device)
    return autotune(model, images.contiguous(memory_format=torch.channels_last), precision, progress=progress)


def fuse_all_norms(architecture: Architecture, plan: Plan) -> Plan:
    """Fuse all norms in the plan, which recomputing activations needs. Raises RequestError without a compiler."""
    with torch.device("meta"):
        return fuse_all(Network(architecture), plan)


def rebuild_step(
    architecture: dict[str, Any], config: dict[str, Any], batch: int, size: int, plan: dict[str, Any]
) -> Callable[[], object]:
    """Build the step in a fresh process; its first call uses two images, to allocate the momentum, later ones all."""
    step = TrainStep(Architecture(**architecture), StepConfig(**config), batch, size, Plan.from_dict(plan))
    images, labels = step.images, step.labels
    step.images, step.labels = images[:2], labels[:2]

    def work() -> None:
        step()
        step.images, step.labels = images, labels

    return work
