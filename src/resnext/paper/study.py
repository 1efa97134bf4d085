"""The study of cardinality: its networks, seeds and data sets, as docs/study.md states them before the runs.

No torch here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from resnext.errors import RequestError, did_you_mean

RECIPE = "small/cardinality"
DataName = Literal["cifar10", "fashion-mnist"]
StudyName = Literal["equal", "twice", "no-shortcut"]
DATA: dict[DataName, dict[str, Any]] = {
    "cifar10": {"data.source": "cifar10"},
    "fashion-mnist": {"data.source": "fashion_mnist", "augment.pad": 2},
}
STUDIES: dict[StudyName, str] = {
    "equal": "Equal complexity (the paper's Tables 2 and 3)",
    "twice": "Twice the complexity: deeper, wider, or more paths (Table 4, Figure 7)",
    "no-shortcut": "Without shortcuts (Section 5.1)",
}
BASELINE = "1x20d"  # C = 1, with which all others are compared on the same seeds


@dataclass(frozen=True)
class StudyNetwork:
    """A network of a study, and the seeds it is trained with."""

    study: StudyName
    label: str  # C x d, and what else is changed
    seeds: int  # it is trained with the seeds 0, 1, ... seeds - 1
    model: Mapping[str, Any] = field(hash=False)  # settings of the recipe's section model

    @property
    def cardinality(self) -> int:
        """C, the number of paths."""
        return int(self.label.partition("x")[0])


def _make(study: StudyName, label: str, seeds: int, depth: int = 11, **changes: Any) -> StudyNetwork:
    """Make a network of the study. ``label`` begins with C x d."""
    name = label.split()[0]
    family = "resnet" if name.startswith("1x") else "resnext"
    model = {"model.name": f"{family}{depth}_{name}"} | {f"model.{key}": value for key, value in changes.items()}
    return StudyNetwork(study, label, seeds, model)


NETWORKS = (
    _make("equal", "1x20d", 5),
    _make("equal", "2x12d", 3),
    _make("equal", "4x7d", 3),
    _make("equal", "8x4d", 3),
    _make("equal", "16x2d", 5),
    _make("twice", "1x20d deeper", 3, depth=26, blocks=[3, 3, 2]),
    _make("twice", "1x37d wider", 3),
    _make("twice", "40x2d more paths", 3),
    _make("no-shortcut", "1x20d no shortcut", 3, shortcut="none"),
    _make("no-shortcut", "16x2d no shortcut", 3, shortcut="none"),
)


@dataclass(frozen=True)
class StudyRun:
    """One training run of the study."""

    network: StudyNetwork
    data: DataName
    seed: int

    @property
    def name(self) -> str:
        """The name of its run directory."""
        return f"{self.data}-{self.network.label.replace(' ', '-')}-seed{self.seed}"

    def make_overrides(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Make the settings that differ from the recipe; ``given`` wins."""
        return {**DATA[self.data], **self.network.model, "train.seed": self.seed, **given}


def list_runs(data: Iterable[str], studies: Iterable[str]) -> list[StudyRun]:
    """List the runs of some studies on some data sets, seed by seed, so that an early end leaves whole comparisons.

    Raises RequestError for an unknown data set or study.
    """
    chosen: list[DataName] = [_check(name, get_args(DataName), "data set") for name in data]
    wanted = {_check(name, get_args(StudyName), "study") for name in studies}
    networks = [network for network in NETWORKS if network.study in wanted]
    return [run for name in chosen for run in _iterate_by_seed(networks, name)]


def _iterate_by_seed(networks: list[StudyNetwork], data: DataName) -> Iterator[StudyRun]:
    for seed in range(max((network.seeds for network in networks), default=0)):
        for network in networks:
            if seed < network.seeds:
                yield StudyRun(network, data, seed)


def _check(name: str, known: tuple[Any, ...], what: str) -> Any:
    if name not in known:
        raise RequestError(f"{name} is no {what} of the study{did_you_mean(name, known)}")
    return name
