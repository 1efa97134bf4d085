"""All that a detection run holds while it runs, and how it comes to be: data, detector, optimizer, position."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from resnext.data.preprocessing import Preprocessing
from resnext.data.randomness import seed_of
from resnext.detect.augment import Augment
from resnext.detect.dataset import DetectionDataset
from resnext.detect.evaluator import check_installed
from resnext.detect.fast import make_fast
from resnext.detect.faster_rcnn import OBJECT, FasterRcnn, around
from resnext.detect.files import holds_detector, load_detector
from resnext.detect.loader import DetectLoader
from resnext.detect.open import open_detection
from resnext.detect.preprocessing import DetectPreprocessing
from resnext.detect.settings import DetectRecipe
from resnext.environment import available_cores
from resnext.errors import RequestError, printable
from resnext.model.forms import convert_form
from resnext.model.frozen import check_frozen
from resnext.model.network import Network, create_model
from resnext.model.plan import Plan, fuse_all
from resnext.run_directory import RunDirectory
from resnext.speed import kernels
from resnext.speed.allocator import keep_memory
from resnext.train.checkpoint import Position, restore
from resnext.train.distributed import World
from resnext.train.ema import Ema
from resnext.train.finetune import check_architecture, freeze_stages, stages_of, training_mode
from resnext.train.optimizer import build_optimizer
from resnext.train.session import WEIGHTS, BaseSession, check_length, check_same_data, shared_checkpoint
from resnext.weights import load

MOST_WORKERS = 8  # by default


@dataclass(kw_only=True)
class DetectSession(BaseSession):
    """A run that learns to find what is in images."""

    recipe: DetectRecipe
    train: DetectionDataset
    val: DetectionDataset
    model: FasterRcnn
    loader: DetectLoader


def prepare(recipe: DetectRecipe, run: RunDirectory, world: World, resume: bool, console: Console) -> DetectSession:
    """Data, detector, optimizer and position of a run, new or resumed."""
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    torch.backends.cudnn.deterministic = True
    if world.device.type == "cpu":
        keep_memory()
    check_installed()
    train, val = open_detection(recipe.data)
    if recipe.train.learn == "rpn":
        train, val = as_one_class(train), as_one_class(val)
    files = shared_checkpoint(run, world) if resume else {}
    model = detector_from_checkpoint(files["model"]) if files else starting_detector(recipe, train)
    if world.leads and not resume:
        for note in model.provenance.get("init", {}).get("notes", []):
            console.print(printable(f"{recipe.init.weights}: {note}"), highlight=False, markup=False, soft_wrap=True)
    freeze_detector(model, recipe)
    training_mode(model.to(world.device))
    plan = Plan.from_json(position_plan(files)) if files else fused_norms(model, recipe, world)
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    check_frozen(model)
    if recipe.train.fast:
        make_fast(model, plan)
    loader = make_loader(recipe, train, model.preprocessing, world)
    check_length(recipe, loader.steps_per_epoch)
    ema = (
        Ema(model, recipe.train.ema_decay, recipe.train.ema_warmup, recipe.train.ema_steps)
        if recipe.train.ema_decay
        else None
    )
    optimizer = build_optimizer(model, recipe.optimizer)
    scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.train.precision == "fp16")
    facts = {"classes": list(train.classes), "train_images": len(train), "val_images": len(val)}
    position = Position(facts=facts, plan=plan.as_json())
    if resume:
        position = restore(files, run, model, ema, optimizer)
        check_same_data(position.facts, facts, run)
        if position.scaler:
            scaler.load_state_dict(position.scaler)
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
    """The data set as the rpn step sees it: objects, of whatever class."""
    return replace(dataset, classes=OBJECT, category_ids=(1,), labels=np.zeros_like(dataset.labels))


def starting_detector(recipe: DetectRecipe, train: DetectionDataset) -> FasterRcnn:
    """The detector before the first step: fresh, around a loaded network, or a loaded detector. Raises RequestError."""
    weights, learn, seed = recipe.init.weights, recipe.train.learn, recipe.train.seed
    proposer = None if recipe.train.proposals is None else proposer_of(recipe.train.proposals)
    if weights is None:
        architecture = recipe.model.architecture(0, 3)
        network, base, provenance = create_model(architecture, seed=seed_of(seed, WEIGHTS)), None, {}
    else:
        loaded = load_detector(weights) if holds_detector(weights) else None
        if loaded is not None and learn == loaded.learn == "joint":
            return adapted(loaded, recipe, train.classes)
        network, base, notes = loaded_network(weights, loaded, recipe)
        provenance = {"init": {"weights": weights, "notes": notes}}
    view = DetectPreprocessing.of(recipe.data, base)
    if proposer is not None:
        check_colours(view, proposer.preprocessing, recipe.train.proposals)
    model = around(
        network,
        recipe.detector,
        train.classes,
        view,
        seed=seed,
        learn=learn,
        proposer=proposer,
    )
    model.provenance = provenance
    return model


def adapted(model: FasterRcnn, recipe: DetectRecipe, classes: tuple[str, ...]) -> FasterRcnn:
    """A loaded detector for the data's ``classes``: its last layers start anew where those are others.

    The recipe's detector settings that shape no tensor are taken. Raises RequestError for those that do and differ.
    """
    check_architecture(recipe.model, model.architecture, str(recipe.init.weights))
    fresh = around(
        create_model(model.architecture.change(num_classes=0), seed=0),
        recipe.detector,
        classes,
        DetectPreprocessing.of(recipe.data, model.preprocessing),
        seed=recipe.train.seed,
    )
    state, mine = model.state_dict(), fresh.state_dict()
    notes = list(model.provenance.get("notes", []))
    if model.classes != classes:
        notes.append(
            f"the detector's last layers start anew: {len(classes)} classes in place of its {len(model.classes)}"
        )
        state |= {name: value for name, value in mine.items() if name.startswith("roi_heads.box_predictor.")}
    for name, value in mine.items():
        if name not in state or state[name].shape != value.shape:
            theirs = tuple(state[name].shape) if name in state else "none"
            raise RequestError(
                f"{recipe.init.weights} is a detector of another shape: {name} is {tuple(value.shape)} by the recipe, "
                f"{theirs} there; leave detector.layout, fpn_channels, head_channels and the anchors as they were"
            )
    fresh.load_state_dict({name: state[name] for name in mine})
    fresh.provenance = {"init": {"weights": recipe.init.weights, "notes": notes}}
    return fresh


def proposer_of(source: str) -> FasterRcnn:
    """The detector of the rpn step. Raises RequestError for another."""
    proposer = load_detector(source)
    if proposer.learn != "rpn":
        raise RequestError(
            f"train.proposals {source} is no run of the rpn step (train.learn rpn), but of {proposer.learn}"
        )
    return proposer


def check_colours(mine: DetectPreprocessing, proposers: DetectPreprocessing, source: str | None) -> None:
    """Both networks of the fast_rcnn step see the same batch. Raises RequestError where they were to see others."""
    for name in ("mean", "std"):
        own, theirs = getattr(mine, name), getattr(proposers, name)
        if own != theirs:
            raise RequestError(
                f"train.proposals {source} was trained with data.{name} {list(theirs)}, this run would have "
                f"{list(own)}: give data.mean and data.std as they are there"
            )


def detector_from_checkpoint(data: bytes) -> FasterRcnn:
    """The detector of a run that goes on: its checkpoint has everything, and the weights it began with may be gone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        model = load_detector(path)
    model.provenance = {key: value for key, value in model.provenance.items() if key == "init"}
    return model


