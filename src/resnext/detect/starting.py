"""The detector a run starts from: fresh, around a loaded network, a loaded detector, or its own checkpoint."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from resnext.data.classes import listing
from resnext.data.preprocessing import Preprocessing
from resnext.data.randomness import seed_of
from resnext.detect.dataset import DetectionDataset
from resnext.detect.faster_rcnn import FasterRcnn, around
from resnext.detect.files import holds_detector, load_detector
from resnext.detect.preprocessing import DetectPreprocessing
from resnext.detect.settings import DetectRecipe
from resnext.errors import RequestError
from resnext.model.forms import convert_form
from resnext.model.network import Network, create_model
from resnext.train.finetune import check_architecture, model_from_checkpoint
from resnext.train.session import WEIGHTS
from resnext.weights import load
from resnext.weights.surgery import same_names


def starting_detector(recipe: DetectRecipe, train: DetectionDataset) -> FasterRcnn:
    """The detector before the first step: fresh, around a loaded network, or a loaded detector. Raises RequestError."""
    weights, learn, seed = recipe.init.weights, recipe.train.learn, recipe.train.seed
    proposer = None if recipe.train.proposals is None else proposer_of(recipe.train.proposals)
    if weights is None:
        architecture = recipe.model.architecture(0, 3)
        network, base, provenance = create_model(architecture, seed=seed_of(seed, WEIGHTS)), None, {}
    else:
        loaded = load_detector(weights) if holds_detector(weights) else None
        if loaded is not None and learn == loaded.learn == "joint":
            return adapted(loaded, recipe, train.classes)
        network, base, notes = loaded_network(weights, loaded, recipe)
        provenance = {"init": {"weights": weights, "notes": notes}}
    view = DetectPreprocessing.of(recipe.data, base)
    if proposer is not None:
        check_colours(view, proposer.preprocessing, recipe.train.proposals)
    model = around(
        network,
        recipe.detector,
        train.classes,
        view,
        seed=seed,
        learn=learn,
        proposer=proposer,
    )
    model.provenance = provenance
    return model


def adapted(model: FasterRcnn, recipe: DetectRecipe, classes: tuple[str, ...]) -> FasterRcnn:
    """A loaded detector for the data's ``classes``: those it knows by name keep their rows, others start anew.

    The recipe's detector settings that shape no tensor are taken. Raises RequestError for those that do and differ.
    """
    check_architecture(recipe.model, model.architecture, str(recipe.init.weights))
    view = DetectPreprocessing.of(recipe.data, model.preprocessing)
    fresh = around(
        create_model(model.architecture.change(num_classes=0), seed=0),
        recipe.detector,
        classes,
        view,
        seed=recipe.train.seed,
    )
    state, mine = model.state_dict(), fresh.state_dict()
    notes = [*model.provenance.get("notes", []), *_view_note(model.preprocessing, view)]
    if model.classes != classes:
        kept = same_names(model.classes, classes)
        notes.append(_head_note(model.classes, classes, kept))
        state |= _head_rows(state, mine, kept)
    for name, value in mine.items():
        if name not in state or state[name].shape != value.shape:
            theirs = tuple(state[name].shape) if name in state else "none"
            raise RequestError(
                f"{recipe.init.weights} is a detector of another shape: {name} is {tuple(value.shape)} by the recipe, "
                f"{theirs} there; leave detector.layout, fpn_channels, head_channels and the anchors as they were"
            )
    fresh.load_state_dict({name: state[name] for name in mine})
    fresh.provenance = {"init": {"weights": recipe.init.weights, "notes": notes}}
    return fresh


def _view_note(theirs: DetectPreprocessing, mine: DetectPreprocessing) -> list[str]:
    """Where the recipe's view of an image is another than that of a loaded detector."""
    changed = [
        f"data.{name} {value}, not {getattr(theirs, name)}"
        for name, value in mine.to_dict().items()
        if name in ("min_size", "max_size", "resize", "exif") and value != getattr(theirs, name)
    ]
    return (
        [f"the detector sees images as the recipe says, no longer as it did: {', '.join(changed)}"] if changed else []
    )


