"""Turn command-line arguments into networks, images and an output directory. Nothing is evaluated here."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from resnext.data.classes import check_same_classes
from resnext.data.dataset import Dataset
from resnext.data.imagenet_classes import resolve_output_synsets
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.registry import open_data, open_split
from resnext.errors import RequestError
from resnext.evaluate.label_mapping import LabelMapping, map_labels
from resnext.evaluate.output.protocol import build_protocol, compare_protocols, describe_member, read_run_protocol
from resnext.evaluate.output.tables import FORMAT
from resnext.evaluate.predict import get_preprocessing
from resnext.evaluate.views import Views, resize_preprocessing, without_crop
from resnext.model.network import Network
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory, is_run, read_step
from resnext.settings import DataSettings, Recipe
from resnext.sources import SOURCES
from resnext.weights import load
from resnext.weights.hub import is_remote


@dataclass(frozen=True, eq=False)
class EvalNetworks:
    """The networks to evaluate and their views. ``run`` and ``recipe`` are those of the first one, if it has a run."""

    models: Sequence[Network]
    preprocessings: Sequence[Preprocessing]
    descriptions: Sequence[dict[str, Any]]  # of each network, by protocol.describe_member
    views: Views
    ensemble_combine: str
    run: Path | None
    recipe: Recipe | None

    @property
    def model(self) -> Network:
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

    def to(self, device: Any) -> None:
        """Move all networks to ``device``."""
        for model in self.models:
            model.to(device)

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


def load_networks(args: argparse.Namespace) -> EvalNetworks:
    """Load the given weights. Raises RequestError if they cannot be evaluated together."""
    looks = Views.parse(args.view, args.combine or "logits")
    models = [load(name, args.checkpoint) for name in args.weights]
    preprocessings = [resize_preprocessing(get_preprocessing(model), args.image_size, args.resize) for model in models]
    _unify_classes(models, args.weights)
    for p in preprocessings:
        looks.build_transforms(p)  # report an impossible view before the work starts
        first = preprocessings[0]
        if (p.channels, p.exif) != (first.channels, first.exif):
            raise RequestError("the networks of an ensemble must read images the same way: same channels and exif")
    run = Path(args.weights[0]) if is_run(Path(args.weights[0])) else None
    recipe = None if run is None else read_recipe(run / "recipe.yaml")
    about = [_describe_weights(name, args.checkpoint, p) for name, p in zip(args.weights, preprocessings, strict=True)]
    return EvalNetworks(models, preprocessings, about, looks, args.combine or "probabilities", run, recipe)


def _unify_classes(models: Sequence[Network], names: Sequence[str]) -> None:
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


def choose_data(args: argparse.Namespace, networks: EvalNetworks) -> EvalData:
    """Open the data set to evaluate on. Raises RequestError if neither the arguments nor a run name one."""
    recipe, preprocessing = networks.recipe, networks.preprocessing
    if args.source is None and recipe is None and args.data is None:
        raise RequestError(
            f"{args.weights[0]} is a weights file, so name the images to evaluate it on: "
            f"--data PATH with one folder per class, or --source {'|'.join(SOURCES)}"
        )
    if args.source is None and recipe is not None:
        settings = recipe.data if args.data is None else replace(recipe.data, path=args.data)
        source = open_data(settings)
        return EvalData(
            source.train if args.split == "train" else source.val, source.split_rule, is_run_data=args.data is None
        )
    settings = DataSettings(source=args.source or "folder", path=args.data, exif=preprocessing.exif)
    if not SOURCES[settings.source].open_split:
        source = open_data(settings)
        return EvalData(source.train if args.split == "train" else source.val, source.split_rule, is_run_data=False)
    dataset = open_split(replace(settings, channels=preprocessing.channels), args.split)
    return EvalData(dataset, f"every image of {dataset.name}", is_run_data=False)


def choose_directory(
    args: argparse.Namespace, networks: EvalNetworks, data: str | None, device: str, precision: str
) -> Path | None:
    """Choose the directory for the tables; None if they are not kept.

    RUN/evaluation is only for the run's standard evaluation: best checkpoint, held-out images of the run (``data``
    names others), centre crop, and the device and precision (or engine) of the evaluation already there. Any other
    evaluation of a run goes to RUN/evaluation-WORDS, with a word for each difference.
    """
    if args.out is not None:
        own = networks.run and RunDirectory(networks.run).evaluation
        return own if own and own.resolve() == Path(args.out).resolve() else Path(args.out)
    if networks.run is None or networks.recipe is None or len(networks.models) > 1:
        return None
    words = [word for word, usual in ((args.split, "val"), (args.checkpoint, "best")) if word != usual]
    words += [word for word in (data, args.restrict and Path(args.restrict).stem) if word]
    words += [] if networks.views.is_center_crop else [str(networks.views), networks.views.combine]
    words += [f"{size}" for size in (args.image_size, args.resize) if size is not None]
    usual = {"precision": networks.recipe.train.precision} | read_run_protocol(RunDirectory(networks.run), FORMAT)
    computed = {"precision": precision, "device": device}
    words += [computed[key] for key in compare_protocols(usual, computed)]
    name = "-".join(["evaluation", *("".join(c if c.isalnum() else "-" for c in word) for word in words)])
    return networks.run / name


def describe_evaluation(
    args: argparse.Namespace, networks: EvalNetworks, answers: LabelMapping, split: str, device: str, precision: str
) -> dict[str, Any]:
    """Build the protocol of this evaluation."""
    first = networks.descriptions[0]
    together = len(networks.descriptions) > 1
    return build_protocol(
        networks.preprocessing,
        data=answers.dataset.name,
        split=split,
        device=device,
        precision=precision,
        channels_last=networks.channels_last and args.engine is None,
        batch_size=args.batch_size,
        weights=" + ".join(one["weights"] for one in networks.descriptions),
        checkpoint=None if together else first["checkpoint"],
        step=None if together else first["step"],
        views=networks.views,
        restricted_to=describe_restriction(args.restrict, answers),
        ensemble=networks.descriptions if together else (),
        ensemble_combine=networks.ensemble_combine,
    )


def describe_restriction(restrict: str | None, answers: LabelMapping) -> str | None:
    """Describe the classes that predictions were restricted to; None for all."""
    if restrict is None or answers.output_indices is None:
        return None
    return f"{len(answers.output_indices):,} classes ({Path(restrict).name})"