def loaded_network(
    weights: str, detector: FasterRcnn | None, recipe: DetectRecipe
) -> tuple[Network, Preprocessing | DetectPreprocessing | None, list[str]]:
    """The network of a classification file, or below a ``detector``, without classifier; its preprocessing; notes."""
    if detector is not None:
        network, base = network_of(detector, weights), detector.preprocessing
        network = network if recipe.model.form is None else convert_form(network, recipe.model.form)
        notes = [*detector.provenance.get("notes", []), "of the detector only the network is taken"]
    else:
        network = load(weights, form=recipe.model.form)
        base, notes = network.preprocessing, network.provenance.get("notes", [])
    check_architecture(recipe.model, network.architecture, weights)
    if network.architecture.in_channels != 3:
        raise RequestError(
            f"{weights} takes images of {network.architecture.in_channels} channels; a detector reads RGB pictures"
        )
    return without_classifier(network), base, notes


def network_of(detector: FasterRcnn, source: str) -> Network:
    """The network below a detector, whole again. Raises RequestError where its last stage is not there."""
    network = create_model(detector.architecture.change(num_classes=0), seed=0)
    state = detector.network.state_dict()
    if detector.settings.layout == "c4":
        if detector.learn == "rpn":
            raise RequestError(f"{source} is a c4 detector of the rpn step, which has no last stage to start from")
        state |= detector.roi_heads.box_head.state_dict()
    network.load_state_dict(state)
    return network


def without_classifier(network: Network) -> Network:
    """The same network, without its last layer."""
    bare = create_model(network.architecture.change(num_classes=0), seed=0)
    bare.load_state_dict({name: value for name, value in network.state_dict().items() if not name.startswith("fc.")})
    return bare


def freeze_detector(model: FasterRcnn, recipe: DetectRecipe) -> None:
    """Set ``requires_grad`` as ``init`` says. Raises RequestError for a stage the network does not have."""
    if recipe.init.layer_decay != 1:
        raise RequestError("init.layer_decay is not had in detection: leave it at 1")
    places = [model.network, *([model.roi_heads.box_head] if hasattr(model, "roi_heads") else [])]
    parts = {name: module for place in places for name, module in place.named_children()}
    stages = {
        name: [parts[part] for part in stage if part in parts] for name, stage in stages_of(model.network).items()
    }
    trained = [bn for name, bn in model.named_modules() if isinstance(bn, nn.BatchNorm2d) and "proposer." not in name]
    freeze_stages(stages, trained, recipe.init, model.architecture.name)


def fused_norms(model: FasterRcnn, recipe: DetectRecipe, world: World) -> Plan:
    """Fused kernels for the norms that train, where they can be had."""
    usable = recipe.train.fast and world.device.type == "cpu" and recipe.train.channels_last
    return fuse_all(model, Plan()) if usable and kernels.switched_on() and kernels.load() else Plan()


def position_plan(files: dict[str, bytes]) -> Any:
    """The plan a run began with, as JSON."""
    return json.loads(files["state"])["position"].get("plan") or Plan().as_json()


def default_workers() -> int:
    """Loading processes where none are asked for: one a core, at most 8."""
    return min(MOST_WORKERS, available_cores())


def make_loader(
    recipe: DetectRecipe, train: DetectionDataset, preprocessing: DetectPreprocessing, world: World
) -> DetectLoader:
    """The training batches of the recipe."""
    workers = recipe.data.workers
    return DetectLoader(
        train,
        Augment(recipe.augment, preprocessing),
        seed=recipe.train.seed,
        batch_size=recipe.train.batch_size,
        group=recipe.augment.group,
        workers=default_workers() if workers is None else workers,
        start_method=recipe.data.start_method,
        rank=world.rank,
        world_size=world.size,
    )