def _head_rows(old: Mapping[str, Tensor], fresh: Mapping[str, Tensor], kept: Mapping[int, int]) -> dict[str, Tensor]:
    """The box predictor's tensors ``fresh``, with the rows ``kept`` (new class -> old class) and the background's."""
    rows = {0: 0} | {new + 1: before + 1 for new, before in kept.items()}  # 0 is the background
    heads: dict[str, Tensor] = {}
    for layer, values in (("cls_score", 1), ("bbox_pred", 4)):  # numbers a class
        for name in (f"roi_heads.box_predictor.{layer}.weight", f"roi_heads.box_predictor.{layer}.bias"):
            if old[name].shape[1:] != fresh[name].shape[1:]:
                continue  # of another shape: the caller says so
            head = fresh[name].clone().unflatten(0, (-1, values))
            head[list(rows)] = old[name].unflatten(0, (-1, values))[list(rows.values())]
            heads[name] = head.flatten(0, 1)
    return heads


def _head_note(old: tuple[str, ...], new: tuple[str, ...], kept: Mapping[int, int]) -> str:
    """Which classes keep their rows of the last layers, and which start anew."""
    anew = [name for row, name in enumerate(new) if row not in kept]
    before = f"the detector's last layers had {len(old)} classes and have {len(new)} now"
    if not anew:
        return f"{before}: all keep their rows by their names"
    if not kept:
        return f"{before}: none has a name it knew, so all start anew but for the background"
    return f"{before}: {len(kept)} keep their rows by their names, as the background does; {listing(anew)} start anew"


def proposer_of(source: str) -> FasterRcnn:
    """The detector of the rpn step. Raises RequestError for another."""
    proposer = load_detector(source)
    if proposer.learn != "rpn":
        raise RequestError(
            f"train.proposals {source} is no run of the rpn step (train.learn rpn), but of {proposer.learn}"
        )
    return proposer


def check_colours(mine: DetectPreprocessing, proposers: DetectPreprocessing, source: str | None) -> None:
    """Both networks of the fast_rcnn step see the same batch. Raises RequestError where they were to see others."""
    for name in ("mean", "std"):
        own, theirs = getattr(mine, name), getattr(proposers, name)
        if own != theirs:
            raise RequestError(
                f"train.proposals {source} was trained with data.{name} {list(theirs)}, this run would have "
                f"{list(own)}: give data.mean and data.std as they are there"
            )


def detector_from_checkpoint(data: bytes) -> FasterRcnn:
    """The detector of a run that goes on."""
    return cast(FasterRcnn, model_from_checkpoint(data, load_detector))


def loaded_network(
    weights: str, detector: FasterRcnn | None, recipe: DetectRecipe
) -> tuple[Network, Preprocessing | DetectPreprocessing | None, list[str]]:
    """The network of a classification file, or below a ``detector``; its preprocessing; notes."""
    if detector is not None:
        network, base = network_of(detector, weights), detector.preprocessing
        network = network if recipe.model.form is None else convert_form(network, recipe.model.form)
        notes = [*detector.provenance.get("notes", []), "of the detector only the network is taken"]
    else:
        network = load(weights, form=recipe.model.form)
        base, notes = network.preprocessing, network.provenance.get("notes", [])
    check_architecture(recipe.model, network.architecture, weights)
    if network.architecture.in_channels != 3:
        raise RequestError(
            f"{weights} takes images of {network.architecture.in_channels} channels; a detector reads RGB pictures"
        )
    return network, base, notes


def network_of(detector: FasterRcnn, source: str) -> Network:
    """The network below a detector, whole again. Raises RequestError where its last stage is not there."""
    network = create_model(detector.architecture.change(num_classes=0), seed=0)
    state = detector.network.state_dict()
    if detector.settings.layout == "c4":
        if detector.learn == "rpn":
            raise RequestError(f"{source} is a c4 detector of the rpn step, which has no last stage to start from")
        state |= detector.roi_heads.box_head.state_dict()
    network.load_state_dict(state)
    return network
