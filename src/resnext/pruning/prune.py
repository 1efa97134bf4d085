"""Prune a network by paths: rank them, choose how many stay, slice, re-estimate BN."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from resnext.bench.latency import LatencyRequest
from resnext.choices import EngineChoice, LatencyPrecision
from resnext.data.dataset import Dataset
from resnext.deploy.network_engine import get_expected_image_size
from resnext.errors import RequestError, did_you_mean
from resnext.evaluation.classifier import get_device
from resnext.evaluation.evaluator import check_compatible
from resnext.evaluation.label_mapping import map_labels
from resnext.evaluation.outputs import get_preprocessing
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from resnext.pruning.budget import Report, find_counts_for_latency, find_counts_for_macs
from resnext.pruning.images import iterate_images
from resnext.pruning.importance import (
    IMPORTANCES,
    Importance,
    Scores,
    compute_magnitude_channel_importance,
    compute_magnitude_importance,
    compute_taylor_channel_importance,
    compute_taylor_importance,
)
from resnext.pruning.recalibrate import recalibrate_bn
from resnext.pruning.record import add_record
from resnext.pruning.selection import (
    Counts,
    check_has_paths,
    check_width,
    choose_channels,
    choose_paths,
    list_greedy_counts,
    resolve_counts,
)
from resnext.pruning.slicing import keep_channels, keep_paths

IMPORTANCE_IMAGES = 1024  # default number of training images for the Taylor importance
RECALIBRATION_IMAGES = 2048  # default number of training images for BN's statistics
BATCH_SIZE = 64  # images; for BN each batch counts equally


@dataclass(frozen=True, kw_only=True)
class PruneTarget:
    """How much is pruned: one of the last three, or the width, alone or with the cardinality."""

    width: int | None = None  # channels that stay in each path of the first stage; in proportion in the others
    cardinality: int | Sequence[int] | None = None  # paths that stay in each stage
    macs: float | None = None  # multiply-adds for one image
    latency: float | None = None  # milliseconds for one image, measured

    @property
    def takes_paths(self) -> bool:
        """Whether whole paths go."""
        return (self.cardinality, self.macs, self.latency) != (None, None, None)

    def __post_init__(self) -> None:
        given = [name for name in ("cardinality", "macs", "latency") if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.width is not None):
            raise RequestError(
                f"give one of cardinality, macs and latency, not {' and '.join(given) if given else 'none'}"
            )
        if self.width is not None and given not in ([], ["cardinality"]):
            raise RequestError(f"width can be pruned alone or with cardinality, not to a budget of {given[0]}")
        for name in ("macs", "latency"):
            budget = getattr(self, name)
            if budget is not None and not 0 < budget < float("inf"):
                raise RequestError(f"{name} must be a number above 0, not {budget!r}")


def prune(
    model: Network,
    data: Dataset | None = None,
    *,
    cardinality: int | Sequence[int] | None = None,
    width: int | None = None,
    macs: float | None = None,
    latency: float | None = None,
    engine: EngineChoice = "auto",
    precision: LatencyPrecision = "fp32",
    multiple: int = 1,
    importance: Importance | None = None,
    images: int = IMPORTANCE_IMAGES,
    recalibrate: int = RECALIBRATION_IMAGES,
    seed: int = 0,
    report: Report = lambda _: None,
) -> Network:
    """Take the least important paths out of each block of a network, or the least important channels out of paths.

    Blocks of one stage keep equally many paths, but each its own. With ``cardinality`` the numbers are given; with a
    budget, paths go where a unit of lost importance saves the most multiply-adds, until the budget holds.

    Args:
        model: The network, in any form, on the device to compute on. It is not changed.
        data: Training images, such as ``open_data(...).train``. Without them, importance is the magnitude, and BN
            keeps its statistics.
        cardinality: Paths that stay in each stage: one number, or one for each stage.
        width: Channels that stay in each path of the first stage, and in proportion in the others: the most important
            ones of each path. Alone, or with ``cardinality``.
        macs: Budget of multiply-adds for one image.
        latency: Budget of milliseconds for one image, measured on this machine's CPU.
        engine: For ``latency``: "auto" (the fastest), "pytorch", "onnxruntime" or "openvino".
        precision: For ``latency``: "fp32", "bf16" or "auto".
        multiple: With a budget, stages keep multiples of this number of paths. Regular numbers pack better into the
            kernels of some engines.
        importance: "taylor" or "magnitude" (``pruning/importance.py``); by default taylor if there is data.
        images: Training images for the Taylor importance.
        recalibrate: Training images from which BN's running statistics are estimated again; 0 keeps them.
        seed: Which training images are used.
        report: Called with a line after each measurement of latency.

    Returns:
        An ordinary network, with ``provenance["prune"]``.

    Raises:
        RequestError: Blocks have one path each, the budget cannot be met or is met already, an engine is missing, or
            the classes of data and network differ.
    """
    target = PruneTarget(cardinality=cardinality, width=width, macs=macs, latency=latency)
    how = _resolve_importance(importance, data)
    if multiple < 1:
        raise RequestError(f"multiple must be at least 1, not {multiple}")
    request = LatencyRequest(engine, precision)
    _check_request(model.architecture, target, request)
    pruned = model
    if target.takes_paths:
        scores = _compute_importance(model, data, how, images, seed)
        counts = _choose_counts(model, scores, target, request, multiple, report)
        pruned = keep_paths(pruned, choose_paths(model.architecture, scores, counts))
    if width is not None:
        channel_scores = _compute_importance(pruned, data, how, images, seed, of_channels=True)
        pruned = keep_channels(pruned, choose_channels(pruned.architecture, channel_scores, width))
    used: dict[str, object] = {"importance": how, "seed": seed}
    if data is not None:
        used |= {"data": data.name, **({"images": images} if how == "taylor" else {})}
        if recalibrate:
            used["recalibrated_images"] = recalibrate_on(pruned, data, recalibrate, seed=seed)
    add_record(pruned, model, "prune", **used)
    return pruned


def recalibrate_on(model: Network, data: Dataset, images: int = RECALIBRATION_IMAGES, *, seed: int = 0) -> int:
    """Re-estimate BN's running statistics in place on training images; return how many were used."""
    batches = iterate_images(
        data, get_preprocessing(model), images, batch_size=BATCH_SIZE, seed=seed, device=get_device(model)
    )
    return recalibrate_bn(model, batches)


