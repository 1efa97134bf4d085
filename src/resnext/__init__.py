"""Build, train, evaluate and deploy ResNeXt networks and detectors. ``docs/api.md`` shows each call.

The public names (``__all__``) are imported on first use, so ``import resnext`` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resnext.version import __version__

if TYPE_CHECKING:
    from resnext.api import crossval, detect, evaluate, load_recipe, train
    from resnext.cross_validation.cross_validate import Crossval
    from resnext.data import open_data
    from resnext.data.preprocessing import Preprocessing
    from resnext.deploy.predictor import Predictor
    from resnext.detection.model.faster_rcnn import FasterRcnn, build_detector
    from resnext.detection.predict import DetectPrediction
    from resnext.detection.predictor import DetectPredictor
    from resnext.detection.preprocessing import DetectPreprocessing
    from resnext.detection.settings import DetectorSettings, DetectRecipe
    from resnext.detection.weights import load_detector, save_detector
    from resnext.errors import RequestError, ResnextError, WorkError
    from resnext.evaluation.embed import embed
    from resnext.evaluation.evaluator import Evaluation
    from resnext.evaluation.options import EvalOptions
    from resnext.evaluation.predict import Prediction, predict
    from resnext.model.architecture import Architecture, list_models
    from resnext.model.complexity import Complexity, complexity
    from resnext.model.design import design
    from resnext.model.network import Network, convert_form
    from resnext.model.plan import tune
    from resnext.pruning.grow import grow
    from resnext.pruning.prune import prune
    from resnext.run import Run, open_run
    from resnext.settings import Recipe
    from resnext.training.callbacks import EpochResult
    from resnext.weights import load
    from resnext.weights.native import save
    from resnext.weights.pretrained import create_model
    from resnext.weights.readers.torch7 import read_t7

_NAMES = {
    "api": ("crossval", "detect", "evaluate", "load_recipe", "train"),
    "cross_validation.cross_validate": ("Crossval",),
    "data": ("open_data",),
    "data.preprocessing": ("Preprocessing",),
    "deploy.predictor": ("Predictor",),
    "detection.model.faster_rcnn": ("FasterRcnn", "build_detector"),
    "detection.preprocessing": ("DetectPreprocessing",),
    "detection.settings": ("DetectRecipe", "DetectorSettings"),
    "detection.predict": ("DetectPrediction",),
    "detection.predictor": ("DetectPredictor",),
    "detection.weights": ("load_detector", "save_detector"),
    "errors": ("RequestError", "ResnextError", "WorkError"),
    "evaluation.evaluator": ("Evaluation",),
    "evaluation.options": ("EvalOptions",),
    "evaluation.embed": ("embed",),
    "evaluation.predict": ("Prediction", "predict"),
    "model.architecture": ("Architecture", "list_models"),
    "model.complexity": ("Complexity", "complexity"),
    "model.design": ("design",),
    "model.network": ("Network", "convert_form"),
    "model.plan": ("tune",),
    "pruning.grow": ("grow",),
    "pruning.prune": ("prune",),
    "run": ("Run", "open_run"),
    "settings": ("Recipe",),
    "training.callbacks": ("EpochResult",),
    "weights": ("load",),
    "weights.native": ("save",),
    "weights.pretrained": ("create_model",),
    "weights.readers.torch7": ("read_t7",),
}
_MODULES = {name: f"resnext.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [
    "Architecture",
    "Complexity",
    "Crossval",
    "DetectPrediction",
    "DetectPredictor",
    "DetectPreprocessing",
    "DetectRecipe",
    "DetectorSettings",
    "EpochResult",
    "EvalOptions",
    "Evaluation",
    "FasterRcnn",
    "Network",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "Recipe",
    "RequestError",
    "ResnextError",
    "Run",
    "WorkError",
    "__version__",
    "build_detector",
    "complexity",
    "convert_form",
    "create_model",
    "crossval",
    "design",
    "detect",
    "embed",
    "evaluate",
    "grow",
    "list_models",
    "load",
    "load_detector",
    "load_recipe",
    "open_data",
    "open_run",
    "predict",
    "prune",
    "read_t7",
    "save",
    "save_detector",
    "train",
    "tune",
]


def _import_public_name(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'resnext' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker sees the imports above, and reports other names
    __getattr__ = _import_public_name


def __dir__() -> list[str]:
    return __all__
