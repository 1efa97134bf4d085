"""Set up a detection run: data, detector, optimizer, position."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from torch import nn

from resnext.data.loader import workers_for_files
from resnext.detect.augment import Augment
from resnext.detect.dataset import DetectionDataset
from resnext.detect.evaluator import check_installed
from resnext.detect.fast import make_fast
from resnext.detect.faster_rcnn import OBJECT, FasterRcnn
from resnext.detect.loader import DetectLoader
from resnext.detect.open import open_detection
from resnext.detect.preprocessing import DetectPreprocessing
from resnext.detect.settings import DetectRecipe
from resnext.detect.starting import detector_from_checkpoint, starting_detector
from resnext.errors import RequestError
from resnext.model.frozen import check_frozen
from resnext.model.plan import Plan, fuse_all
from resnext.run_directory import RunDirectory
from resnext.speed import kernels
from resnext.train.checkpoint import Position
from resnext.train.distributed import World
from resnext.train.finetune import freeze_stages, stages_of, training_mode
from resnext.train.optimizer import build_optimizer
from resnext.train.session import (
    BaseSession,
    begun_plan,
    check_length,
    data_facts,
    make_ema,
    prepare_machine,
    resumed_position,
    say_notes,
    shared_checkpoint,
)


@dataclass(kw_only=True)
class DetectSession(BaseSession):
    """The state of a detection run in memory."""

    recipe: DetectRecipe
    train: DetectionDataset
    val: DetectionDataset
    model: FasterRcnn
    loader: DetectLoader


def prepare(recipe: DetectRecipe, run: RunDirectory, world: World, resume: bool, console: Console) -> DetectSession:
    """Set up data, detector, optimizer and position of a new or resumed run."""
    prepare_machine(recipe.train, world)
    check_installed()
    train, val = open_detection(recipe.data)
    if recipe.train.learn == "rpn":
        train, val = as_one_class(train), as_one_class(val)
    files = shared_checkpoint(run, world) if resume else {}
    model = detector_from_checkpoint(files["model"]) if files else starting_detector(recipe, train)
    if world.leads and not resume:
        say_notes(model.provenance, recipe.init.weights, console)
    model.category_ids = None if recipe.train.learn == "rpn" or train.own_ids else train.category_ids
    freeze_detector(model, recipe)
    training_mode(model.to(world.device))
    plan = begun_plan(files) if files else fused_norms(model, recipe, world)
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.train.fast:
        make_fast(model, plan)
    else:
        check_frozen(model)
    loader = make_loader(recipe, train, model.preprocessing, world)
    check_length(recipe, loader.steps_per_epoch)
    ema = make_ema(recipe, model)
    optimizer = build_optimizer(model, recipe.optimizer)
    scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.train.precision == "fp16")
    facts = data_facts(train, val, DetectionDataset.listing_digest)
    position = Position(facts=facts, plan=plan.as_json())
    if resume:
        position = resumed_position(files, run, facts, model, ema, optimizer, scaler)
    return DetectSession(
        recipe=recipe,
        run=run,
        world=world,
        train=train,
        val=val,
        model=model,
        ddp=world.wrap(model),
        ema=ema,
        optimizer=optimizer,
        scaler=scaler,
        loader=loader,
        position=position,
    )


def as_one_class(dataset: DetectionDataset) -> DetectionDataset:
    """Merge all classes into the single class of the rpn stage."""
    return replace(dataset, classes=OBJECT, category_ids=(1,), labels=np.zeros_like(dataset.labels))


def freeze_detector(model: FasterRcnn, recipe: DetectRecipe) -> None:
    """Freeze stages and BN as the init settings say. Raises RequestError for an unknown stage."""
    if recipe.init.layer_decay != 1:
        raise RequestError("init.layer_decay is not supported in detection: leave it at 1")
    places = [model.network, *([model.roi_heads.box_head] if hasattr(model, "roi_heads") else [])]
    parts = {name: module for place in places for name, module in place.named_children()}
    stages = {
        name: [parts[part] for part in stage if part in parts] for name, stage in stages_of(model.network).items()
    }
    trained = [bn for name, bn in model.named_modules() if isinstance(bn, nn.BatchNorm2d) and "proposer." not in name]
    freeze_stages(stages, trained, recipe.init, model.architecture.name)


def fused_norms(model: FasterRcnn, recipe: DetectRecipe, world: World) -> Plan:
    """Plan fused kernels for the norms that train, where they are available."""
    usable = recipe.train.fast and world.device.type == "cpu" and recipe.train.channels_last
    return fuse_all(model, Plan()) if usable and kernels.switched_on() and kernels.load() else Plan()


def make_loader(
    recipe: DetectRecipe, train: DetectionDataset, preprocessing: DetectPreprocessing, world: World
) -> DetectLoader:
    """Build the training data loader."""
    workers = recipe.data.workers
    return DetectLoader(
        train,
        Augment(recipe.augment, preprocessing),
        seed=recipe.train.seed,
        batch_size=recipe.train.batch_size,
        group=recipe.augment.group,
        workers=workers_for_files() if workers is None else workers,
        start_method=recipe.data.start_method,
        rank=world.rank,
        world_size=world.size,
    )