def _resolve_importance(importance: Importance | None, data: Dataset | None) -> Importance:
    if importance is None:
        return "magnitude" if data is None else "taylor"
    if importance not in IMPORTANCES:
        raise RequestError(f"importance {importance!r} is unknown{did_you_mean(importance, IMPORTANCES)}")
    if importance == "taylor" and data is None:
        raise RequestError("importance taylor needs training images; without data there is magnitude")
    return importance


def _check_request(a: Architecture, target: PruneTarget, request: LatencyRequest) -> None:
    """Raise RequestError, before the work, for what the network or this machine cannot do."""
    if target.takes_paths:
        check_has_paths(a)
    if target.width is not None:
        check_width(a, target.width)
    if target.latency is not None:
        request.check()
    if target.cardinality is not None:
        resolve_counts(a, target.cardinality)


def _compute_importance(
    model: Network, data: Dataset | None, importance: Importance, images: int, seed: int, *, of_channels: bool = False
) -> dict[str, Tensor]:
    """Compute the importance of paths, or of the channels in them."""
    if data is None or importance == "magnitude":
        return (compute_magnitude_channel_importance if of_channels else compute_magnitude_importance)(model)
    mapping = map_labels(data, model.classes, model.architecture.num_classes)
    check_compatible(model, mapping.dataset, mapping.output_indices)
    batches = iterate_images(
        mapping.dataset,
        get_preprocessing(model),
        images,
        batch_size=BATCH_SIZE,
        seed=seed,
        device=get_device(model),
    )
    return (compute_taylor_channel_importance if of_channels else compute_taylor_importance)(model, batches)


def _choose_counts(
    model: Network, scores: Scores, target: PruneTarget, request: LatencyRequest, multiple: int, report: Report
) -> Counts:
    a, side = model.architecture, get_expected_image_size(model)
    if target.cardinality is not None:
        return resolve_counts(a, target.cardinality)
    steps = list_greedy_counts(a, scores, side, multiple)
    if len(steps) == 1:
        raise RequestError(f"{a.name} has no stage of more than {multiple} paths, so nothing can be pruned")
    if target.macs is not None:
        return find_counts_for_macs(a, steps, target.macs, side)
    assert target.latency is not None
    return find_counts_for_latency(model, scores, steps, target.latency, request, report)
