"""The whole network: stem, stages, pooled features, classifier (the paper's Table 1)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from resnext.errors import RequestError, did_you_mean
from resnext.model.architecture import Architecture, ArchitectureChanges, Form, Stage
from resnext.model.blocks import BLOCK_OF_FORM, BlockShape
from resnext.model.forms import convert_state
from resnext.model.initialise import initialise
from resnext.model.layers import NormAct, conv2d

if TYPE_CHECKING:
    from resnext.data.preprocessing import Preprocessing  # only for an annotation: nothing here reads its fields


class Network(nn.Module):
    """A ResNet or ResNeXt with initial weights (``initialise.py``) drawn from ``generator``.

    Form (c) has torchvision's parameter names. Under ``torch.device("meta")`` the network is built without weights.
    ``preprocessing``, ``classes`` and ``provenance`` (JSON values that say where the weights come from) are loaded and
    saved together with trained weights; a new network has none.
    """

    def __init__(self, architecture: Architecture, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        self.preprocessing: Preprocessing | None = None
        self.classes: tuple[str, ...] | None = None
        self.provenance: dict[str, Any] = {}
        device = torch.empty(0).device  # PyTorch 2.6's get_default_device does not see "with torch.device"
        with torch.device("meta"):  # skips PyTorch's initialisation; ours follows
            self._build()
        if device.type != "meta":
            self.to_empty(device="cpu")
            self._initialise(generator)
            self.to(device)

    def _build(self) -> None:
        a = self.architecture
        kernel, stride = (7, 2) if a.stem == "imagenet" else (3, 1)
        self.conv1 = conv2d(a.in_channels, a.base_channels, kernel, stride)
        if not a.pre_activation:  # with pre-activation the first block's bn0 takes its place
            self.bn1 = NormAct(a.base_channels)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if a.stem == "imagenet" else nn.Identity()
        for number, stage in enumerate(a.stages, start=1):
            self.add_module(f"layer{number}", nn.Sequential(*_build_blocks(a, stage)))
        channels = a.stages[-1].out_channels
        if a.pre_activation:
            self.bn = NormAct(channels)
        self.fc = nn.Linear(channels, a.num_classes) if a.num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = a.bn_eps

    def _initialise(self, generator: torch.Generator | None) -> None:
        """Draw the weights as form (c) and convert them, so that a seed gives the same function in every form."""
        a = self.architecture
        if a.form == "grouped":
            initialise(self, generator, zero_gamma=a.initialisation == "zero_gamma")
            return
        grouped = a.change(form="grouped")
        with torch.device("cpu"):
            state = Network(grouped, generator=generator).state_dict()
        self.load_state_dict(convert_state(state, grouped, a.form))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, K] of images [B, C, H, W], or pooled features [B, channels] if there are no classes.

        Raises RequestError for an unsupported shape.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map [B, ``num_features``, h, w] of images [B, C, H, W] (timm's name).

        It has the final BN and ReLU of a pre-activation network. Raises RequestError for an unsupported shape.
        """
        self._check_input(x)
        x = self._forward_stem(x)
        for stage in self._iter_stages():
            x = stage(x)
        return self._forward_norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a map of ``forward_features`` and classify it: logits [B, K], or pooled features if ``pre_logits``."""
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return pooled if pre_logits else self.fc(pooled)

    @property
    def num_features(self) -> int:
        """Channels of the last feature map, and of the pooled features."""
        return self.architecture.stages[-1].out_channels

    def reset_classifier(self, num_classes: int, *, seed: int | None = None) -> None:
        """Replace the classifier by a new one, or by none for 0 classes; class names are forgotten (timm's name).

        ``seed`` determines its weights. Raises RequestError for an invalid number.
        """
        self.architecture = self.architecture.change(num_classes=num_classes)
        like = next(self.parameters())
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        initialise(fc, generator)
        self.fc, self.classes = fc.to(like.device, like.dtype), None

    def features(self, x: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Compute feature maps: the outputs of the stages, ``C2`` to ``C5``, and ``pooled`` [B, channels].

        Stages after the deepest requested one are not run. With pre-activation, the final BN and ReLU apply to
        ``pooled`` only.

        Args:
            x: images [B, C, H, W].
            names: the maps to return; None returns all.

        Raises:
            RequestError: a name is unknown, or the shape of x is not supported.
        """
        known = self.feature_names
        wanted = list(known if names is None else [names] if isinstance(names, str) else names)
        for name in wanted:
            if name not in known:
                raise RequestError(f"{self.architecture.name} has no features {name!r}{did_you_mean(name, known)}")
        self._check_input(x)
        maps: dict[str, Tensor] = {}
        if wanted:
            deepest = max(known.index(name) for name in wanted)
            x = self._forward_stem(x)
            for name, stage in zip(known[: deepest + 1], self._iter_stages(), strict=False):
                x = maps[name] = stage(x)
            if "pooled" in wanted:
                maps["pooled"] = self.forward_head(self._forward_norm(x), pre_logits=True)
        return {name: maps[name] for name in wanted}

    def compute_score_map(self, x: Tensor, window: int) -> Tensor:
        """Run the network fully convolutionally: images [B, C, H, W] of any size to logits [B, h, w, K].

        Each logit vector is the classifier on the mean over ``window`` x ``window`` pixels of the last feature map; the
        window moves by one pixel. For a map of exactly the window's size, the result equals ``forward``. Raises
        RequestError for a smaller map.
        """
        x = self.forward_features(x)
        if min(x.shape[2:]) < window:
            raise RequestError(f"a map of {x.shape[2]}x{x.shape[3]} is smaller than the window of {window}x{window}")
        logits: Tensor = self.fc(F.avg_pool2d(x, window, stride=1).permute(0, 2, 3, 1))
        return logits

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names that ``features`` accepts: ``C2``, ``C3``, ... for the stages, then ``pooled``."""
        return (*(f"C{number}" for number, _ in enumerate(self.architecture.stages, start=2)), "pooled")

    def _iter_stages(self) -> Iterator[nn.Module]:
        return (getattr(self, f"layer{number}") for number, _ in enumerate(self.architecture.stages, start=1))

    def _forward_stem(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y: Tensor = self.maxpool(x if self.architecture.pre_activation else self.bn1(x))
        return y

    def _forward_norm(self, x: Tensor) -> Tensor:
        """Apply the final BN and ReLU of a pre-activation network."""
        return self.bn(x) if self.architecture.pre_activation else x

    def _check_input(self, x: Tensor) -> None:
        if isinstance(x, Proxy):  # traced by torch.fx: the shape is not known yet
            return
        channels = self.architecture.in_channels
        if x.dim() != 4 or x.shape[1] != channels:
            raise RequestError(
                f"{self.architecture.name} takes images of shape [batch, {channels}, height, width], "
                f"not {list(x.shape)}"
            )
        self.architecture.check_image_size(x.shape[2], x.shape[3])


def create_model(
    name_or_architecture: str | Architecture, *, seed: int | None = None, **changes: Unpack[ArchitectureChanges]
) -> Network:
    """Create a network with newly initialised weights.

    Args:
        name_or_architecture: a name such as ``resnext50_32x4d``, or an Architecture.
        seed: determines the weights, equally in all forms and on all devices, without using the global random state.
            None draws from torch's global generator.
        changes: fields of Architecture to override (``num_classes=10``, ``form="branched"``, ...).

    Raises:
        RequestError: a name, field or value is unknown.
    """
    if isinstance(name_or_architecture, Architecture):
        architecture = name_or_architecture.change(**changes)
    else:
        architecture = Architecture.parse(name_or_architecture, **changes)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Network(architecture, generator=generator)


def convert_form(model: Network, form: Form) -> Network:
    """Return a new network that computes the same function in another form.

    Args:
        model: a network of this package.
        form: "grouped", "concatenated" or "branched".

    Returns:
        A network with the model's weights, running statistics, dtype, device, train or eval mode, preprocessing,
        classes and provenance. It shares no memory with ``model``.

    Raises:
        RequestError: the form is unknown, or the model is not one of this package.
    """
    if not isinstance(getattr(model, "architecture", None), Architecture):
        raise RequestError(f"only networks of this package have forms, not a {type(model).__name__}")
    state = convert_state(model.state_dict(), model.architecture, form)
    return rebuild_network(model, model.architecture.change(form=form), state)


def rebuild_network(model: Network, architecture: Architecture, state: Mapping[str, Tensor]) -> Network:
    """Return a network of another architecture with copies of the tensors ``state``.

    Mode, preprocessing, classes and provenance are those of ``model``.
    """
    with torch.device("meta"):
        rebuilt = type(model)(architecture)
    rebuilt.load_state_dict({key: tensor.detach().clone() for key, tensor in state.items()}, strict=True, assign=True)
    rebuilt.train(model.training)
    rebuilt.preprocessing, rebuilt.classes = model.preprocessing, model.classes
    rebuilt.provenance = dict(model.provenance)
    return rebuilt


def _build_blocks(a: Architecture, stage: Stage) -> Iterator[nn.Module]:
    """Build the blocks of one stage; the first has the stage's stride and changes the number of channels."""
    for number in range(stage.blocks):
        yield BLOCK_OF_FORM[a.form](
            BlockShape(
                in_channels=stage.out_channels if number else stage.in_channels,
                out_channels=stage.out_channels,
                cardinality=stage.cardinality,
                width=stage.width,
                stride=1 if number else stage.stride,
                first_dilation=stage.dilation if number else stage.first_dilation,
                dilation=stage.dilation,
                kind=a.block,
                shortcut=a.shortcut,
                pre_activation=a.pre_activation,
                stride_in_1x1=a.stride_in_1x1,
            )
        )
