"""Build, train, evaluate and deploy ResNeXt networks. The public names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resnext.version import __version__

if TYPE_CHECKING:
    from resnext.errors import RequestError, ResnextError, WorkError
    from resnext.model.architecture import Architecture, list_models
    from resnext.model.complexity import Complexity, complexity
    from resnext.model.design import design
    from resnext.model.network import Network, convert_form, create_model
    from resnext.model.plan import tune
    from resnext.weights import load
    from resnext.weights.native import save
    from resnext.weights.readers.torch7 import read_t7

_MODULES = {
    "Architecture": "resnext.model.architecture",
    "list_models": "resnext.model.architecture",
    "Network": "resnext.model.network",
    "create_model": "resnext.model.network",
    "tune": "resnext.model.plan",
    "Complexity": "resnext.model.complexity",
    "complexity": "resnext.model.complexity",
    "design": "resnext.model.design",
    "convert_form": "resnext.model.network",
    "load": "resnext.weights",
    "save": "resnext.weights.native",
    "read_t7": "resnext.weights.readers.torch7",
    "RequestError": "resnext.errors",
    "WorkError": "resnext.errors",
    "ResnextError": "resnext.errors",
}

__all__ = [
    "Architecture",
    "Complexity",
    "Network",
    "RequestError",
    "ResnextError",
    "WorkError",
    "__version__",
    "complexity",
    "convert_form",
    "create_model",
    "design",
    "list_models",
    "load",
    "read_t7",
    "save",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'resnext' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
