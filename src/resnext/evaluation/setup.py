"""Turn the request for an evaluation into networks, images and an output directory, and evaluate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from resnext.choices import CheckpointName, CombineMethod
from resnext.data.classes import check_same_classes
from resnext.data.dataset import Dataset
from resnext.data.imagenet_classes import resolve_output_synsets
from resnext.data.loader import default_workers
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.registry import open_data, open_split
from resnext.errors import RequestError
from resnext.evaluation.classifier import Classifier
from resnext.evaluation.ensemble import EnsembleMember
from resnext.evaluation.evaluator import Evaluation, evaluate
from resnext.evaluation.label_mapping import LabelMapping, map_labels
from resnext.evaluation.options import EvalOptions
from resnext.evaluation.output.protocol import build_protocol, compare_protocols, describe_member, read_run_protocol
from resnext.evaluation.output.tables import FORMAT
from resnext.evaluation.outputs import get_preprocessing
from resnext.evaluation.views import Views, resize_preprocessing, without_crop
from resnext.run_directory import RunDirectory, is_run, read_run_recipe, read_step
from resnext.settings import DataSettings, Recipe
from resnext.sources import SOURCES
from resnext.weights import load
from resnext.weights.hub import is_remote


@dataclass(frozen=True, eq=False)
class EvalNetworks:
    """The networks to evaluate and their views. ``run`` and ``recipe`` are those of the first one, if it has a run."""

    models: Sequence[Classifier]
    names: Sequence[str]  # of each network, as the user gave it
    preprocessings: Sequence[Preprocessing]
    descriptions: Sequence[dict[str, Any]]  # of each network, by protocol.describe_member
    views: Views
    ensemble_combine: CombineMethod
    run: Path | None
    recipe: Recipe | None

    @property
    def model(self) -> Classifier:
        """The first network."""
        return self.models[0]

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the first network."""
        return self.preprocessings[0]

    @property
    def channels_last(self) -> bool:
        """Whether the run was trained in NHWC memory layout; its networks are then evaluated in it too."""
        return self.recipe is not None and self.recipe.train.channels_last == "yes"

    @property
    def default_precision(self) -> str:
        """The precision the run was trained in; fp32 for weights files."""
        return self.recipe.train.precision if self.recipe is not None else "fp32"

    def map_labels(self, dataset: Dataset, restrict: str | None) -> LabelMapping:
        """Map the data's labels to the outputs of the first network; the others have the same classes."""
        return map_labels(dataset, self.model.classes, self.model.architecture.num_classes, restrict)

    def without_crop(self) -> "EvalNetworks":
        """Return the same networks for images that are already cropped."""
        return replace(self, preprocessings=list(map(without_crop, self.preprocessings)))


class EvalData(NamedTuple):
    """The images to evaluate on, how they were held out, and whether they are the run's own data."""

    dataset: Dataset
    split: str
    is_run_data: bool


class EvalRuntime(NamedTuple):
    """What an evaluation runs on: the device, the precision or engine in words, and the networks or predictors."""

    device: torch.device
    precision: str
    models: Sequence[Classifier]
    has_engine: bool = False


def load_networks(
    weights: Sequence[str], options: EvalOptions, load_model: Callable[[str, CheckpointName], Classifier] = load
) -> EvalNetworks:
    """Load the given weights by ``load_model(path, checkpoint)``.

    Raises RequestError if they cannot be evaluated together.
    """
    models = [load_model(name, options.checkpoint) for name in weights]
    run = Path(weights[0]) if is_run(Path(weights[0])) else None
    return collect_networks(models, weights, options, run)


def collect_networks(
    models: Sequence[Classifier], names: Sequence[str], options: EvalOptions, run: Path | None = None
) -> EvalNetworks:
    """Collect loaded networks, which may come from files or runs called ``names``.

    ``run`` is the run of the first one. Raises RequestError if they cannot be evaluated together.
    """
    views = Views.parse(options.view, options.combine or "logits")
    given = [get_preprocessing(model) for model in models]
    preprocessings = [resize_preprocessing(p, options.image_size, options.resize) for p in given]
    _unify_classes(models, names)
    for p in preprocessings:
        views.build_transforms(p)  # report an impossible view before the work starts
        first = preprocessings[0]
        if (p.channels, p.exif) != (first.channels, first.exif):
            raise RequestError("the networks of an ensemble must read images the same way: same channels and exif")
    recipe = None if run is None else read_run_recipe(run)
    about = [_describe_weights(name, options.checkpoint, p) for name, p in zip(names, preprocessings, strict=True)]
    return EvalNetworks(models, names, preprocessings, about, views, options.combine or "probabilities", run, recipe)


def _unify_classes(models: Sequence[Classifier], names: Sequence[str]) -> None:
    """Give all networks the class names of the first one that has names. ImageNet names and synsets count as equal.

    Raises RequestError if their classes differ.
    """
    count = models[0].architecture.num_classes
    known = next((model.classes for model in models if model.classes is not None), None)
    for model, name in zip(models, names, strict=True):
        own = model.architecture.num_classes
        if own != count:
            raise RequestError(
                f"{names[0]} has {count} outputs and {name} has {own}; an ensemble needs networks with the same classes"
            )
        synsets = resolve_output_synsets(model.classes, count)
        same = synsets is not None and synsets == resolve_output_synsets(known, count)
        if not same and known is not None and model.classes is not None:
            check_same_classes(known, model.classes, name)
        model.classes = known


