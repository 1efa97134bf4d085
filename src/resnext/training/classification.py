"""The classification task: how ``training/loop.py`` builds, trains and evaluates a network."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from rich.console import Console
from torch import nn

from resnext.data import open_data
from resnext.data.class_balance import compute_class_weights, describe_balance
from resnext.data.dataset import hash_dataset_listing
from resnext.data.loader import Batch, TrainLoader, default_workers
from resnext.data.memory_cache import cache_source
from resnext.data.preprocessing import Preprocessing
from resnext.data.seeding import derive_seed
from resnext.data.suggest_groups import find_group_hint
from resnext.data.transforms.pipeline import build_jpeg_transform, build_train_transform, resolve_train_preprocessing
from resnext.errors import RequestError
from resnext.evaluation.outputs import get_preprocessing
from resnext.model.blocks import Block
from resnext.model.network import Network, create_model
from resnext.model.plan import Plan, set_activation_checkpointing
from resnext.settings import Recipe
from resnext.speed.cache_folder import warn_once
from resnext.speed.kernels import is_fast_enabled
from resnext.training import finetune
from resnext.training.autotune import autotune_training
from resnext.training.distill import Teacher, load_teacher
from resnext.training.distributed import World
from resnext.training.logbook import METRICS_COLUMNS
from resnext.training.optimizer import build_optimizer
from resnext.training.outputs import describe_left_out, evaluate_held_out, write_final_evaluation, write_samples
from resnext.training.setup import collect_data_facts, print_notes
from resnext.training.state import BatchLoader, TrainState
from resnext.training.step import StepResult, compute_gradients, count_micro_batches, optimizer_step
from resnext.training.sync_norm import convert_to_sync_bn
from resnext.training.task import Task
from resnext.weights import load
from resnext.weights.native import serialize_network

State = TrainState[Recipe, Network, Batch]


class Classification(Task[Recipe, Network, Batch]):
    """Train a network on images with one label each."""

    next_steps = (
        ("resnext predict {run} PICTURES", "classify other pictures: files or folders"),
        ("resnext serve {run} --open", "try it in a browser"),
        ("resnext export {run} --to onnx", "one file that runs without PyTorch"),
        ("resnext convert {run} FOLDER/", "share it: a folder with a model card for the hub"),
    )
    verb = "train"
    skip_option = "; without it: the same with --data.on_bad_image skip"
    columns = METRICS_COLUMNS
    evaluation_columns = ("val_loss", "top1_error", "top5_error")
    best_metric = "top1_error"
    lower_is_better = True

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        source = open_data(data)
        self.source = cache_source(source, data.workers, data.start_method) if data.cache == "memory" else source
        self.teacher: Teacher | None = None  # of distillation
        self.class_weights: torch.Tensor | None = None  # float32 [K], of data.class_weights
        self.left_out = ""  # a clause on the unreadable images of the last evaluation

    def build_model(self, recipe: Recipe, world: World, console: Console) -> Network:
        """Build the network with preprocessing and classes."""
        source = self.source
        if recipe.init.weights is None:
            architecture = recipe.model.architecture(len(source.train.classes), source.train.channels)
            model = create_model(architecture, seed=derive_seed(recipe.train.seed, finetune.WEIGHTS_SEED_TAG))
            model.preprocessing = Preprocessing.from_settings(recipe.data, source)
        else:
            model = finetune.load_initial_network(recipe, source)
        own_size = get_preprocessing(model).image_size
        for size in (own_size, recipe.augment.size or own_size):
            model.architecture.check_image_size(size, size)
        model.classes = tuple(source.train.classes)
        if world.is_main:
            print_notes(model.provenance, recipe.init.weights, console)
            if hint := find_group_hint(recipe.data, source):
                warn_once(hint.describe())
        return model

    def restore_model(self, data: bytes) -> Network:
        """Load the network of a checkpoint."""
        return finetune.load_checkpoint_model(data, load)

    def make_loader(self, recipe: Recipe, model: Network, world: World) -> TrainLoader:
        """Make the loader of the training batches."""
        data, train, images = recipe.data, recipe.train, self.source.train
        build_transform = build_jpeg_transform if data.jpeg_decoder == "fast" else build_train_transform
        return TrainLoader(
            images,
            build_transform(recipe.augment, get_preprocessing(model)),
            seed=train.seed,
            batch_size=train.batch_size,
            drop_last=train.drop_last,
            workers=default_workers(images) if data.workers is None else data.workers,
            start_method=data.start_method,
            on_bad_image=data.on_bad_image,
            rank=world.rank,
            world_size=world.size,
            repeats=recipe.augment.repeated_augmentation,
            sampling=data.sampling,
        )

    def prepare_model(
        self,
        recipe: Recipe,
        model: Network,
        loader: BatchLoader[Batch],
        saved_plan: Plan | None,
        world: World,
        console: Console,
    ) -> tuple[Recipe, Network, Plan]:
        """Freeze layers, set stochastic depth, choose memory layout and fast paths, load the teacher."""
        parts = count_micro_batches(recipe, world.size)
        finetune.freeze(model, recipe.init)
        set_drop_path(model, recipe.train.drop_path)
        finetune.set_training_mode(model.to(world.device))
        set_activation_checkpointing(model, recipe.train.activation_checkpointing)
        plan = saved_plan
        if plan is None:
            size = resolve_train_preprocessing(recipe.augment, get_preprocessing(model)).image_size
            micro_batch = (recipe.train.batch_size // world.size // parts, size)
            steps = recipe.train.total_steps(loader.steps_per_epoch) * parts
            recipe, plan = autotune_training(recipe, model, micro_batch, steps, world, console)
        plan.apply(model)
        if recipe.train.sync_bn:
            convert_to_sync_bn(model)
        channels_last = recipe.train.channels_last == "yes"
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        if recipe.data.class_weights == "balanced":
            weights = compute_class_weights(self.source.train.labels, model.architecture.num_classes)
            self.class_weights = torch.from_numpy(weights).float().to(world.device)
        if recipe.distill.weights is not None:
            self.teacher = load_teacher(recipe.distill, model, world.device, channels_last=channels_last)
        return recipe, model, plan

    def build_optimizer(self, recipe: Recipe, model: Network) -> torch.optim.Optimizer:
        """Build the optimizer, with learning rates by stage if the recipe says so."""
        fused = recipe.train.fast == "yes" and is_fast_enabled()
        multipliers = finetune.lr_multipliers(model, recipe.init.layer_decay)
        return build_optimizer(model, recipe.optimizer, multipliers, fused=fused)

    def collect_data_facts(self) -> dict[str, Any]:
        """Collect what identifies the data."""
        train, val = self.source.train, self.source.val
        return collect_data_facts(train, val, hash_dataset_listing(train), hash_dataset_listing(val))

    def wrap_model(self, state: State) -> nn.Module:
        """Wrap the network in DDP and apply ``train.compile``, possibly with CUDA graphs."""
        ddp, how = super().wrap_model(state), state.recipe.train.compile
        if how == "no":
            return ddp
        return cast(nn.Module, torch.compile(ddp, mode="reduce-overhead" if how == "cuda-graphs" else None))

    def describe_run(self, state: State) -> Iterable[str]:
        """Yield the lines to print at the start."""
        train, val = self.source.train, self.source.val
        yield (
            f"{state.model.architecture.name} on {train.name}: {len(train):,} images to train on, "
            f"{len(val):,} held out; {state.total_steps:,} steps on {state.world.device} into {state.run.path}"
        )
        if state.recipe.init.weights is not None:
            trained, frozen = finetune.count_trainable_and_frozen(state.model)
            yield f"from {state.recipe.init.weights}: {trained:,} parameters train, {frozen:,} are frozen"
        by_sampling = state.recipe.data.sampling == "balanced"
        if by_sampling or self.class_weights is not None:
            yield describe_balance(train.labels, train.classes, by_sampling=by_sampling)
        if self.teacher is not None:
            distill, name = state.recipe.distill, self.teacher.network.architecture.name
            yield f"with the teacher {distill.weights}, {name}: {distill.alpha:g} of the loss"

    def write_samples(self, state: State) -> None:
        """Write a grid of augmented training images, and files of the data."""
        write_samples(state, self.source)

    def step(self, state: State, batch: Batch, lr: float) -> StepResult:
        """Compute gradients, update the weights, add to the sums of the epoch."""
        loss_sum, wrong, images = compute_gradients(state, batch, self.teacher, self.class_weights)
        signalled, time_up = state.interrupts.signal_name is not None, state.is_time_up()
        total, *counts, stop, over = state.world.all_reduce_sum(
            [loss_sum, wrong, len(batch.bad_images), signalled, time_up]
        )
        optimizer_step(state, total / images, lr)
        state.sums.loss += total
        state.sums.wrong += int(counts[0])
        state.sums.images += images
        state.position.bad_images += int(counts[1])
        return StepResult(total / images, stop > 0, over > 0)

    def train_metrics(self, state: State) -> dict[str, float | None]:
        """Compute loss and error of the epoch; mixed images have no error."""
        sums, images = state.sums, max(state.sums.images, 1)
        error = None if state.recipe.augment.is_mixing else 100 * sums.wrong / images
        return {"train_loss": sums.loss / images, "train_error": error}

    def evaluate(self, state: State) -> dict[str, float | None]:
        """Evaluate on the held-out images."""
        evaluation = evaluate_held_out(state, state.eval_model, self.source.val)
        self.left_out = describe_left_out(evaluation)
        return {"val_loss": evaluation.loss, "top1_error": evaluation.top1_error, "top5_error": evaluation.top5_error}

    def summarize_epoch(self, row: dict[str, Any]) -> Iterable[str]:
        """Yield parts of the line printed after an epoch."""
        error = "" if row["train_error"] is None else f" error {row['train_error']:5.2f} %"
        yield f"train loss {row['train_loss']:.4f}{error}"
        if row["top1_error"] is not None:
            yield f"held-out loss {row['val_loss']:.4f} error {row['top1_error']:5.2f} %{self.left_out}"

    def serialize_model(self, model: Network, provenance: dict[str, Any]) -> bytes:
        """Return the bytes of a weights file."""
        return serialize_network(model, model.provenance | provenance)

    def write_final_evaluation(self, state: State, best: Network, rows: list[dict[str, Any]]) -> str:
        """Evaluate the best network; in rank 0 write curves, tables and report.html."""
        return write_final_evaluation(state, self.source, best, rows)


def set_drop_path(model: Network, p: float) -> None:
    """Set stochastic depth: drop probabilities rise linearly from 0 at the first block to ``p`` at the last.

    Raises RequestError for a network without shortcuts, where a dropped block would leave no signal.
    """
    if p and model.architecture.shortcut == "none":
        raise RequestError("train.drop_path needs shortcuts, but model.shortcut is none")
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for number, block in enumerate(blocks):
        block.drop_path = p * number / max(len(blocks) - 1, 1)
