"""Fit the cost model on published and measured training speeds, and validate it on speeds that were left out.

    python tools/fit_cost_model.py

Reads ``tools/training_speeds.csv``; writes ``src/resnext/planning/cost_model.json`` (the fit) and
``results/cost-model.csv``: for each speed the error of the fit, of a fit without this network on this machine, and of a
fit without this machine (which then uses the utilisation of other machines with the same kernels).
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from resnext.planning.cost import CostModel, estimate_cost
from resnext.planning.machines import Cluster, Machine, load_machines

ROOT = Path(__file__).parents[1]
MAX_WIDTH = 128.0  # channels per group; upper bound of the fitted widths


@dataclass(frozen=True)
class Speed:
    """One measured training speed."""

    machine: Machine
    precision: str
    devices: int
    network: str
    images_per_second: float
    source: str

    @property
    def kernels(self) -> str:
        """The kernels whose fit applies."""
        return self.machine.kernels or self.precision

    @property
    def place(self) -> tuple[str, str]:
        """The machine and kernels whose utilisation it measures."""
        return self.machine.like, self.kernels


def main() -> None:
    """Fit, validate and write the results."""
    known = load_machines()
    with (ROOT / "tools" / "training_speeds.csv").open(newline="") as file:
        speeds = [
            Speed(
                known[r["machine"]],
                r["precision"],
                int(r["devices"]),
                r["network"],
                float(r["images_per_second"]),
                r["source"],
            )
            for r in csv.DictReader(file)
        ]
    model = fit(speeds)
    unseen_network = [refit_without_network(speeds, speed) for speed in speeds]
    unseen_machine = [refit_without_machine(speeds, speed) for speed in speeds]
    errors = {"measured": compute_rms(unseen_network), "extrapolated": compute_rms(unseen_machine)}
    write_model(model, errors)
    write_results(speeds, [compute_log_error(model, speed) for speed in speeds], unseen_network, unseen_machine)
    print({name: f"{value:.1%}" for name, value in errors.items()})


def fit(speeds: Sequence[Speed]) -> CostModel:
    """Fit by least squares of logarithms: a width per kind of kernels, a utilisation per machine and kind."""
    kinds = sorted({speed.kernels for speed in speeds})
    places = sorted({speed.place for speed in speeds})

    def model_of(x: np.ndarray) -> CostModel:
        values = np.exp(x).tolist()
        width = dict(zip(kinds, values[1:], strict=False))
        return CostModel(width, dict(zip(places, values[1 + len(kinds) :], strict=True)), values[0], 0.0, 0.0)

    start = np.log([0.9, *[30.0] * len(kinds), *[0.6] * len(places)])
    low = np.log([0.3, *[1.0] * len(kinds), *[0.02] * len(places)])
    high = np.log([1.0, *[MAX_WIDTH] * len(kinds), *[1.0] * len(places)])
    found = least_squares(lambda x: [compute_log_error(model_of(x), s) for s in speeds], start, bounds=(low, high))
    return model_of(found.x)


def compute_log_error(model: CostModel, speed: Speed) -> float:
    """Compute the logarithm of predicted over measured speed."""
    cluster = Cluster(speed.machine, speed.devices)
    said = estimate_cost(
        speed.network, 224, 1, cluster, batch_size=speed.devices, precision=speed.precision, model=model
    )
    return math.log(said.images_per_second / speed.images_per_second)


def refit_without_network(speeds: Sequence[Speed], speed: Speed) -> float | None:
    """Compute the error of a fit without this network on this machine; None if no other speed is of the machine."""
    rest = [s for s in speeds if (s.place, s.network) != (speed.place, speed.network)]
    return compute_log_error(fit(rest), speed) if any(s.place == speed.place for s in rest) else None


def refit_without_machine(speeds: Sequence[Speed], speed: Speed) -> float | None:
    """Compute the error of a fit without this machine; None if no other machine has such kernels."""
    rest = [s for s in speeds if s.machine.like != speed.machine.like]
    return compute_log_error(fit(rest), speed) if any(s.kernels == speed.kernels for s in rest) else None


def compute_rms(errors: Sequence[float | None]) -> float:
    """Compute the root mean square of the errors that are not None, as a relative error."""
    squares = [e * e for e in errors if e is not None]
    return math.expm1(math.sqrt(sum(squares) / len(squares)))


def write_model(model: CostModel, errors: dict[str, float]) -> None:
    """Write ``cost_model.json``."""
    by_machine = {
        name: {kernels: round(model.utilisation[name, kernels], 3) for _, kernels in places}
        for name, places in groupby(sorted(model.utilisation), key=lambda place: place[0])
    }
    values = {
        "command": "python tools/fit_cost_model.py",
        "width": {kernels: round(width, 1) for kernels, width in model.width.items()},
        "utilisation": by_machine,
        "scaling": round(model.scaling, 3),
        "error": {name: round(value, 3) for name, value in errors.items()},
    }
    path = ROOT / "src" / "resnext" / "planning" / "cost_model.json"
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_results(speeds: Sequence[Speed], *errors: Sequence[float | None]) -> None:
    """Write ``results/cost-model.csv``."""
    names = ("error_of_fit_percent", "network_left_out_percent", "machine_left_out_percent")
    with (ROOT / "results" / "cost-model.csv").open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(
            (
                "machine",
                "precision",
                "devices",
                "network",
                "images_per_second",
                "predicted",
                *names,
                "source",
                "command",
            )
        )
        for speed, *found in zip(speeds, *errors, strict=True):
            percents = ["" if e is None else f"{100 * math.expm1(e):+.1f}" for e in found]
            predicted = speed.images_per_second * math.exp(found[0])
            out.writerow(
                (speed.machine.name, speed.precision, speed.devices, speed.network, speed.images_per_second,
                 f"{predicted:.1f}", *percents, speed.source, "python tools/fit_cost_model.py")
            )  # fmt: skip


if __name__ == "__main__":
    main()
