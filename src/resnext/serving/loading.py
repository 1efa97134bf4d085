"""Which models to serve: their names, and how each is loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resnext.deploy.export_info import ExportInfo
from resnext.deploy.exported import find_exported_file, read_export_info
from resnext.errors import RequestError
from resnext.run_directory import read_run_kind
from resnext.serving.served_model import ServedModel, list_sizes

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


class ModelSource(NamedTuple):
    """A model to serve."""

    name: str  # as in addresses
    source: str  # run directory, weights file, exported file or its folder, hf://...


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How models are loaded."""

    engine: str = "auto"
    precision: str | None = None
    checkpoint: str = "best"
    max_batch: int = 8
    streams: int = 1
    explain: bool = True  # compute class activation maps, where the engine can


def name_models(arguments: Sequence[str], name: str | None = None) -> tuple[list[ModelSource], list[str]]:
    """Name each model after its file or folder, or as ``NAME=PATH`` says; equal names get a number.

    Args:
        arguments: ``PATH`` or ``NAME=PATH`` for each model.
        name: The name of the only model.

    Returns:
        The models, and a sentence for each name that was changed.

    Raises:
        RequestError: A path does not exist, or a name cannot be part of an address.
    """
    if name is not None and len(arguments) > 1:
        raise RequestError("--name is for a single model; write NAME=PATH for each of several")
    models: dict[str, str] = {}
    notes = []
    for argument in arguments:
        given, source = (name, argument) if name is not None else _split_name(argument)
        if "://" not in source and not Path(source).exists():
            raise RequestError(f"{source} does not exist; expected a run, a weights file or an exported file")
        if given is not None and not NAME.fullmatch(given):
            raise RequestError(f"the name {given!r} must be letters, digits and . _ - (at most 64), as in an address")
        wanted = given or _make_name(source)
        if wanted in models and given is not None:
            raise RequestError(f"two models are called {wanted!r}; give each its own name: NAME=PATH")
        unique, number = wanted, 2
        while unique in models:
            unique, number = f"{wanted}-{number}", number + 1
        if unique != wanted:
            notes.append(f"{source} is called {unique}, as {models[wanted]} is called {wanted}")
        models[unique] = source
    return [ModelSource(*item) for item in models.items()], notes


def _split_name(argument: str) -> tuple[str | None, str]:
    name, equals, source = argument.partition("=")
    if equals and not Path(argument).exists() and "/" not in name:
        return name, source
    return None, argument


def _make_name(source: str) -> str:
    path = Path(source.partition("://")[2] or source)
    resolved = path if "://" in source else path.resolve()
    word = resolved.name if "://" in source or resolved.is_dir() else resolved.stem
    return UNFIT.sub("-", word).strip("-._")[:60] or "model"


def load_model(model: ModelSource, options: LoadOptions) -> ServedModel:
    """Load a model; it is not prepared yet. Raises RequestError if it cannot be served."""
    exported = None
    if "://" not in model.source:
        if read_run_kind(model.source) == "detection":
            return _load_detector(model, options)
        exported = read_info(model.source)
    if exported is not None and exported.task == "detection":
        return _load_detector(model, options)
    from resnext.deploy.predictor import Predictor
    from resnext.evaluation.outputs import get_preprocessing

    predictor = Predictor.load(
        model.source,
        engine=options.engine,
        precision=options.precision,
        checkpoint=options.checkpoint,
        streams=options.streams,
        with_cam=options.explain,
    )
    get_preprocessing(predictor)
    if predictor.architecture.num_classes == 0:
        raise RequestError(f"{model.source} has no classifier (num_classes 0), so it cannot classify images")
    return ServedModel(
        model.name,
        predictor,
        sizes=list_sizes(options.max_batch) if exported is None or exported.batch is None else [exported.batch],
        streams=options.streams,
        architecture=predictor.architecture.name,
    )


def read_info(source: str) -> ExportInfo | None:
    """Read what an exported file says about itself; None for anything else."""
    exported = find_exported_file(Path(source))
    return None if exported is None else read_export_info(exported)


def _load_detector(model: ModelSource, options: LoadOptions) -> ServedModel:
    from resnext.detection.predictor import DetectPredictor

    if options.precision not in (None, "fp32"):
        raise RequestError(f"{model.source} is a detector, which runs in fp32, not in {options.precision}")
    predictor = DetectPredictor.load(model.source, engine=options.engine, checkpoint=options.checkpoint)
    return ServedModel(model.name, predictor, "detection", streams=options.streams, architecture="faster_rcnn")