def _describe_weights(weights: str, checkpoint: str, preprocessing: Preprocessing) -> dict[str, Any]:
    path = Path(weights)
    name = weights if is_remote(weights) else path.resolve().name
    if not is_run(path):
        return describe_member(preprocessing, name, None, None)
    return describe_member(preprocessing, name, checkpoint, read_step(RunDirectory(path).state(checkpoint)))


def choose_data(networks: EvalNetworks, options: EvalOptions, data: str | None) -> EvalData:
    """Open the data set to evaluate on: ``data`` is a path. Raises RequestError if neither it nor a run names one."""
    recipe, preprocessing = networks.recipe, networks.preprocessing
    if options.source is None and recipe is None and data is None:
        raise RequestError(
            f"{networks.names[0]} is a weights file, so name the images to evaluate it on: "
            f"--data PATH with one folder per class, or --source {'|'.join(SOURCES)}"
        )
    if options.source is None and recipe is not None:
        settings = recipe.data if data is None else replace(recipe.data, path=data)
    else:
        settings = DataSettings(source=options.source or "folder", path=data, exif=preprocessing.exif)
        if SOURCES[settings.source].open_split:
            dataset = open_split(replace(settings, channels=preprocessing.channels), options.split)
            return EvalData(dataset, f"every image of {dataset.name}", is_run_data=False)
    source = open_data(settings)
    dataset = source.train if options.split == "train" else source.val
    return EvalData(dataset, source.split_rule, is_run_data=options.source is None and data is None)


def evaluate_networks(
    networks: EvalNetworks,
    options: EvalOptions,
    runtime: EvalRuntime,
    mapping: LabelMapping,
    *,
    progress: Callable[..., None] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Evaluation:
    """Evaluate the networks on every image once; with several processes, on the shard of ``rank``."""
    dataset = mapping.dataset
    return evaluate(
        runtime.models[0],
        dataset,
        networks.preprocessing,
        device=runtime.device,
        batch_size=options.batch_size,
        workers=default_workers(dataset) if options.workers is None else options.workers,
        progress=progress,
        rank=rank,
        world_size=world_size,
        views=networks.views,
        other_members=list(map(EnsembleMember, runtime.models[1:], networks.preprocessings[1:])),
        ensemble_combine=networks.ensemble_combine,
        output_indices=mapping.output_indices,
        precision=runtime.precision,
        channels_last=networks.channels_last and not runtime.has_engine,
    )


def choose_directory(
    networks: EvalNetworks, options: EvalOptions, runtime: EvalRuntime, *, data: str | None, out: str | None
) -> Path | None:
    """Choose the directory for the tables (``out`` if given); None if they are not kept.

    RUN/evaluation is only for the run's standard evaluation: best checkpoint, held-out images of the run (``data``
    names others), centre crop, and the device and precision (or engine) of the evaluation already there. Any other
    evaluation of a run goes to RUN/evaluation-WORDS, with a word for each difference.
    """
    if out is not None:
        own = networks.run and RunDirectory(networks.run).evaluation
        return own if own and own.resolve() == Path(out).resolve() else Path(out)
    if networks.run is None or networks.recipe is None or len(networks.models) > 1:
        return None
    words: list[str] = []
    words += [word for word, usual in ((options.split, "val"), (options.checkpoint, "best")) if word != usual]
    words += [word for word in (data, options.restrict and Path(options.restrict).stem) if word]
    words += [] if networks.views.is_center_crop else [str(networks.views), networks.views.combine]
    words += [f"{size}" for size in (options.image_size, options.resize) if size is not None]
    usual = {"precision": networks.recipe.train.precision} | read_run_protocol(RunDirectory(networks.run), FORMAT)
    computed = {"precision": runtime.precision, "device": str(runtime.device)}
    words += [computed[key] for key in compare_protocols(usual, computed)]
    name = "-".join(["evaluation", *("".join(c if c.isalnum() else "-" for c in word) for word in words)])
    return networks.run / name


def describe_evaluation(
    networks: EvalNetworks, options: EvalOptions, runtime: EvalRuntime, mapping: LabelMapping, split: str
) -> dict[str, Any]:
    """Build the protocol of this evaluation."""
    first = networks.descriptions[0]
    is_ensemble = len(networks.descriptions) > 1
    restricted_to = None
    if options.restrict is not None and mapping.output_indices is not None:
        restricted_to = f"{len(mapping.output_indices):,} classes ({Path(options.restrict).name})"
    return build_protocol(
        networks.preprocessing,
        data=mapping.dataset.name,
        split=split,
        device=str(runtime.device),
        precision=runtime.precision,
        channels_last=networks.channels_last and not runtime.has_engine,
        batch_size=options.batch_size,
        weights=" + ".join(one["weights"] for one in networks.descriptions),
        checkpoint=None if is_ensemble else first["checkpoint"],
        step=None if is_ensemble else first["step"],
        views=networks.views,
        restricted_to=restricted_to,
        ensemble=networks.descriptions if is_ensemble else (),
        ensemble_combine=networks.ensemble_combine,
    )
