"""Set up a detection run: data, detector, optimizer, position."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from torch import nn

from resnext.data.loader import default_file_workers
from resnext.detect.data.augment import Augment
from resnext.detect.data.dataset import DetectionDataset
from resnext.detect.data.loader import DetectLoader
from resnext.detect.data.open import open_detection_data
from resnext.detect.evaluate.coco_eval import check_pycocotools
from resnext.detect.model.faster_rcnn import OBJECT_CLASSES, FasterRcnn
from resnext.detect.model.fuse import fuse_detector
from resnext.detect.preprocessing import DetectPreprocessing
from resnext.detect.settings import DetectRecipe
from resnext.detect.train.initial_weights import build_initial_detector, restore_detector
from resnext.errors import RequestError
from resnext.model.frozen_norm import check_frozen_norms
from resnext.model.plan import Plan, fuse_all
from resnext.run_directory import RunDirectory
from resnext.speed import kernels
from resnext.train.checkpoint import Position
from resnext.train.distributed import World
from resnext.train.finetune import freeze_stages, group_modules_by_stage, set_training_mode
from resnext.train.optimizer import build_optimizer
from resnext.train.session import (
    BaseSession,
    broadcast_checkpoint,
    check_warmup,
    collect_data_facts,
    configure_process,
    make_ema,
    print_notes,
    read_saved_plan,
    restore_position,
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
    configure_process(recipe.train, world)
    check_pycocotools()
    train, val = open_detection_data(recipe.data)
    if recipe.train.stage == "rpn":
        train, val = merge_classes(train), merge_classes(val)
    files = broadcast_checkpoint(run, world) if resume else {}
    model = restore_detector(files["model"]) if files else build_initial_detector(recipe, train)
    if world.is_main and not resume:
        print_notes(model.provenance, recipe.init.weights, console)
    model.category_ids = None if recipe.train.stage == "rpn" or train.has_generated_ids else train.category_ids
    freeze_detector(model, recipe)
    set_training_mode(model.to(world.device))
    plan = read_saved_plan(files) if files else plan_fused_norms(model, recipe, world)
    if recipe.train.channels_last == "yes":
        model = model.to(memory_format=torch.channels_last)
    if recipe.train.fast == "yes":
        fuse_detector(model, plan)
    else:
        check_frozen_norms(model)
    loader = make_loader(recipe, train, model.preprocessing, world)
    check_warmup(recipe, loader.steps_per_epoch)
    ema = make_ema(recipe, model)
    optimizer = build_optimizer(model, recipe.optimizer)
    scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.train.precision == "fp16")
    facts = collect_data_facts(train, val, DetectionDataset.listing_digest)
    position = Position(facts=facts, plan=plan.to_dict())
    if resume:
        position = restore_position(files, run, facts, model, ema, optimizer, scaler)
    return DetectSession(
        recipe=recipe,
        run=run,
        world=world,
        train=train,
        val=val,
        model=model,
        ddp=world.wrap_ddp(model),
        ema=ema,
        optimizer=optimizer,
        scaler=scaler,
        loader=loader,
        position=position,
    )


def merge_classes(dataset: DetectionDataset) -> DetectionDataset:
    """Merge all classes into the single class of the rpn stage."""
    return replace(dataset, classes=OBJECT_CLASSES, category_ids=(1,), labels=np.zeros_like(dataset.labels))


def freeze_detector(model: FasterRcnn, recipe: DetectRecipe) -> None:
    """Freeze stages and BN as the init settings say. Raises RequestError for an unknown stage."""
    if recipe.init.layer_decay != 1:
        raise RequestError("init.layer_decay is not supported in detection: leave it at 1")
    places = [model.network, *([model.roi_heads.box_head] if hasattr(model, "roi_heads") else [])]
    parts = {name: module for place in places for name, module in place.named_children()}
    stages = {
        name: [parts[part] for part in stage if part in parts]
        for name, stage in group_modules_by_stage(model.network).items()
    }
    trained = [bn for name, bn in model.named_modules() if isinstance(bn, nn.BatchNorm2d) and "proposer." not in name]
    freeze_stages(stages, trained, recipe.init, model.architecture.name)


def plan_fused_norms(model: FasterRcnn, recipe: DetectRecipe, world: World) -> Plan:
    """Plan fused kernels for the norms that train, where they are available."""
    fast = recipe.train.fast == recipe.train.channels_last == "yes" and world.device.type == "cpu"
    return fuse_all(model, Plan()) if fast and kernels.is_fast_enabled() and kernels.load() else Plan()


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
        workers=default_file_workers() if workers is None else workers,
        start_method=recipe.data.start_method,
        rank=world.rank,
        world_size=world.size,
    )
