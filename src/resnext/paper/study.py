"""The study of cardinality: its networks, seeds and data sets, as docs/study.md states them before the runs.

No torch here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from resnext.errors import RequestError, did_you_mean

DataName = Literal["cifar10", "cifar100", "fashion-mnist"]
StudyName = Literal["equal", "twice", "no-shortcut"]
SizeName = Literal["small", "full"]


@dataclass(frozen=True)
class StudyData:
    """A data set, and the studies that use it."""

    settings: Mapping[str, Any]
    studies: tuple[StudyName, ...]


DATA: dict[DataName, StudyData] = {
    "cifar10": StudyData({"data.source": "cifar10"}, ("equal", "twice", "no-shortcut")),
    "cifar100": StudyData({"data.source": "cifar100"}, ("equal", "twice", "no-shortcut")),
    "fashion-mnist": StudyData({"data.source": "fashion_mnist", "augment.pad": 2}, ("equal",)),
}
STUDIES: dict[StudyName, str] = {
    "equal": "Equal complexity (the paper's Tables 2 and 3)",
    "twice": "Twice the complexity: deeper, wider, or more paths (Table 4, Figure 7)",
    "no-shortcut": "Without shortcuts (Section 5.1)",
}

VARIED_SETTINGS = (
    "model.name", "model.depth", "model.cardinality", "model.width", "model.blocks", "model.stage_widths",
    "model.stage_channels", "model.stage_cardinalities", "model.shortcut", "train.seed",
)  # fmt: skip


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


@dataclass(frozen=True)
class StudySize:
    """The networks of the study at one size. The first is C = 1, the last of study "equal" has the largest C."""

    recipe: str
    tolerance: float  # by which the MACs of the networks differ at most, as a share
    data: tuple[DataName, ...]  # unless others are asked for
    networks: tuple[StudyNetwork, ...]

    @property
    def baseline(self) -> str:
        """The label of C = 1, with which the others are compared on the same seeds."""
        return self.networks[0].label

    @property
    def most_paths(self) -> str:
        """The label of the largest C at equal complexity."""
        return self.get_labels("equal")[-1]

    def get_labels(self, study: StudyName) -> list[str]:
        """Return the labels of the networks of a study, in order."""
        return [network.label for network in self.networks if network.study == study]

    def list_comparisons(self) -> list[tuple[str, str]]:
        """List which network is compared with which, as docs/study.md states it."""
        first, most = self.baseline, self.most_paths
        deeper, wider, paths = self.get_labels("twice")
        plain, plain_most = self.get_labels("no-shortcut")
        return [
            *((label, first) for label in self.get_labels("equal")[1:]),
            *((label, first) for label in (deeper, wider, paths)),
            *((paths, deeper), (paths, wider)),
            *((plain_most, plain), (plain, first), (plain_most, most)),
        ]


SIZES: dict[SizeName, StudySize] = {
    "small": StudySize(
        "small/cardinality",
        0.03,
        ("cifar10", "fashion-mnist"),
        (
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
        ),
    ),
    "full": StudySize(
        "paper/cifar10-resnet29",
        0.05,
        ("cifar10",),
        (
            _make("equal", "1x64d", 5, depth=29),
            _make("equal", "2x40d", 3, depth=29),
            _make("equal", "4x24d", 3, depth=29),
            _make("equal", "8x13d", 3, depth=29),
            _make("equal", "32x4d", 5, depth=29),
            _make("twice", "1x64d deeper", 3, depth=59, blocks=[7, 6, 6]),
            _make("twice", "1x104d wider", 3, depth=29),
            _make("twice", "66x4d more paths", 3, depth=29),
            _make("no-shortcut", "1x64d no shortcut", 3, depth=29, shortcut="none"),
            _make("no-shortcut", "32x4d no shortcut", 3, depth=29, shortcut="none"),
        ),
    ),
}


@dataclass(frozen=True)
class StudyRun:
    """One training run of the study."""

    recipe: str
    network: StudyNetwork
    data: DataName
    seed: int

    @property
    def name(self) -> str:
        """The name of its run directory."""
        return f"{self.data}-{self.network.label.replace(' ', '-')}-seed{self.seed}"

    def make_overrides(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Make the settings that differ from the recipe; ``given`` wins."""
        return {**DATA[self.data].settings, **self.network.model, "train.seed": self.seed, **given}


def list_runs(size: SizeName, data: Iterable[str], studies: Iterable[str]) -> list[StudyRun]:
    """List the runs of some studies on some data sets, seed by seed, so that an early end leaves whole comparisons.

    Raises RequestError for an unknown data set or study, or if there is no such run.
    """
    chosen: list[DataName] = [_check(name, get_args(DataName), "data set") for name in data]
    wanted = {_check(name, get_args(StudyName), "study") for name in studies}
    runs = []
    for name in chosen:
        networks = [n for n in SIZES[size].networks if n.study in wanted and n.study in DATA[name].studies]
        for seed in range(max((network.seeds for network in networks), default=0)):
            runs += [StudyRun(SIZES[size].recipe, n, name, seed) for n in networks if seed < n.seeds]
    if not runs:
        raise RequestError(f"the study has no {' or '.join(sorted(wanted))} on {' or '.join(chosen)}")
    return runs


def _check(name: str, known: tuple[Any, ...], what: str) -> Any:
    if name not in known:
        raise RequestError(f"{name} is no {what} of the study{did_you_mean(name, known)}")
    return name
