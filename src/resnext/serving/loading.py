"""Which models to serve: their names, and how each is loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from resnext.choices import CheckpointName, EngineChoice, PrecisionChoice
from resnext.deploy.exported import ExportedModel, find_exported_file, open_exported
from resnext.errors import RequestError
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

    engine: EngineChoice = "auto"
    precision: PrecisionChoice | None = None
    checkpoint: CheckpointName = "best"
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
        if "://" not in source and not Path(source).exists() and not _is_public_name(source):
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


def _is_public_name(source: str) -> bool:
    """Whether ``source`` names public weights, which need torch."""
    if find_spec("torch") is None:
        return False
    from resnext.weights.released import find_pretrained

    return find_pretrained(source) is not None


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
    file = find_exported_file(model.source)
    exported = None if file is None else open_exported(file)
    if exported is None:
        from resnext.detection.weights import is_detector_source

        is_detector = is_detector_source(model.source)
    else:
        is_detector = exported.info.task == "detection"
    if is_detector:
        return _load_detector(model, exported, options)
    from resnext.deploy.predictor import Predictor
    from resnext.evaluation.outputs import get_preprocessing

    engine, precision, streams = options.engine, options.precision, options.streams
    if exported is not None:
        predictor = Predictor(exported, engine=engine, precision=precision, streams=streams)
    else:
        predictor = Predictor.load(
            model.source,
            engine=engine,
            precision=precision,
            checkpoint=options.checkpoint,
            streams=streams,
            with_cam=options.explain,
        )
    get_preprocessing(predictor)
    if predictor.architecture.num_classes == 0:
        raise RequestError(f"{model.source} has no classifier (num_classes 0), so it cannot classify images")
    return ServedModel(
        model.name,
        predictor,
        sizes=_choose_sizes(exported, options.max_batch),
        streams=options.streams,
        architecture=predictor.architecture.name,
    )


def _choose_sizes(exported: ExportedModel | None, largest: int) -> list[int]:
    """Return the sizes of batches: that of the file if it is fixed. OpenVINO compiles any file for any size."""
    batch = None if exported is None or exported.path.suffix.lower() == ".xml" else exported.info.batch
    return list_sizes(largest) if batch is None else [batch]


def _load_detector(model: ModelSource, exported: ExportedModel | None, options: LoadOptions) -> ServedModel:
    from resnext.detection.predictor import DetectPredictor

    if options.precision not in (None, "fp32"):
        raise RequestError(f"{model.source} is a detector, which runs in fp32, not in {options.precision}")
    if exported is not None:
        predictor = DetectPredictor.from_exported(exported, engine=options.engine)
    else:
        predictor = DetectPredictor.load(model.source, engine=options.engine, checkpoint=options.checkpoint)
    return ServedModel(model.name, predictor, "detection", streams=options.streams, architecture="faster_rcnn")
