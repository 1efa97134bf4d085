"""Train the network of a recipe without this package's training: by timm's train.py, or by a plain PyTorch loop.

    python tools/train_peer.py timm recipe.yaml --data DIR --out DIR --script pytorch-image-models/train.py
    python tools/train_peer.py plain recipe.yaml --data DIR --out DIR --layout NCHW

For tools/measure_time_to_accuracy.py. The network, its initial weights, the data (DIR/train/CLASS, DIR/test/CLASS), the
augmentation, schedule, batch size and precision are those of the recipe. The network is written in torch.nn's layers.
timm's train.py is a file of timm's repository at the tag of the installed version; it is not part of timm's wheel. It
gets the network by timm's register_model, and one thing it lacks: a random crop after padding.
Prints a line when training begins and one for each evaluation.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from resnext.data.seeding import derive_seed
from resnext.data.sources.cifar import CIFAR10
from resnext.device import autocast
from resnext.evaluation.evaluator import BATCH_SIZE
from resnext.model.architecture import Architecture, Stage
from resnext.model.network import create_model
from resnext.recipe import read_recipe
from resnext.settings import Recipe
from resnext.training.finetune import WEIGHTS_SEED_TAG
from resnext.training.schedule import compute_learning_rate

BEGIN = "training begins"
SUPPORTED: dict[str, tuple[object, ...]] = {  # settings that the peers can have, by name
    "optimizer.name": ("sgd",),
    "optimizer.nesterov": (True,),
    "optimizer.weight_decay_on": ("weights",),
    "schedule.name": ("cosine",),
    "schedule.final_lr": (0.0,),
    "augment.crop": ("pad",),
    **dict.fromkeys(("augment.mixup", "augment.cutmix", "augment.random_erasing", "augment.color_jitter"), (0.0,)),
    **dict.fromkeys(("augment.lighting", "train.drop_path", "init.frozen_bn"), (0.0,)),
    **dict.fromkeys(("augment.trivial_augment", "augment.rand_augment", "train.bn_batch_size"), (False, None)),
    **dict.fromkeys(("train.steps", "train.grad_clip_norm", "init.weights", "data.max_train_images"), (None,)),
    "augment.repeated_augmentation": (1,),
    "train.loss": ("cross_entropy",),
    "train.drop_last": (True,),
    "train.precision": ("fp32", "bf16"),
    "train.ema_steps": (1,),
    "train.ema_warmup": (False,),  # timm's grows otherwise, torch's does not
    "train.evaluate_every": (1,),
}


def main() -> None:
    """Train by one of the peers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("timm", "plain"))
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where checkpoints go")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="loading processes [1]")
    parser.add_argument("--layout", choices=("NHWC", "NCHW"), default="NHWC")
    parser.add_argument("--script", type=Path, metavar="PATH", help="timm's train.py")
    args = parser.parse_args()
    recipe = read_recipe(args.recipe)
    check_supported(recipe)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.peer == "plain":
        train_plain(recipe, args.data, args.out, args.workers, channels_last=args.layout == "NHWC")
    else:
        if args.script is None:
            parser.error("timm needs --script, timm's train.py")
        train_timm(recipe, args.data, args.out, args.workers, args.layout == "NHWC", args.script)


def check_supported(recipe: Recipe) -> None:
    """Exit with a sentence if the recipe has a setting that the peers cannot have."""
    for key, allowed in SUPPORTED.items():
        section, name = key.split(".")
        value = getattr(getattr(recipe, section), name)
        if value not in allowed:
            raise SystemExit(f"the peers train with {key} {' or '.join(map(str, allowed))}, but the recipe has {value}")
    if recipe.schedule.warmup_epochs != int(recipe.schedule.warmup_epochs):
        raise SystemExit("timm's train.py takes whole schedule.warmup_epochs only")


class PlainBlock(nn.Module):
    """A bottleneck block with grouped 3x3 convolution, as in torchvision, with any numbers of channels."""

    def __init__(self, stage: Stage, cardinality: int, in_channels: int, stride: int) -> None:
        super().__init__()
        width, out = cardinality * stage.width, stage.out_channels
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=cardinality, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or in_channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        y: Tensor = self.relu(x.add_(shortcut))
        return y


