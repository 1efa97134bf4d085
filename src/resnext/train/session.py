"""The session: all objects of a run (data, network, optimizer, position), and how they are built or restored."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from rich.console import Console
from torch import nn

from resnext.data import open_data
from resnext.data.classes import check_same_classes
from resnext.data.dataset import Source, hash_dataset_listing
from resnext.data.loader import TrainLoader, default_workers
from resnext.data.preprocessing import Preprocessing
from resnext.data.seeding import derive_seed
from resnext.data.transforms.pipeline import build_jpeg_transform, build_train_transform, resolve_train_preprocessing
from resnext.errors import RequestError, escape_unprintable
from resnext.model.blocks import Block
from resnext.model.network import Network, create_model
from resnext.model.plan import Plan, set_activation_checkpointing
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe, RunSettings
from resnext.speed.allocator import tune_malloc
from resnext.speed.kernels import is_fast_enabled
from resnext.train.autotune import autotune_training
from resnext.train.checkpoint import Position, read_checkpoint, restore_checkpoint
from resnext.train.distributed import World
from resnext.train.ema import Ema
from resnext.train.finetune import (
    freeze,
    load_checkpoint_model,
    load_initial_network,
    lr_multipliers,
    set_training_mode,
)
from resnext.train.lock import RunLock
from resnext.train.optimizer import build_optimizer
from resnext.train.sync_norm import convert_to_sync_bn
from resnext.weights import load

WEIGHTS_SEED_TAG = 0x3E16  # tag for derive_seed: initial weights have their own random stream


@dataclass(kw_only=True)
class BaseSession:
    """The objects that classification and detection runs share."""

    recipe: Any
    run: RunDirectory
    world: World
    model: Any  # the trained network; has provenance
    ddp: nn.Module  # the same network, wrapped to average gradients over processes
    ema: Ema | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # scales the loss in fp16; disabled in other precisions
    loader: Any  # yields the training batches
    position: Position
    lock: RunLock | None = None  # of the run directory, in rank 0

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the whole run."""
        return self.recipe.train.total_steps(self.loader.steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole run; ``train.steps`` may end it within the last one."""
        return -(-self.total_steps // self.loader.steps_per_epoch)

    @property
    def eval_model(self) -> Any:
        """The model to evaluate and save: the averaged one if there is an EMA."""
        return self.model if self.ema is None else self.ema.model


@dataclass(kw_only=True)
class Session(BaseSession):
    """The objects of a classification run."""

    recipe: Recipe
    source: Source
    preprocessing: Preprocessing
    model: Network
    loader: TrainLoader
    micro_batches: int  # number of micro-batches of this process per step


def build_session(recipe: Recipe, run: RunDirectory, world: World, resume: bool, console: Console) -> Session:
    """Build the session of a new or resumed run: data, network, optimizer, position."""
    configure_process(recipe.train, world)
    source = open_data(recipe.data)
    files = broadcast_checkpoint(run, world) if resume else {}
    model = build_network(recipe, source, files)
    preprocessing: Preprocessing = model.preprocessing
    loader = make_loader(recipe, source, preprocessing, world)
    check_warmup(recipe, loader.steps_per_epoch)
    parts = count_micro_batches(recipe, world.size)
    if world.is_main and not resume:
        print_notes(model.provenance, recipe.init.weights, console)
    freeze(model, recipe.init)
    set_drop_path(model, recipe.train.drop_path)
    set_training_mode(model.to(world.device))
    train_size = resolve_train_preprocessing(recipe.augment, preprocessing).image_size
    recipe, plan = choose_fast_paths(recipe, model, train_size, loader.steps_per_epoch, files, world, console)
    plan.apply(model)
    if recipe.train.sync_bn:
        convert_to_sync_bn(model)
    if recipe.train.channels_last == "yes":
        model = model.to(memory_format=torch.channels_last)
    ema = make_ema(recipe, model)
    fused = recipe.train.fast == "yes" and is_fast_enabled()
    optimizer = build_optimizer(model, recipe.optimizer, lr_multipliers(model, recipe.init.layer_decay), fused=fused)
    scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.train.precision == "fp16")
    facts = collect_data_facts(source.train, source.val, hash_dataset_listing)
    position = Position(facts=facts, plan=plan.to_dict())
    if resume:
        position = restore_position(files, run, facts, model, ema, optimizer, scaler)
    ddp = compile_model(world.wrap_ddp(model), recipe.train.compile)
    return Session(
        recipe=recipe,
        run=run,
        world=world,
        source=source,
        preprocessing=preprocessing,
        model=model,
        ddp=ddp,
        ema=ema,
        optimizer=optimizer,
        scaler=scaler,
        loader=loader,
        position=position,
        micro_batches=parts,
    )


def configure_process(train: RunSettings, world: World) -> None:
    """Set threads, determinism and memory allocation of the process, before anything is built."""
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    torch.backends.cudnn.deterministic = True
    if world.device.type == "cpu":
        tune_malloc()


def print_notes(provenance: dict[str, Any], weights: str | None, console: Console) -> None:
    """Print notes on the initial weights: what was assumed and what was not loaded."""
    for note in provenance.get("init", {}).get("notes", []):
        console.print(escape_unprintable(f"{weights}: {note}"), highlight=False, markup=False, soft_wrap=True)


def restore_position(
    files: dict[str, bytes],
    run: RunDirectory,
    facts: dict[str, Any],
    model: nn.Module,
    ema: Ema | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Position:
    """Load the last checkpoint into model, EMA, optimizer and scaler; return the position.

    Raises RequestError if the data (``facts``) is not what the run was trained on.
    """
    position = restore_checkpoint(files, run, model, ema, optimizer)
    check_same_data(position.facts, facts, run)
    if position.scaler:
        scaler.load_state_dict(position.scaler)
    return position


def read_saved_plan(files: dict[str, bytes]) -> Plan:
    """Read the plan of fast paths from a checkpoint."""
    return Plan.from_dict(json.loads(files["state"])["position"].get("plan") or Plan().to_dict())


def compile_model(ddp: nn.Module, how: str) -> nn.Module:
    """Apply ``train.compile``: leave the network as it is, or compile it, possibly with CUDA graphs."""
    if how == "no":
        return ddp
    return cast(nn.Module, torch.compile(ddp, mode="reduce-overhead" if how == "cuda-graphs" else None))


def broadcast_checkpoint(run: RunDirectory, world: World) -> dict[str, bytes]:
    """Read the files of the last checkpoint in rank 0 and send them to all processes."""
    files = read_checkpoint(run) if world.is_main else {}
    return {key: world.broadcast_bytes(files.get(key, b"")) for key in ("state", "model", "training")}


def build_network(recipe: Recipe, source: Source, files: dict[str, bytes]) -> Network:
    """Build the network with preprocessing and classes; checkpoint tensors, if any, are loaded into it later."""
    if recipe.init.weights is None:
        preprocessing = Preprocessing.from_settings(recipe.data, source)
        architecture = recipe.model.architecture(len(source.train.classes), source.train.channels)
        model = create_model(architecture, seed=derive_seed(recipe.train.seed, WEIGHTS_SEED_TAG))
        model.preprocessing = preprocessing
    else:
        model = load_checkpoint_model(files["model"], load) if files else load_initial_network(recipe, source)
    for size in (model.preprocessing.image_size, recipe.augment.size or model.preprocessing.image_size):
        model.architecture.check_image_size(size, size)
    model.classes = tuple(source.train.classes)
    return model


def make_loader(recipe: Recipe, source: Source, preprocessing: Preprocessing, world: World) -> TrainLoader:
    """Build the training data loader."""
    data, train = recipe.data, recipe.train
    return TrainLoader(
        source.train,
        (build_jpeg_transform if data.jpeg_decoder == "fast" else build_train_transform)(recipe.augment, preprocessing),
        seed=train.seed,
        batch_size=train.batch_size,
        drop_last=train.drop_last,
        workers=default_workers(source.train) if data.workers is None else data.workers,
        start_method=data.start_method,
        on_bad_image=data.on_bad_image,
        rank=world.rank,
        world_size=world.size,
        repeats=recipe.augment.repeated_augmentation,
    )


def check_warmup(recipe: Any, steps_per_epoch: int) -> None:
    """Raise RequestError if the warm-up is as long as the whole run."""
    total, warmup = recipe.train.total_steps(steps_per_epoch), recipe.schedule.warmup_epochs * steps_per_epoch
    if warmup >= total:
        raise RequestError(
            f"schedule.warmup_epochs {recipe.schedule.warmup_epochs:g} ({warmup:g} steps) must be shorter than "
            f"the whole run ({total:,} steps)"
        )


def count_micro_batches(recipe: Recipe, processes: int) -> int:
    """Return the number of micro-batches per process and step.

    Raises RequestError if they cannot be divided evenly between processes.
    """
    train = recipe.train
    if train.bn_batch_size is None:
        return 1
    parts = train.batch_size // train.bn_batch_size
    if parts % processes:
        raise RequestError(
            f"train.batch_size {train.batch_size} with train.bn_batch_size {train.bn_batch_size} gives {parts} "
            "micro-batches, "
            f"which cannot be divided evenly between {processes} processes; choose a number of processes that divides "
            f"{parts}, or a smaller train.bn_batch_size"
        )
    return parts // processes


def set_drop_path(model: Network, p: float) -> None:
    """Set stochastic depth: drop probabilities rise linearly from 0 at the first block to ``p`` at the last.

    Raises RequestError for a network without shortcuts, where a dropped block would leave no signal.
    """
    if p and model.architecture.shortcut == "none":
        raise RequestError("train.drop_path needs shortcuts, but model.shortcut is none")
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for number, block in enumerate(blocks):
        block.drop_path = p * number / max(len(blocks) - 1, 1)


def make_ema(recipe: Any, model: nn.Module) -> Ema | None:
    """Build the EMA, or None if ``train.ema_decay`` is 0."""
    train = recipe.train
    return Ema(model, train.ema_decay, train.ema_warmup, train.ema_steps) if train.ema_decay else None


def choose_fast_paths(
    recipe: Recipe, model: Network, size: int, steps: int, files: dict[str, bytes], world: World, console: Console
) -> tuple[Recipe, Plan]:
    """Choose memory layout and plan of fast paths: autotuned for a new run, from the checkpoint for a resumed one."""
    set_activation_checkpointing(model, recipe.train.activation_checkpointing)
    if files:
        return recipe, read_saved_plan(files)
    parts = count_micro_batches(recipe, world.size)
    part = recipe.train.batch_size // world.size // parts
    total = recipe.train.total_steps(steps) * parts
    return autotune_training(recipe, model, (part, size), total, world, console)


def collect_data_facts(train: Any, val: Any, listing: Callable[[Any], str]) -> dict[str, Any]:
    """Collect what identifies the data of a run; ``listing`` computes a digest of a split's images and labels."""
    facts: dict[str, Any] = {"classes": list(train.classes)}
    for name, split in (("train", train), ("val", val)):
        facts |= {f"{name}_images": len(split), f"{name}_listing": listing(split)}
    return facts


def check_same_data(before: dict[str, Any], now: dict[str, Any], run: RunDirectory) -> None:
    """Raise RequestError if the data is not what the run was trained on."""
    check_same_classes(before.get("classes", []), now["classes"], f"the data of {run.path}")
    for split, what in (("train", "training"), ("val", "held-out")):
        had, has = (facts.get(f"{split}_images") for facts in (before, now))
        listing = before.get(f"{split}_listing")  # missing in runs of older versions
        if had != has or listing not in (None, now[f"{split}_listing"]):
            others = f"{has}" if had != has else f"{has}, some with other names or labels"
            raise RequestError(
                f"{run.path} was trained with {had} {what} images, but the data now has {others}: "
                "a run can be resumed only with the same data"
            )
