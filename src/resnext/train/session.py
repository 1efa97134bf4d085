"""All that a run holds while it runs, and how it comes to be: data, network, optimizer, position."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import nn

from resnext.data import open_data
from resnext.data.augment import train_transform
from resnext.data.classes import compare_classes
from resnext.data.loader import TrainLoader, default_workers
from resnext.data.preprocessing import Preprocessing
from resnext.data.randomness import seed_of
from resnext.data.source import Source
from resnext.errors import RequestError, printable
from resnext.model.network import Network, create_model
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe
from resnext.train.checkpoint import Position, read_checkpoint
from resnext.train.distributed import World
from resnext.train.ema import Ema
from resnext.train.finetune import freeze, network_from_run, network_from_weights, rate_scales, training_mode
from resnext.train.layout import faster_layout
from resnext.train.optimizer import build_optimizer

WEIGHTS = 0x3E16  # tag of seed_of: the weights draw from a stream of their own


@dataclass
class Session:
    """Everything a run holds while it runs."""

    recipe: Recipe
    run: RunDirectory
    world: World
    source: Source
    preprocessing: Preprocessing
    model: Network
    ddp: nn.Module  # the same network, gradients averaged over processes
    ema: Ema | None
    optimizer: torch.optim.Optimizer
    loader: TrainLoader
    position: Position

    @property
    def used(self) -> Network:
        """The weights one uses: the averaged ones where there is an EMA."""
        return self.model if self.ema is None else self.ema.model


def prepare(recipe: Recipe, run: RunDirectory, world: World, resume: bool, console: Console) -> Session:
    """Data, network, optimizer and position of a run, new or resumed; a new run's directory gets its first files."""
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    torch.backends.cudnn.deterministic = True
    source = open_data(recipe.data)
    model = starting_network(recipe, source, run, resume)
    preprocessing: Preprocessing = model.preprocessing
    loader = make_loader(recipe, source, preprocessing, world)
    if world.leads and not resume:
        for note in model.provenance.get("init", {}).get("notes", []):
            console.print(printable(f"{recipe.init.weights}: {note}"), highlight=False, markup=False, soft_wrap=True)
    freeze(model, recipe.init)
    training_mode(model.to(world.device))
    recipe = settle_layout(recipe, model, preprocessing, world, console)
    if recipe.train.channels_last == "yes":
        model = model.to(memory_format=torch.channels_last)
    ema = Ema(model, recipe.train.ema_decay, recipe.train.ema_warmup) if recipe.train.ema_decay else None
    optimizer = build_optimizer(model, recipe.optimizer, rate_scales(model, recipe.init.layer_decay))
    facts = {"classes": list(source.train.classes), "train_images": len(source.train), "val_images": len(source.val)}
    position = Position(facts=facts)
    if resume:
        position = read_checkpoint(run, model, ema, optimizer)
        check_same_data(position.facts, facts, run)
    ddp = world.wrap(model)
    return Session(recipe, run, world, source, preprocessing, model, ddp, ema, optimizer, loader, position)


def starting_network(recipe: Recipe, source: Source, run: RunDirectory, resume: bool) -> Network:
    """The network before the first step, or of the right shape to take a checkpoint, with preprocessing and classes."""
    if recipe.init.weights is None:
        preprocessing = Preprocessing.of(recipe.data, source)
        architecture = recipe.model.architecture(len(source.train.classes), source.train.channels)
        architecture.check_image_size(preprocessing.image_size, preprocessing.image_size)
        model = create_model(architecture, seed=seed_of(recipe.train.seed, WEIGHTS))
        model.preprocessing = preprocessing
    else:
        model = network_from_run(run) if resume else network_from_weights(recipe, source)
        model.architecture.check_image_size(model.preprocessing.image_size, model.preprocessing.image_size)
    model.classes = tuple(source.train.classes)
    return model


def make_loader(recipe: Recipe, source: Source, preprocessing: Preprocessing, world: World) -> TrainLoader:
    """The training batches of the recipe."""
    data, train = recipe.data, recipe.train
    return TrainLoader(
        source.train,
        train_transform(recipe.augment, preprocessing),
        seed=train.seed,
        batch_size=train.batch_size,
        drop_last=train.drop_last,
        workers=default_workers(source.train) if data.workers is None else data.workers,
        start_method=data.start_method,
        on_bad_image=data.on_bad_image,
        rank=world.rank,
        world_size=world.size,
    )


def settle_layout(recipe: Recipe, model: Network, p: Preprocessing, world: World, console: Console) -> Recipe:
    """The recipe with channels_last decided: by measurement where it says auto."""
    if recipe.train.channels_last != "auto":
        return recipe
    part = recipe.train.batch_size // world.size // recipe.train.accumulate
    seconds = faster_layout(model, part, p.image_size, world.device, recipe.train.precision)
    votes = world.sum([seconds["no"], seconds["yes"]])
    choice = "yes" if votes[1] < votes[0] else "no"
    if world.leads:
        console.print(
            f"channels_last {choice}: measured {seconds['no'] * 1e3:.0f} ms a part in NCHW, "
            f"{seconds['yes'] * 1e3:.0f} ms in NHWC",
            highlight=False,
            soft_wrap=True,
        )
    return replace(recipe, train=replace(recipe.train, channels_last=choice))


def check_same_data(before: dict[str, Any], now: dict[str, Any], run: RunDirectory) -> None:
    """Raises RequestError where the data is not what the run was trained on so far."""
    compare_classes(before.get("classes", []), now["classes"], f"the data of {run.path}")
    for key, what in (("train_images", "training"), ("val_images", "held-out")):
        if before.get(key) != now[key]:
            raise RequestError(
                f"{run.path} was trained with {before.get(key)} {what} images, but the data now has {now[key]}: "
                "a run goes on only with the data it began with"
            )