class PlainResNeXt(nn.Module):
    """A network of the paper's CIFAR template in torch.nn's layers, with torchvision's names of parameters."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        if (a.stem, a.block, a.shortcut, a.pre_activation) != ("cifar", "bottleneck", "B", False):
            raise SystemExit(f"the peers train bottleneck networks with the CIFAR stem and shortcut B, not {a}")
        self.num_classes = a.num_classes
        self.pretrained_cfg = self.default_cfg = {"num_classes": a.num_classes}  # timm asks for it
        self.conv1 = nn.Conv2d(a.in_channels, a.base_channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(a.base_channels)
        self.relu = nn.ReLU(inplace=True)
        self.stages = [f"layer{number}" for number, _ in enumerate(a.stages, 1)]
        for name, stage in zip(self.stages, a.stages, strict=True):
            blocks = [PlainBlock(stage, a.cardinality, stage.in_channels, stage.stride)]
            blocks += [PlainBlock(stage, a.cardinality, stage.out_channels, 1) for _ in range(stage.blocks - 1)]
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(a.stages[-1].out_channels, a.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, K]."""
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def build_network(recipe: Recipe) -> PlainResNeXt:
    """Build the recipe's network for CIFAR-10, with the initial weights that this package draws."""
    architecture = recipe.model.architecture(CIFAR10.classes, 3)
    network = PlainResNeXt(architecture)
    seed = derive_seed(recipe.train.seed, WEIGHTS_SEED_TAG)
    network.load_state_dict(create_model(architecture, seed=seed).state_dict())
    return network


def build_augmentation(recipe: Recipe) -> list[Any]:
    """Build the random part of the training transform from torchvision's transforms."""
    data, augment = recipe.data, recipe.augment
    assert data.image_size is not None
    assert data.mean is not None
    colour = tuple(round(255 * mean) for mean in data.mean)
    crop = transforms.RandomCrop(data.image_size, padding=augment.pad, fill=colour)
    return [crop, transforms.RandomHorizontalFlip(augment.flip)]


