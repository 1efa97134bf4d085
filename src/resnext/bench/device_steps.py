"""Candidates of ``resnext bench all``: training steps and inference on one device, each checked before it is timed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnext.bench.candidates import CandidateSpec
from resnext.bench.check_outputs import (
    TOLERANCES,
    Distances,
    StepOutputs,
    check_distances,
    compute_outputs,
    measure_distances,
)
from resnext.bench.peers import OURS, build_network
from resnext.bench.train_step import Compile, StepConfig, TrainStep, compile_model, tune_plan
from resnext.choices import Precision
from resnext.deploy.engines import compute_relative_error
from resnext.deploy.fold import fold
from resnext.device import AUTOCAST_DTYPES
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from resnext.model.plan import Plan

PLAIN = StepConfig("plain", "fp32", channels_last=False)  # computes the outputs that all others are compared with
MIB = 1 << 20
Step = Callable[[], object]


@dataclass(frozen=True)
class DeviceWorkload:
    """The batch of noise that every candidate gets, and the device it is on."""

    batch: int
    size: int  # pixels
    device: torch.device


def list_training(architecture: Architecture, peers: Sequence[str], device: torch.device) -> list[CandidateSpec]:
    """List the training candidates, the most important first, since the last ones are left out when time is short.

    Ours and the peers with autocast and NHWC, then each peer's defaults, then on a GPU all compiled, with CUDA graphs,
    and in fp16. Ours is also measured as the ResNet of the same depth.
    """
    libraries = (OURS, *peers)
    same_depth = architecture.change(cardinality=1, width=64)
    with_resnet = architecture.cardinality > 1 and architecture.stem == "imagenet"

    def with_config(how: Compile) -> list[CandidateSpec]:
        configs = [StepConfig(library, "bf16", compile=how) for library in libraries]
        found = [CandidateSpec(str(config), architecture, config) for config in configs]
        if with_resnet:
            found.insert(1, CandidateSpec(f"{same_depth.name}: {configs[0]}", same_depth, configs[0]))
        return found

    defaults = [StepConfig(peer, "fp32", channels_last=False) for peer in peers]
    further = [StepConfig(library, "fp16") for library in libraries] if device.type == "cuda" else []
    specs = with_config("no") + [CandidateSpec(str(config), architecture, config) for config in defaults]
    if device.type == "cuda":
        specs += with_config("yes") + with_config("cuda-graphs")
    return specs + [CandidateSpec(str(config), architecture, config) for config in further]


def list_inference(architecture: Architecture, peers: Sequence[str], device: torch.device) -> list[CandidateSpec]:
    """List the inference candidates: weights in bf16 and NHWC, on a GPU also compiled, with CUDA graphs, in fp16."""
    hows: tuple[Compile, ...] = ("no", "yes", "cuda-graphs") if device.type == "cuda" else ("no",)
    precisions: tuple[Precision, ...] = ("bf16", "fp16") if device.type == "cuda" else ("bf16", "fp32")
    configs = [
        StepConfig(library, precision, compile=how)
        for precision, how in [(precisions[0], how) for how in hows] + [(precisions[1], hows[-1])]
        for library in (OURS, *peers)
    ]
    return [CandidateSpec(str(config), architecture, config) for config in configs]


class InferStep:
    """A network in evaluation mode on one batch of noise; ours has its BN folded into the convolutions."""

    def __init__(self, architecture: Architecture, config: StepConfig, task: DeviceWorkload) -> None:
        model = build_network(config.library, architecture).eval()
        if config.library == OURS and isinstance(model, Network):
            model = fold(model)
        dtype = AUTOCAST_DTYPES.get(config.precision, torch.float32)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(task.device, dtype).to(memory_format=layout)
        self.forward = compile_model(self.model, config.compile)
        shape = (task.batch, architecture.in_channels, task.size, task.size)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        self.images = images.to(task.device, dtype).contiguous(memory_format=layout)

    def __call__(self) -> Tensor:
        """Compute the logits [B, K]."""
        with torch.inference_mode():
            logits: Tensor = self.forward(self.images)
        return logits


class TrainChecks:
    """Builds training steps, with the tuned plan of ours, and compares their outputs with PyTorch in fp32."""

    work = "train"

    def __init__(self, task: DeviceWorkload, show: Callable[[str], None]) -> None:
        self.task, self.show = task, show
        self.plans: dict[tuple[Architecture, str], Plan] = {}
        self.references: dict[Architecture, StepOutputs] = {}

    def build(self, spec: CandidateSpec) -> tuple[Step, Distances]:
        """Build a step and take it once. Raises WorkError if it computes something else."""
        a, config, task = spec.architecture, spec.config, self.task
        key, plan = (a, config.precision), None
        if config.library == OURS and key not in self.plans:
            self.plans[key] = tune_plan(a, task.batch, task.size, config.precision, self.show, task.device)
        if config.library == OURS:
            plan = self.plans[key]
        if a not in self.references:
            with without_tf32():
                plain = TrainStep(a, PLAIN, task.batch, task.size, None, task.device)
                self.references[a] = compute_outputs(plain)
        self.show(spec.name)
        step = TrainStep(a, config, task.batch, task.size, plan, task.device)
        found = measure_distances(compute_outputs(step), self.references[a])
        rounded = "tf32" if config.precision == "fp32" and task.device.type == "cuda" else config.precision
        check_distances(spec.name, rounded, found, TOLERANCES[rounded])
        return step, {
            "logits": max(found["logits in evaluation"], found["logits in training"]),
            "gradients": found["gradients"],
        }


class InferChecks:
    """Builds networks for inference and compares their logits with PyTorch in fp32."""

    work = "infer"

    def __init__(self, task: DeviceWorkload, show: Callable[[str], None]) -> None:
        self.task, self.show = task, show
        self.references: dict[Architecture, Tensor] = {}

    def build(self, spec: CandidateSpec) -> tuple[Step, Distances]:
        """Build a network and run it once. Raises WorkError if it computes something else."""
        a, config = spec.architecture, spec.config
        if a not in self.references:
            with without_tf32():
                self.references[a] = InferStep(a, PLAIN, self.task)().cpu()
        self.show(spec.name)
        step = InferStep(a, config, self.task)
        far = {"logits": compute_relative_error(step().float().cpu(), self.references[a])}
        allowed = TOLERANCES[config.precision]["logits in evaluation"]
        check_distances(spec.name, config.precision, far, {"logits": 2 * allowed})  # the weights are rounded too
        return step, far


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let convolutions and matrix products on a GPU compute in whole fp32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def measure_peak(step: Step, device: torch.device) -> int | None:
    """Measure by how many MiB a step raises the memory of a CUDA device at its peak; None on another device."""
    if device.type != "cuda":
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    synchronize(device)
    return round((torch.cuda.max_memory_allocated(device) - before) / MIB)
