"""The detection task: how ``training/loop.py`` builds, trains and evaluates a detector."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from rich.console import Console
from torch import nn

from resnext.data.loader import default_file_workers
from resnext.detection.data.augment import Augment
from resnext.detection.data.loader import DetectBatch, DetectLoader
from resnext.detection.data.open import open_detection_data
from resnext.detection.evaluation.class_matching import match_classes, merge_classes
from resnext.detection.evaluation.coco_eval import check_pycocotools, describe_images_over_limit
from resnext.detection.evaluation.inference import resolve_max_detections
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.model.fuse import fuse_detector
from resnext.detection.settings import DetectRecipe
from resnext.detection.training.initial_weights import build_initial_detector
from resnext.detection.training.outputs import evaluate_held_out, write_final_evaluation, write_samples
from resnext.detection.training.step import State, compute_gradients
from resnext.detection.weights import load_detector, serialize_detector
from resnext.errors import RequestError
from resnext.model.frozen_norm import check_frozen_norms
from resnext.model.plan import Plan, fuse_all
from resnext.speed import kernels
from resnext.text import format_share
from resnext.training import finetune
from resnext.training.distributed import World
from resnext.training.optimizer import build_optimizer
from resnext.training.setup import collect_data_facts, print_notes
from resnext.training.state import BatchLoader
from resnext.training.step import StepResult, optimizer_step
from resnext.training.task import Task

LOSS_NAMES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
EVALUATED = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")


class Detection(Task[DetectRecipe, FasterRcnn, DetectBatch]):
    """Train a detector on images with boxes."""

    next_steps = (
        ("resnext detect predict {run} PICTURES", "find objects in other pictures"),
        ("resnext serve {run} --open", "try it in a browser"),
        ("resnext export {run} --to onnx", "one file that runs without PyTorch"),
    )
    verb = "detect train"
    columns = ("epoch", "step", "lr", "train_loss", *LOSS_NAMES, *EVALUATED, "bad_images")
    evaluation_columns = EVALUATED
    best_metric = "ap"
    lower_is_better = False

    def __init__(self, recipe: DetectRecipe) -> None:
        check_pycocotools()
        self.train, self.val = open_detection_data(recipe.data)
        if recipe.train.stage == "rpn":
            self.train, self.val = merge_classes(self.train), merge_classes(self.val)

    def build_model(self, recipe: DetectRecipe, world: World, console: Console) -> FasterRcnn:
        """Build the detector: new, around a loaded network, or from a loaded detector."""
        model = build_initial_detector(recipe, self.train)
        if world.is_main:
            print_notes(model.provenance, recipe.init.weights, console)
        return model

    def restore_model(self, data: bytes) -> FasterRcnn:
        """Load the detector of a checkpoint."""
        return finetune.load_checkpoint_model(data, load_detector)

    def make_loader(self, recipe: DetectRecipe, model: FasterRcnn, world: World) -> DetectLoader:
        """Make the loader of the training batches."""
        workers = recipe.data.workers
        return DetectLoader(
            self.train,
            Augment(recipe.augment, model.preprocessing),
            seed=recipe.train.seed,
            batch_size=recipe.train.batch_size,
            group=recipe.augment.group,
            workers=default_file_workers() if workers is None else workers,
            start_method=recipe.data.start_method,
            rank=world.rank,
            world_size=world.size,
        )

    def prepare_model(
        self,
        recipe: DetectRecipe,
        model: FasterRcnn,
        loader: BatchLoader[DetectBatch],  # noqa: ARG002
        saved_plan: Plan | None,
        world: World,
        console: Console,  # noqa: ARG002
    ) -> tuple[DetectRecipe, FasterRcnn, Plan]:
        """Note the category ids, freeze layers, set the memory layout, fold frozen BN."""
        has_ids = recipe.train.stage != "rpn" and not self.train.has_generated_ids
        model.category_ids = self.train.category_ids if has_ids else None
        freeze_detector(model, recipe)
        finetune.set_training_mode(model.to(world.device))
        plan = plan_fused_norms(model, recipe, world) if saved_plan is None else saved_plan
        if recipe.train.channels_last == "yes":
            model = model.to(memory_format=torch.channels_last)
        if recipe.train.fast == "yes":
            fuse_detector(model, plan)
        else:
            check_frozen_norms(model)
        return recipe, model, plan

    def build_optimizer(self, recipe: DetectRecipe, model: FasterRcnn) -> torch.optim.Optimizer:
        """Build the optimizer."""
        return build_optimizer(model, recipe.optimizer)

    def collect_data_facts(self) -> dict[str, Any]:
        """Collect what identifies the data."""
        return collect_data_facts(self.train, self.val, self.train.listing_digest(), self.val.listing_digest())

    def describe_run(self, state: State) -> Iterable[str]:
        """Yield the lines to print at the start."""
        trained, frozen = finetune.count_trainable_and_frozen(state.model)
        settings = state.model.settings
        yield (
            f"Faster R-CNN ({settings.layout}, {state.recipe.train.stage}) on {state.model.architecture.name}, "
            f"{trained:,} trainable parameters, {frozen:,} frozen; {len(self.train):,} training images of "
            f"{self.train.name}, {len(self.val):,} held-out images of {self.val.name}; "
            f"{state.total_steps:,} steps on {state.world.device} into {state.run.path}"
        )
        for dataset in (self.train, self.val):
            for what, count in dataset.counts.items():
                yield f"{dataset.name}: {count:,} {what}"
        if note := match_classes(state.model, self.val).note:
            yield f"{self.val.name}: {note}"
        advice, most = "raise detector.detections to give and count more", resolve_max_detections(state.model)
        if beyond := describe_images_over_limit(self.val, most, settings.detections, advice):
            yield beyond

    def write_samples(self, state: State) -> None:
        """Write a few augmented training images."""
        write_samples(state)

    def step(self, state: State, batch: DetectBatch, lr: float) -> StepResult:
        """Compute gradients, update the weights, add to the sums of the epoch."""
        parts = compute_gradients(state, batch)
        signalled, time_up = state.interrupts.signal_name is not None, state.is_time_up()
        *values, stop, over = state.world.all_reduce_sum([*parts.values(), signalled, time_up])
        loss, sums, images = sum(values), state.sums, state.recipe.train.batch_size
        optimizer_step(state, loss, lr, "".join(f"; {n} {v:g}" for n, v in zip(parts, values, strict=True)))
        sums.images += images
        sums.loss += loss * images
        for name, value in zip(parts, values, strict=True):
            sums.loss_parts[name] = sums.loss_parts.get(name, 0.0) + value * images
        return StepResult(loss, stop > 0, over > 0)

    def train_metrics(self, state: State) -> dict[str, float | None]:
        """Compute the loss of the epoch and its parts."""
        sums, images = state.sums, max(state.sums.images, 1)
        parts = {name: sums.loss_parts.get(name) for name in LOSS_NAMES}
        means = {name: None if value is None else value / images for name, value in parts.items()}
        return {"train_loss": sums.loss / images, **means}

    def evaluate(self, state: State) -> dict[str, float | None]:
        """Evaluate on the held-out images."""
        evaluation = evaluate_held_out(state, state.eval_model, self.val)
        numbers = {name: getattr(evaluation, name, None) for name in EVALUATED}
        return dict(json.loads(state.world.broadcast_bytes(json.dumps(numbers).encode())))

    def summarize_epoch(self, row: dict[str, Any]) -> Iterable[str]:
        """Yield parts of the line printed after an epoch."""
        yield f"train loss {row['train_loss']:.4f}"
        if any(row[name] is not None for name in EVALUATED):
            yield f"AP {format_share(row['ap'])} AP50 {format_share(row['ap50'])} AR {format_share(row['ar100'])}"

    def serialize_model(self, model: FasterRcnn, provenance: dict[str, Any]) -> bytes:
        """Return the bytes of a weights file."""
        return serialize_detector(model, model.provenance | provenance)

    def write_final_evaluation(self, state: State, best: FasterRcnn, rows: list[dict[str, Any]]) -> str:
        """Evaluate the best detector; in rank 0 write curves, tables and report.html."""
        return write_final_evaluation(state, best, self.val, rows)


def freeze_detector(model: FasterRcnn, recipe: DetectRecipe) -> None:
    """Freeze stages and BN as the init settings say. Raises RequestError for an unknown stage."""
    if recipe.init.layer_decay != 1:
        raise RequestError("init.layer_decay is not supported in detection: leave it at 1")
    places = [model.network, *([model.roi_heads.box_head] if hasattr(model, "roi_heads") else [])]
    parts = {name: module for place in places for name, module in place.named_children()}
    stages = {
        name: [parts[part] for part in stage if part in parts]
        for name, stage in finetune.group_modules_by_stage(model.network).items()
    }
    trained = [bn for name, bn in model.named_modules() if isinstance(bn, nn.BatchNorm2d) and "proposer." not in name]
    finetune.freeze_stages(stages, trained, recipe.init, model.architecture.name)


def plan_fused_norms(model: FasterRcnn, recipe: DetectRecipe, world: World) -> Plan:
    """Plan fused kernels for the norms that train, where they are available."""
    fast = recipe.train.fast == recipe.train.channels_last == "yes" and world.device.type == "cpu"
    return fuse_all(model, Plan()) if fast and kernels.is_fast_enabled() and kernels.load() else Plan()
