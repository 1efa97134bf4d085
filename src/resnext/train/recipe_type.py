"""The type of a recipe of any kind of training. Does not import torch."""

from typing import Any, ClassVar, Protocol, TypeVar

from resnext.settings import InitSettings, OptimizerSettings, RunSettings, ScheduleSettings


class TrainRecipe(Protocol):
    """The settings that every kind of training has: a frozen dataclass such as ``Recipe``."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def train(self) -> RunSettings:
        """The training run."""

    @property
    def init(self) -> InitSettings:
        """Initial weights, and which of them stay frozen."""

    @property
    def optimizer(self) -> OptimizerSettings:
        """The optimizer."""

    @property
    def schedule(self) -> ScheduleSettings:
        """The learning rate schedule."""


RecipeT = TypeVar("RecipeT", bound=TrainRecipe)
