"""The Python calls for whole pieces of work: train, evaluate, detect; recipes and runs.

``docs/api.md`` has an example of each. torch is imported by the calls that need it, not with this module.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.choices import Precision
from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError
from resnext.evaluation.options import EvalOptions
from resnext.recipe import dump_recipe, parse_recipe, read_recipe, read_recipe_kind
from resnext.run import Run, open_run
from resnext.run_directory import RunDirectory, is_run, open_run_directory
from resnext.settings import Recipe

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from resnext.cross_validation.cross_validate import Crossval
    from resnext.data.dataset import Dataset
    from resnext.deploy.predictor import Predictor
    from resnext.detection.model.faster_rcnn import FasterRcnn
    from resnext.detection.predict import DetectPrediction
    from resnext.detection.predictor import DetectPredictor
    from resnext.evaluation.evaluator import Evaluation
    from resnext.evaluation.images import ImageInput
    from resnext.evaluation.setup import EvalNetworks, EvalRuntime
    from resnext.model.network import Network
    from resnext.training.callbacks import EpochCallback


def load_recipe(path: Path | str, overrides: Mapping[str, object] | None = None) -> Recipe | DetectRecipe:
    """Load a recipe for classification or detection.

    Args:
        path: A YAML file, or the name of a recipe that comes with the package, such as ``small/digits``.
        overrides: Settings that replace those of the file, such as ``{"train.epochs": 3}``.

    Returns:
        A Recipe or a DetectRecipe: frozen dataclasses, one field a setting.

    Raises:
        RequestError: Naming the file, the key or value, and the closest valid one.
    """
    if read_recipe_kind(path) == "detection":
        return read_recipe(path, overrides, DetectRecipe)
    return read_recipe(path, overrides, Recipe)


def train(
    recipe: Recipe | DetectRecipe | Path | str,
    run: Path | str | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    resume: bool | None = False,
    callback: "EpochCallback | None" = None,
    quiet: bool = False,
) -> Run:
    """Train a network or a detector by a recipe into a run directory, to the end of the recipe.

    Args:
        recipe: A recipe as ``load_recipe`` returns it, a YAML file, or the name of a recipe of the package; or a folder
            of photos, with one folder of pictures for each class, for which all settings are chosen.
        run: The run directory; runs/NAME-DATE-TIME by default. A new run needs an empty or missing one.
        overrides: Settings that replace those of the recipe, such as ``{"train.epochs": 3, "train.seed": 1}``.
        resume: True resumes ``run`` from its last checkpoint, False starts a new run. None resumes if the run exists
            and starts it otherwise, so that the same call can be repeated.
        callback: Called after every epoch, when its metrics are logged and its checkpoints written; with several
            processes in rank 0 only. What it raises ends the run, which can be resumed.
        quiet: Print nothing.

    Returns:
        The run: metrics, weights, evaluation.

    Raises:
        RequestError: The settings are invalid or do not fit the data, or ``run`` cannot be used.
        WorkError: Training failed (loss not finite, bad image, full disk) or was stopped by a signal.
    """
    from resnext.screen import make_screen
    from resnext.training.request import choose_run_directory, is_photo_folder
    from resnext.training.resume import resolve_resumed_recipe

    console = make_screen()
    console.quiet = quiet
    settings: Recipe | DetectRecipe
    if resume is not False and run is None:
        raise RequestError("give run, the directory of the run to resume")
    if isinstance(recipe, str | Path) and is_photo_folder(recipe):
        settings, name = (
            _choose_photo_recipe(recipe, run, resume, overrides or {}, console),
            Path(recipe).absolute().name,
        )
    elif isinstance(recipe, str | Path):
        settings, name = load_recipe(recipe, overrides), Path(recipe).stem
    elif overrides:
        settings, name = parse_recipe(dump_recipe(recipe), "the recipe", overrides, type(recipe)), "run"
    else:
        settings, name = recipe, "run"
    if resume is False:
        directory = choose_run_directory(run, name)
    else:
        assert run is not None
        directory = RunDirectory(Path(run))
    if resume:
        settings = resolve_resumed_recipe(open_run_directory(directory.path), settings)

    from resnext.training.loop import run_training

    if isinstance(settings, DetectRecipe):
        from resnext.detection.training.task import Detection

        run_training(Detection, settings, directory, resume=resume, console=console, on_epoch_end=callback)
    else:
        from resnext.training.classification import Classification

        run_training(Classification, settings, directory, resume=resume, console=console, on_epoch_end=callback)
    return open_run(directory.path)


def crossval(
    recipe: Recipe | Path | str,
    out: Path | str | None = None,
    *,
    folds: int | None = None,
    overrides: Mapping[str, object] | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> "Crossval":
    """Cross-validate: train a network without each fold of the images, judge every image once, find wrong labels.

    The same call goes on where an earlier one was stopped.

    Args:
        recipe: A folder of photos, with one folder of pictures for each class, for which all settings are chosen; or a
            recipe as ``load_recipe`` returns it, a YAML file, or the name of a recipe of the package, whose training
            images are used.
        out: The directory of runs, tables and pages; ``runs/crossval-NAME`` by default.
        folds: Number of parts, each of which is held out once; 5 by default.
        overrides: Settings that replace those of the recipe, such as ``{"train.epochs": 3}``.
        jobs: Folds that are trained side by side, each in a process of its own.
        quiet: Print nothing.

    Returns:
        The pooled evaluation, the probabilities of each image, its fold, and the labels to look at.

    Raises:
        RequestError: The settings do not fit the data (such as fewer images of a class than folds), or ``out`` was
            begun with others.
        WorkError: A fold failed, or a signal came.
    """
    from resnext.cross_validation.cross_validate import cross_validate
    from resnext.screen import make_screen

    console = make_screen()
    console.quiet = quiet
    found = cross_validate(recipe, out, folds, overrides or {}, jobs=jobs, console=console)
    assert found is not None  # only a dry run gives None
    return found


def _choose_photo_recipe(
    folder: Path | str, run: Path | str | None, resume: bool | None, overrides: Mapping[str, object], console: "Console"
) -> Recipe:
    """Return the settings of a run that goes on, or those chosen for a folder of photos."""
    from resnext.planning.photos import plan_photos

    if run is not None and resume is not False:
        begun = RunDirectory(Path(run)).recipe
        if resume or begun.is_file():
            return read_recipe(open_run_directory(run).recipe, overrides)
    return plan_photos(folder, overrides, console).recipe


def evaluate(
    model: "Network | Predictor | Run | Path | str | Sequence[Network | Predictor | Run | Path | str]",
    data: "Dataset | Path | str | None" = None,
    options: EvalOptions = EvalOptions(),  # noqa: B008 - frozen
    *,
    progress: Callable[[int, int], None] | None = None,
) -> "Evaluation":
    """Evaluate a classifier, or an ensemble of several, on every labelled image once.

    Args:
        model: A network, an inference engine, a run, or the path of a run or a weights file of any format (also
            ``hf://...``). Several form an ensemble. Networks in memory are evaluated on the device they are on, unless
            ``options.device`` names another one.
        data: A data set, or a path: a folder with one subfolder per class, or whatever ``options.source`` names. None
            is the held-out data of the run.
        options: View, sizes, batch size, precision, device, ...
        progress: Called as ``progress(done, total)`` after each batch.

    Returns:
        One row per image, and sums over the rows: ``top1_error``, ``top5_error``, ``loss``, ``confusion``, ...
        Nothing is written.

    Raises:
        RequestError: The classes of model and data differ, no data is named, or an option is invalid.
        WorkError: An image cannot be read, or logits are not finite.
    """
    from resnext.evaluation.setup import choose_data, evaluate_networks

    models = [model] if not isinstance(model, Sequence) or isinstance(model, str) else list(model)
    networks, runtime = _prepare_evaluation(models, options)
    if data is None or isinstance(data, str | Path):
        data = choose_data(networks, options, None if data is None else str(data)).dataset
    mapping = networks.map_labels(data, options.restrict)
    return evaluate_networks(networks, options, runtime, mapping, progress=progress)


def detect(
    model: "FasterRcnn | DetectPredictor",
    images: "ImageInput | Iterable[ImageInput]",
    *,
    device: "torch.device | str | None" = None,
    precision: Precision = "fp32",
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
) -> "list[DetectPrediction]":
    """Detect objects in images.

    Args:
        model: The detector, as ``load_detector`` or ``DetectPredictor.load`` returns it.
        images: Paths, PIL images or arrays (uint8 [H, W, 3] or [H, W]), mixed, or a single one of these.
        device: Where to compute; by default where the model is.
        precision: fp32, bf16 or fp16.
        batch_size: Images computed together.
        progress: Called as ``progress(done)`` after each batch.

    Returns:
        One DetectPrediction per image, in order: ``boxes`` (x1, y1, x2, y2 in pixels), ``labels`` (into
        ``model.classes``) and ``scores``, or an ``error`` for an image that cannot be read.

    Raises:
        RequestError: For an unavailable device, a batch size below 1, or a value that is not an image.
    """
    from resnext.detection.predict import predict

    return predict(model, images, device, precision=precision, batch_size=batch_size, progress=progress)


def _prepare_evaluation(
    models: "Sequence[Network | Predictor | Run | Path | str]", options: EvalOptions
) -> "tuple[EvalNetworks, EvalRuntime]":
    """Load what is given as a run or a path; collect the models, and what they are evaluated with."""
    from resnext.deploy.predictor import Predictor, load_classifier
    from resnext.device import pick_device
    from resnext.evaluation.classifier import get_device
    from resnext.evaluation.setup import EvalRuntime, collect_networks
    from resnext.model.network import Network

    if not models:
        raise RequestError("give at least one network to evaluate")
    running: list[Network | Predictor] = []
    names: list[str] = []
    first_run = None
    for number, one in enumerate(models):
        if isinstance(one, Network | Predictor):
            running.append(copy(one))  # with its own ``classes``: those of an ensemble are unified
            names.append(one.architecture.name)
        else:
            place = one.path if isinstance(one, Run) else one
            running.append(load_classifier(place, options.checkpoint))
            names.append(str(place))
            first_run = Path(place) if number == 0 and is_run(Path(place)) else first_run
    collected = collect_networks(running, names, options, first_run)
    has_engine = any(isinstance(one, Predictor) for one in running)
    in_memory = isinstance(models[0], Network | Predictor) and options.device == "auto"
    device = get_device(running[0]) if in_memory or has_engine else pick_device(options.device)
    for one in running:
        if isinstance(one, Network):
            one.to(device)
    precision = options.precision or collected.default_precision
    return collected, EvalRuntime(device, precision, running, has_engine)
