"""Build the detector that a run starts from: new, from backbone weights, from a detector, or from a checkpoint."""

from collections.abc import Mapping

from torch import Tensor

from resnext.data.classes import quote_names
from resnext.data.preprocessing import Preprocessing
from resnext.data.seeding import derive_seed
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.model.faster_rcnn import FasterRcnn, build_around
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectRecipe
from resnext.detection.weights import load_detector, load_detector_or_network
from resnext.errors import RequestError
from resnext.model.network import Network, convert_form, create_model
from resnext.training.finetune import WEIGHTS_SEED_TAG, check_architecture
from resnext.weights.modify import match_names


def build_initial_detector(recipe: DetectRecipe, train: DetectionDataset) -> FasterRcnn:
    """Build the detector of a new run: new, around a loaded network, or from a loaded detector. Raises RequestError."""
    weights, learn, seed = recipe.init.weights, recipe.train.stage, recipe.train.seed
    proposer = None if recipe.train.proposals is None else load_proposal_model(recipe.train.proposals)
    if weights is None:
        architecture = recipe.model.architecture(0, 3)
        network, base, provenance = create_model(architecture, seed=derive_seed(seed, WEIGHTS_SEED_TAG)), None, {}
    else:
        loaded = load_detector_or_network(weights, form=recipe.model.form)
        if isinstance(loaded, FasterRcnn) and learn == loaded.stage == "joint":
            return replace_predictor(loaded, recipe, train.classes)
        network, base, notes = take_base_network(loaded, weights, recipe)
        provenance = {"init": {"weights": weights, "notes": notes}}
    view = DetectPreprocessing.from_settings(recipe.data, base)
    if proposer is not None:
        check_same_normalization(view, proposer.preprocessing, recipe.train.proposals)
    model = build_around(network, recipe.detector, train.classes, view, seed=seed, stage=learn, proposer=proposer)
    model.provenance = provenance
    return model


def replace_predictor(model: FasterRcnn, recipe: DetectRecipe, classes: tuple[str, ...]) -> FasterRcnn:
    """Adapt a loaded detector to ``classes``: classes it knows by name keep their predictor rows, others start new.

    Takes the recipe's detector settings that do not affect tensor shapes. Raises RequestError where shapes differ.
    """
    check_architecture(recipe.model, model.architecture, str(recipe.init.weights))
    view = DetectPreprocessing.from_settings(recipe.data, model.preprocessing)
    network = create_model(model.architecture.change(num_classes=0), seed=0)
    fresh = build_around(network, recipe.detector, classes, view, seed=recipe.train.seed)
    state, mine = model.state_dict(), fresh.state_dict()
    notes = [*model.provenance.get("notes", []), *_note_preprocessing_changes(model.preprocessing, view)]
    if model.classes != classes:
        kept = match_names(model.classes, classes)
        notes.append(_describe_head_change(model.classes, classes, kept))
        state |= _copy_head_rows(state, mine, kept)
    for name, value in mine.items():
        if name not in state or state[name].shape != value.shape:
            theirs = tuple(state[name].shape) if name in state else "none"
            raise RequestError(
                f"{recipe.init.weights} is a detector of another shape: {name} is {tuple(value.shape)} by the recipe "
                f"but {theirs} in the file; use its detector.layout, fpn_channels, head_channels and anchors"
            )
    fresh.load_state_dict({name: state[name] for name in mine})
    fresh.provenance = {"init": {"weights": recipe.init.weights, "notes": notes}}
    return fresh


def _note_preprocessing_changes(theirs: DetectPreprocessing, mine: DetectPreprocessing) -> list[str]:
    """Note where the recipe's preprocessing differs from that of the loaded detector."""
    changed = [
        f"data.{name} {value}, not {getattr(theirs, name)}"
        for name, value in mine.to_dict().items()
        if name in ("min_size", "max_size", "resize", "exif") and value != getattr(theirs, name)
    ]
    return [f"the recipe changes the detector's preprocessing: {', '.join(changed)}"] if changed else []