def train_plain(recipe: Recipe, data: Path, out: Path, workers: int, *, channels_last: bool) -> None:
    """Train as a tutorial would: torchvision's folder and transforms, a DataLoader, SGD, autocast."""
    train, device = recipe.train, torch.device("cpu")
    torch.manual_seed(train.seed)
    normalise = [transforms.ToTensor(), transforms.Normalize(recipe.data.mean, recipe.data.std)]
    images = datasets.ImageFolder(data / "train", transforms.Compose([*build_augmentation(recipe), *normalise]))
    held_out = datasets.ImageFolder(data / "test", transforms.Compose(normalise))
    keep = workers > 0
    loader = DataLoader(images, train.batch_size, True, num_workers=workers, drop_last=True, persistent_workers=keep)
    test_loader = DataLoader(held_out, BATCH_SIZE, num_workers=workers, persistent_workers=keep)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = build_network(recipe).to(memory_format=layout)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay), use_buffers=True)
    evaluated: nn.Module = average if train.ema_decay else network
    optimizer = build_optimizer(network, recipe)
    steps = train.total_steps(len(loader))
    print(BEGIN, flush=True)
    for epoch in range(steps // len(loader)):
        start = time.perf_counter()
        network.train()
        for number, (x, labels) in enumerate(loader, epoch * len(loader)):
            for group in optimizer.param_groups:
                group["lr"] = compute_learning_rate(recipe.schedule, recipe.optimizer.lr, steps, len(loader), number)
            optimizer.zero_grad()
            with autocast(device, train.precision):
                logits = network(x.contiguous(memory_format=layout))
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=train.label_smoothing)
            loss.backward()
            optimizer.step()
            if train.ema_decay:
                average.update_parameters(network)
        middle = time.perf_counter()
        wrong = 0
        evaluated.eval()
        with torch.inference_mode(), autocast(device, train.precision):
            for x, labels in test_loader:
                wrong += int((evaluated(x.contiguous(memory_format=layout)).argmax(1) != labels).sum())
        seconds = middle - start, time.perf_counter() - middle
        print_epoch(epoch + 1, 100 * wrong / len(held_out), *seconds, len(loader) * train.batch_size)
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, out / "last.pt")


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build SGD with weight decay on convolution and linear weights only."""
    settings = recipe.optimizer
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, settings.lr, settings.momentum, nesterov=True)


def train_timm(recipe: Recipe, data: Path, out: Path, workers: int, channels_last: bool, script: Path) -> None:
    """Run timm's train.py with the recipe's settings, its network and its crop."""
    from timm.data import loader
    from timm.data.transforms import MaybePILToTensor
    from timm.models import register_model

    def peer_network(pretrained: bool = False, **_: object) -> PlainResNeXt:  # noqa: ARG001 - as timm calls it
        return build_network(recipe)

    register_model(peer_network)
    make_transform = loader.create_transform

    def create_transform(*args: Any, **options: Any) -> Any:
        if options["is_training"]:
            return transforms.Compose([*build_augmentation(recipe), MaybePILToTensor()])
        return make_transform(*args, **options)

    loader.create_transform = create_transform
    spec = importlib.util.spec_from_file_location("timm_train", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.argv = [str(script), *list_timm_options(recipe, data, out, workers, channels_last=channels_last)]
    report_epochs(module)
    module.main()


def list_timm_options(recipe: Recipe, data: Path, out: Path, workers: int, *, channels_last: bool) -> list[str]:
    """List the options of timm's train.py that say what the recipe says.

    Its cosine schedule has the warm-up before it with --warmup-prefix, as this package's, and --epochs counts the rest.
    Its sgd has Nesterov momentum, and by default norms and biases have no weight decay.
    """
    train, optimizer, schedule = recipe.train, recipe.optimizer, recipe.schedule
    warmup = int(schedule.warmup_epochs)
    assert train.epochs is not None
    options = ["--data-dir", str(data), "--output", str(out), "--experiment", "timm"]
    options += (
        "--train-split train --val-split test --device cpu --checkpoint-hist 1 --log-interval 1000 "
        f"--model peer_network --num-classes {CIFAR10.classes} --img-size {recipe.data.image_size} --crop-pct 1 "
        f"--workers {workers} --batch-size {train.batch_size} --validation-batch-size {BATCH_SIZE} "
        f"--opt sgd --lr {optimizer.lr} --momentum {optimizer.momentum} --weight-decay {optimizer.weight_decay} "
        f"--sched cosine --sched-on-updates --epochs {train.epochs - warmup} --min-lr 0 "
        f"--warmup-epochs {warmup} --warmup-lr {schedule.warmup_start * optimizer.lr} "
        f"--smoothing {train.label_smoothing} --seed {train.seed}"
    ).split()
    options += ["--mean", *map(str, recipe.data.mean or ()), "--std", *map(str, recipe.data.std or ())]
    options += ["--warmup-prefix"] if warmup else []
    options += ["--channels-last"] if channels_last else []
    options += ["--amp", "--amp-dtype", "bfloat16"] if train.precision == "bf16" else []
    if train.ema_decay:
        options += ["--model-ema", "--model-ema-decay", str(train.ema_decay)]
    return options


def report_epochs(module: Any) -> None:
    """Let timm's train.py, loaded as a module, print this tool's lines."""
    seconds = {"train_one_epoch": 0.0, "validate": 0.0}
    images = 0

    def time_calls(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal images
            if name == "train_one_epoch":
                seconds.update(dict.fromkeys(seconds, 0.0))
                loader, batch_size = args[2], args[4].batch_size
                images = len(loader) * batch_size
                if args[0] == 0:
                    print(BEGIN, flush=True)
            start = time.perf_counter()
            found = function(*args, **options)
            seconds[name] += time.perf_counter() - start
            return found

        return call

    for name in seconds:
        setattr(module, name, time_calls(name, getattr(module, name)))
    write = module.utils.update_summary

    def update_summary(epoch: int, train: Any, evaluation: Any, *args: Any, **options: Any) -> None:
        print_epoch(epoch + 1, 100 - evaluation["top1"], seconds["train_one_epoch"], seconds["validate"], images)
        write(epoch, train, evaluation, *args, **options)

    module.utils.update_summary = update_summary


def print_epoch(epoch: int, error: float, training: float, evaluation: float, images: int) -> None:
    """Print the line of an evaluation, which tools/measure_time_to_accuracy.py reads."""
    seconds = f"training {training:.2f} s, evaluation {evaluation:.2f} s"
    print(f"epoch {epoch}: error {error:.2f} %, {seconds}, {images} images", flush=True)


if __name__ == "__main__":
    main()
