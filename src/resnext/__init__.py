"""Build, train, evaluate and deploy ResNeXt networks and detectors. ``docs/api.md`` shows each call.

The public names (``__all__``) are imported on first use, so ``import resnext`` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resnext.version import __version__

if TYPE_CHECKING:
    from resnext.api import detect, evaluate, load_recipe, train
    from resnext.data import open_data
    from resnext.data.preprocessing import Preprocessing
    from resnext.deploy.predictor import Predictor
    from resnext.detect.model.faster_rcnn import FasterRcnn, build_detector
    from resnext.detect.predict import DetectPrediction
    from resnext.detect.preprocessing import DetectPreprocessing
    from resnext.detect.settings import DetectorSettings, DetectRecipe
    from resnext.detect.weights import load_detector, save_detector
    from resnext.errors import RequestError, ResnextError, WorkError
    from resnext.evaluate.evaluator import Evaluation
    from resnext.evaluate.options import EvalOptions
    from resnext.evaluate.predict import Prediction, embed, predict
    from resnext.model.architecture import Architecture, list_models
    from resnext.model.complexity import Complexity, complexity
    from resnext.model.design import design
    from resnext.model.network import Network, convert_form, create_model
    from resnext.model.plan import tune
    from resnext.run import Run, open_run
    from resnext.settings import Recipe
    from resnext.train.loop import EpochResult
    from resnext.weights import load
    from resnext.weights.native import save
    from resnext.weights.readers.torch7 import read_t7

_MODULES = {
    "detect": "resnext.api",
    "evaluate": "resnext.api",
    "load_recipe": "resnext.api",
    "train": "resnext.api",
    "open_data": "resnext.data",
    "Preprocessing": "resnext.data.preprocessing",
    "Predictor": "resnext.deploy.predictor",
    "FasterRcnn": "resnext.detect.model.faster_rcnn",
    "build_detector": "resnext.detect.model.faster_rcnn",
    "DetectPreprocessing": "resnext.detect.preprocessing",
    "DetectorSettings": "resnext.detect.settings",
    "DetectPrediction": "resnext.detect.predict",
    "DetectRecipe": "resnext.detect.settings",
    "load_detector": "resnext.detect.weights",
    "save_detector": "resnext.detect.weights",
    "RequestError": "resnext.errors",
    "ResnextError": "resnext.errors",
    "WorkError": "resnext.errors",
    "Evaluation": "resnext.evaluate.evaluator",
    "EvalOptions": "resnext.evaluate.options",
    "Prediction": "resnext.evaluate.predict",
    "embed": "resnext.evaluate.predict",
    "predict": "resnext.evaluate.predict",
    "Architecture": "resnext.model.architecture",
    "list_models": "resnext.model.architecture",
    "Complexity": "resnext.model.complexity",
    "complexity": "resnext.model.complexity",
    "design": "resnext.model.design",
    "convert_form": "resnext.model.network",
    "Network": "resnext.model.network",
    "create_model": "resnext.model.network",
    "tune": "resnext.model.plan",
    "Run": "resnext.run",
    "open_run": "resnext.run",
    "Recipe": "resnext.settings",
    "EpochResult": "resnext.train.loop",
    "load": "resnext.weights",
    "save": "resnext.weights.native",
    "read_t7": "resnext.weights.readers.torch7",
}

__all__ = [
    "Architecture",
    "Complexity",
    "DetectPrediction",
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
    "design",
    "detect",
    "embed",
    "evaluate",
    "list_models",
    "load",
    "load_detector",
    "load_recipe",
    "open_data",
    "open_run",
    "predict",
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