def _copy_head_rows(
    old: Mapping[str, Tensor], fresh: Mapping[str, Tensor], kept: Mapping[int, int]
) -> dict[str, Tensor]:
    """Copy the rows of ``kept`` (new class -> old class) and the background from ``old`` into the box predictor."""
    rows = {0: 0} | {new + 1: before + 1 for new, before in kept.items()}  # 0 is the background
    heads: dict[str, Tensor] = {}
    for layer, values in (("cls_score", 1), ("bbox_pred", 4)):  # outputs per class
        for name in (f"roi_heads.box_predictor.{layer}.weight", f"roi_heads.box_predictor.{layer}.bias"):
            if old[name].shape[1:] != fresh[name].shape[1:]:
                continue  # the caller reports the other shape
            head = fresh[name].clone().unflatten(0, (-1, values))
            head[list(rows)] = old[name].unflatten(0, (-1, values))[list(rows.values())]
            heads[name] = head.flatten(0, 1)
    return heads


def _describe_head_change(old: tuple[str, ...], new: tuple[str, ...], kept: Mapping[int, int]) -> str:
    """Describe which classes keep their rows of the last layers, and which start new."""
    anew = [name for row, name in enumerate(new) if row not in kept]
    before = f"the detector's last layers change from {len(old)} to {len(new)} classes"
    if not anew:
        return f"{before}: all keep their weights, matched by name"
    if not kept:
        return f"{before}: no name matches, so all but the background start new"
    keep = f"{len(kept)} and the background keep their weights, matched by name"
    return f"{before}: {keep}; {quote_names(anew)} start new"


def load_proposal_model(source: str) -> FasterRcnn:
    """Load a detector of the rpn stage. Raises RequestError for another stage."""
    proposer = load_detector(source)
    if proposer.stage != "rpn":
        raise RequestError(
            f"train.proposals {source} must be a run of the rpn stage (train.stage rpn), not of {proposer.stage}"
        )
    return proposer


def check_same_normalization(mine: DetectPreprocessing, proposers: DetectPreprocessing, source: str | None) -> None:
    """Raise RequestError unless both networks of the fast_rcnn stage normalize alike: they share the input batch."""
    for name in ("mean", "std"):
        own, theirs = getattr(mine, name), getattr(proposers, name)
        if own != theirs:
            raise RequestError(
                f"train.proposals {source} was trained with data.{name} {list(theirs)}, but this run has {list(own)}: "
                "use its data.mean and data.std"
            )


def take_base_network(
    loaded: FasterRcnn | Network, weights: str, recipe: DetectRecipe
) -> tuple[Network, Preprocessing | DetectPreprocessing | None, list[str]]:
    """Return the backbone of what was loaded from ``weights``, its preprocessing and notes."""
    base: Preprocessing | DetectPreprocessing | None
    if isinstance(loaded, FasterRcnn):
        network, base = extract_network(loaded, weights), loaded.preprocessing
        network = network if recipe.model.form is None else convert_form(network, recipe.model.form)
        notes = [*loaded.provenance.get("notes", []), "only the detector's backbone is used"]
    else:
        network, base, notes = loaded, loaded.preprocessing, loaded.provenance.get("notes", [])
    check_architecture(recipe.model, network.architecture, weights)
    channels = network.architecture.in_channels
    if channels != 3:
        raise RequestError(f"{weights} takes images of {channels} channels; a detector reads RGB images")
    return network, base, notes


def extract_network(detector: FasterRcnn, source: str) -> Network:
    """Extract the whole backbone from a detector. Raises RequestError where the last stage is missing."""
    network = create_model(detector.architecture.change(num_classes=0), seed=0)
    state = detector.network.state_dict()
    if detector.settings.layout == "c4":
        if detector.stage == "rpn":
            raise RequestError(f"{source} is a c4 detector of the rpn stage, which has no last stage to start from")
        state |= detector.roi_heads.box_head.state_dict()
    network.load_state_dict(state)
    return network
