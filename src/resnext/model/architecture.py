"""Describe a network by one frozen value, ``Architecture``, and convert it from and to names like resnext50_32x4d.

This module does not import torch, so that the command line can check names quickly.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, get_args

from resnext.errors import RequestError, did_you_mean

Stem = Literal["imagenet", "cifar"]
BlockType = Literal["bottleneck", "basic"]
Form = Literal["grouped", "concatenated", "branched"]
Shortcut = Literal["A", "B", "C", "none"]
Initialisation = Literal["release", "zero_gamma"]
STEMS: tuple[Stem, ...] = get_args(Stem)
BLOCKS: tuple[BlockType, ...] = get_args(BlockType)
FORMS: tuple[Form, ...] = get_args(Form)
SHORTCUTS: tuple[Shortcut, ...] = get_args(Shortcut)
INITIALISATIONS: tuple[Initialisation, ...] = get_args(Initialisation)

# Block type and blocks per stage (conv2..conv5) in the Torch7 release (models/resnext.lua; 18, 34 and 200 from
# fb.resnet.torch).
IMAGENET_STAGES: dict[int, tuple[BlockType, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
CONVOLUTIONS_PER_BLOCK: dict[BlockType, int] = {"bottleneck": 3, "basic": 2}  # per block
EXPANSION: dict[BlockType, int] = {
    "bottleneck": 4,
    "basic": 1,
}  # output channels of a block / template width of its stage
MAX_COUNT = 1_000_000  # upper bound of every count in an Architecture
NAME_PATTERN = re.compile(
    r"(?P<family>resnet|resnext)(?P<depth>\d{1,4})"
    r"(?:_(?P<cardinality>\d{1,5}(?:-\d{1,5}){0,5})x(?P<width>\d{1,5})d)?"  # 8-16-16-32x4d: C of each stage
)


class DetailChanges(TypedDict, total=False):
    """The fields of Architecture, besides depth, cardinality and width, as keyword arguments."""

    stem: Stem
    block: BlockType
    form: Form
    shortcut: Shortcut
    pre_activation: bool
    stride_in_1x1: bool
    bn_eps: float
    num_classes: int
    in_channels: int
    base_channels: int
    initialisation: Initialisation
    blocks: Sequence[int] | None
    stage_widths: Sequence[int] | None
    stage_channels: Sequence[int] | None
    stage_cardinalities: Sequence[int] | None
    output_stride: int | None


class ArchitectureChanges(DetailChanges, total=False):
    """The fields of Architecture as keyword arguments, so that a type checker knows which values each may have."""

    depth: int | None
    cardinality: int
    width: int | None


class Stage(NamedTuple):
    """The numbers from which the blocks of one stage are built (Table 1)."""

    blocks: int
    cardinality: int  # C in this stage
    width: int  # d in this stage
    in_channels: int
    out_channels: int
    stride: int  # of the stage's first block
    first_dilation: int  # of the 3x3 convolutions in the first block
    dilation: int  # in the other blocks


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network of the ResNet/ResNeXt family in the paper's terms (Section 3, Tables 1 and 2).

    ``blocks``, ``stage_widths`` and ``stage_channels`` are computed from the other fields unless given. By the
    template rules of Section 3.1, the width doubles whenever the feature map halves.

    ``stage_cardinalities`` is given where stages have different numbers of paths, as in a pruned network;
    ``cardinality`` and ``width`` are then those of the first stage. Equal numbers are stored as ``cardinality`` alone.
    """

    depth: int | None = None  # layers with weights on the longest path: 50, 101, ...; CIFAR 9n+2
    cardinality: int = 1  # C, the number of paths
    width: int | None = None  # d, channels of one path in the first stage; default 64
    stem: Stem = "imagenet"  # "imagenet": 7x7/2 and max pool; "cifar": 3x3, no pool
    block: BlockType = "bottleneck"  # "bottleneck": 1x1, 3x3, 1x1; "basic": 3x3, 3x3
    form: Form = "grouped"  # Figure 3: (c) "grouped", (b) "concatenated", (a) "branched"
    shortcut: Shortcut = (
        "B"  # A: zero padding, B: projection where shapes change, C: always projection, none: no residual
    )
    pre_activation: bool = False  # BN and ReLU before each convolution (the CIFAR nets of the paper's v1)
    stride_in_1x1: bool = False  # a bottleneck has its stride in the first 1x1 (as in Caffe's nets), not in the 3x3
    bn_eps: float = 1e-5  # added to the variance in every BN
    num_classes: int = 1000  # 0: no classifier; the network returns its pooled features
    in_channels: int = 3
    base_channels: int = 64  # output channels of the stem
    initialisation: Initialisation = "release"  # or "zero_gamma": the last BN of a block starts at 0
    blocks: tuple[int, ...] | None = None  # blocks per stage
    stage_widths: tuple[int, ...] | None = None  # C*d of each stage
    stage_channels: tuple[int, ...] | None = None  # output channels of each stage
    stage_cardinalities: tuple[int, ...] | None = None  # C of each stage, if they differ; else None
    output_stride: int | None = None  # total stride, where later strides are dilations instead; else None

    def __post_init__(self) -> None:
        self._check_fields()
        self._resolve_depth()
        self._resolve_cardinalities()
        self._resolve_widths()
        self._resolve_channels()
        self._resolve_output_stride()
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.stride_in_1x1 and self.block == "basic":
            raise RequestError("stride_in_1x1 applies to bottleneck blocks only; a basic block has no 1x1")
        if self.initialisation == "zero_gamma" and (self.pre_activation or self.shortcut == "none"):
            raise RequestError("zero_gamma needs blocks that end in a BN (not pre_activation) and have a shortcut")
        if self.form != "grouped" and sum(stage.blocks * stage.cardinality for stage in self.stages) > 65_536:
            raise RequestError(
                f"{max(self.cardinalities)} paths in each of {sum(self.blocks or ())} blocks are too many separate "
                "layers; form 'grouped' computes the same function"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_fields(self) -> None:
        words = {"stem": STEMS, "block": BLOCKS, "form": FORMS, "shortcut": SHORTCUTS}
        for name, choices in (words | {"initialisation": INITIALISATIONS}).items():
            value = getattr(self, name)
            if value not in choices:
                raise RequestError(f"{name} {value!r} is unknown{did_you_mean(str(value), choices)}")
        for name in ("pre_activation", "stride_in_1x1"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if isinstance(self.bn_eps, bool) or not isinstance(self.bn_eps, int | float) or not 1e-12 <= self.bn_eps <= 1:
            raise RequestError(f"bn_eps must be a number from 1e-12 to 1, not {self.bn_eps!r}")
        for name in ("cardinality", "in_channels", "base_channels"):
            _check_count(name, getattr(self, name))
        _check_count("num_classes", self.num_classes, low=0)
        for name in ("depth", "width"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        for name in ("blocks", "stage_widths", "stage_channels", "stage_cardinalities"):
            values = getattr(self, name)
            if values is not None:
                if isinstance(values, str) or not hasattr(values, "__iter__"):
                    raise RequestError(f"{name} must be a list of whole numbers, one per stage, not {values!r}")
                self._set(name, tuple(values))
                for count in getattr(self, name):
                    _check_count(name, count)

    def _resolve_depth(self) -> None:
        convolutions = CONVOLUTIONS_PER_BLOCK[self.block]
        if self.blocks is None:
            if self.depth is None:
                raise RequestError("an architecture needs its depth, or blocks per stage")
            self._set("blocks", _infer_blocks(self.depth, self.stem, self.block))
        assert self.blocks is not None
        if not 1 <= len(self.blocks) <= 6:
            raise RequestError(f"blocks {self.blocks} has {len(self.blocks)} stages; from 1 to 6 are supported")
        if sum(self.blocks) > 4096:
            raise RequestError(f"blocks {self.blocks} add up to {sum(self.blocks)}; at most 4096 are supported")
        depth = convolutions * sum(self.blocks) + 2
        if self.depth not in (None, depth):
            raise RequestError(
                f"blocks {self.blocks} of {convolutions} convolutions each give depth {depth}, not {self.depth}"
            )
        self._set("depth", depth)

    def _resolve_cardinalities(self) -> None:
        """Let ``cardinality`` be C of the first stage; forget ``stage_cardinalities`` that are all equal."""
        if self.stage_cardinalities is None:
            return
        self._check_stages("stage_cardinalities", self.stage_cardinalities)
        first = self.stage_cardinalities[0]
        if self.cardinality not in (1, first):  # 1 is the default: not given
            raise RequestError(
                f"stage_cardinalities {self.stage_cardinalities} mean cardinality {first} in the first stage, "
                f"not {self.cardinality}"
            )
        self._set("cardinality", first)
        if set(self.stage_cardinalities) == {first}:
            self._set("stage_cardinalities", None)

    def _resolve_widths(self) -> None:
        if self.stage_widths is None:
            self._set("width", 64 if self.width is None else self.width)
            assert self.width is not None
            widths = tuple(c * self.width * 2**stage for stage, c in enumerate(self.cardinalities))
            self._set("stage_widths", widths)
            widest = max(widths)
            if widest > MAX_COUNT:
                raise RequestError(
                    f"cardinality {self.cardinalities[widths.index(widest)]} and width {self.width} make a stage "
                    f"{widest:,} channels wide; at most {MAX_COUNT:,} are supported"
                )
            return
        self._check_stages("stage_widths", self.stage_widths)
        for c, total in zip(self.cardinalities, self.stage_widths, strict=True):
            if total % c:
                near = sorted({max(c, total // c * c), (total // c + 1) * c})
                raise RequestError(
                    f"cardinality {c} does not divide the stage width {total}; "
                    f"the nearest valid widths: {' or '.join(map(str, near))}"
                )
        width = self.stage_widths[0] // self.cardinality
        if self.width not in (None, width):
            raise RequestError(
                f"stage_widths {self.stage_widths} with cardinality {self.cardinality} mean width {width}, "
                f"not {self.width}"
            )
        self._set("width", width)

    def _resolve_channels(self) -> None:
        assert self.blocks is not None
        if self.stage_channels is None:
            first = self.base_channels * EXPANSION[self.block]
            self._set("stage_channels", tuple(first * 2**stage for stage in range(len(self.blocks))))
        assert self.stage_channels is not None
        self._check_stages("stage_channels", self.stage_channels)
        for count in self.stage_channels:
            _check_count("stage_channels", count)
        channels = [self.base_channels, *self.stage_channels]
        if self.shortcut == "A" and channels != sorted(channels):
            raise RequestError(f"shortcut A pads channels, so stage_channels {self.stage_channels} must not decrease")

    def _resolve_output_stride(self) -> None:
        """Check ``output_stride``; forget one that changes nothing."""
        if self.output_stride is None:
            return
        possible = [self._stem_stride << number for number, _ in enumerate(self.blocks or ())]
        if isinstance(self.output_stride, bool) or self.output_stride not in possible:
            choices = ", ".join(map(str, possible))
            raise RequestError(f"output_stride of this network must be one of {choices}, not {self.output_stride!r}")
        if self.output_stride == possible[-1]:
            self._set("output_stride", None)

    def _check_stages(self, name: str, values: tuple[int, ...]) -> None:
        assert self.blocks is not None
        if len(values) != len(self.blocks):
            raise RequestError(f"{name} {values} has {len(values)} stages, blocks {self.blocks} has {len(self.blocks)}")

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """C of each stage."""
        assert self.blocks is not None
        return self.stage_cardinalities or (self.cardinality,) * len(self.blocks)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages conv2, conv3, ... with the numbers that their blocks are built from."""
        assert self.blocks is not None
        assert self.stage_widths is not None
        assert self.stage_channels is not None
        cardinalities = self.cardinalities
        widths = (total // c for total, c in zip(self.stage_widths, cardinalities, strict=True))
        into = (self.base_channels, *self.stage_channels)
        steps = zip(*self._split_strides(), strict=True)
        return tuple(map(Stage, self.blocks, cardinalities, widths, into, self.stage_channels, *steps))

    def _split_strides(self) -> Iterator[tuple[int, int, int]]:
        """Yield stride, dilation of the first block and dilation of the others for each stage, as torchvision does."""
        total, dilation = self._stem_stride, 1
        for number, _ in enumerate(self.blocks or ()):
            stride, before = 2 if number else 1, dilation
            if self.output_stride is not None and total * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            total *= stride
            yield stride, before, dilation

    @property
    def _stem_stride(self) -> int:
        return 4 if self.stem == "imagenet" else 1

    @property
    def stride(self) -> int:
        """Total stride: input pixels per pixel of the last feature map, along one side."""
        assert self.blocks is not None
        return self.output_stride or self._stem_stride << (len(self.blocks) - 1)

    @property
    def name(self) -> str:
        """The usual name, followed by its other non-default fields: ``resnext50_32x4d (base_channels=16)``.

        Where stages differ in C, it has C of each stage: ``resnext50_8-16-16-32x4d``.
        ``num_classes`` and ``in_channels`` depend on the data and are left out, as is what follows from other fields.
        """
        stem, block = _infer_stem_and_block(self.depth or 0)
        assumed: dict[str, Any] = {f.name: f.default for f in fields(self)} | {"stem": stem, "block": block}
        assumed |= self._derive_fields()
        free = ("num_classes", "in_channels", "depth", "cardinality", "width", "stage_cardinalities")
        unsaid = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}
        said = [f"{name}={_format_value(value)}" for name, value in unsaid.items() if value != assumed[name]]
        plain = _format_short_name(self)
        return f"{plain} ({', '.join(said)})" if said else plain

    def _derive_fields(self) -> dict[str, Any]:
        """Compute blocks, stage widths and stage channels from the other fields; blocks is None for unknown depths."""
        follows = replace(self, stage_widths=None, stage_channels=None)
        assert self.depth is not None
        try:
            blocks = _infer_blocks(self.depth, self.stem, self.block)
        except RequestError:
            blocks = None
        return {"blocks": blocks, "stage_widths": follows.stage_widths, "stage_channels": follows.stage_channels}

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def parse(name: str, **changes: Unpack[ArchitectureChanges]) -> "Architecture":
        """Build the architecture of a name such as ``resnet50``, ``resnext101_64x4d`` or ``resnet101_1x100d``.

        ``resnext50_8-16-16-32x4d`` has another C in each stage. ``changes`` override single fields. Raises RequestError
        for an unknown name, with the nearest known one.
        """
        match = NAME_PATTERN.fullmatch(name.strip().lower()) if isinstance(name, str) else None
        if match is not None and match["family"] == "resnext" and match["cardinality"] is None:
            known = [f"{match[0]}_32x4d", *list_models(f"{match[0]}_*")]
            raise RequestError(
                f"unknown architecture {name!r}: the name of a ResNeXt has C and d; did you mean "
                f"{next((one for one in known if one in MODEL_NAMES), known[0])!r}?"
            )
        if match is None:
            raise RequestError(
                f"unknown architecture {name!r}: a name looks like resnet50 or resnext50_32x4d"
                f"{did_you_mean(str(name), list_models())}"
            )
        depth, width = int(match["depth"]), int(match["width"] or 64)
        cardinalities = tuple(map(int, (match["cardinality"] or "1").split("-")))
        stem, block = _infer_stem_and_block(depth)
        base: dict[str, Any] = {"depth": depth, "cardinality": cardinalities[0], "width": width}
        if len(cardinalities) > 1:
            base["stage_cardinalities"] = cardinalities
        return Architecture(**_merge_changes(base | {"stem": stem, "block": block}, changes))

    def change(self, **changes: Unpack[ArchitectureChanges]) -> "Architecture":
        """Return this architecture with some fields changed; fields that follow from them are computed again.

        Raises RequestError for an unknown field, with the nearest known one.
        """
        base: dict[str, Any] = asdict(self)
        for name, value in self._derive_fields().items():
            if base[name] == value:
                base[name] = None
        if "depth" in changes:
            base["blocks"] = None
        elif base["blocks"] is not None and "block" in changes:
            base["depth"] = None  # the same count of other blocks makes another depth
        if base["stage_widths"] is not None and not changes.keys().isdisjoint(("cardinality", "stage_cardinalities")):
            base["width"] = None  # given stage widths are C*d, so d changes with C
        return Architecture(**_merge_changes(base, changes))

    def check_image_size(self, height: int, width: int) -> None:
        """Raise RequestError if the strides would leave less than one pixel of the last feature map."""
        if min(height, width) < self.stride:
            raise RequestError(
                f"an image of {height}x{width} is too small for {_format_short_name(self)}, whose total stride is "
                f"{self.stride}: each side must be at least {self.stride} pixels"
                + ("; for small images use stem 'cifar'" if self.stem == "imagenet" else "")
            )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON; ``from_dict`` is the inverse.

        ``stage_cardinalities`` and ``output_stride`` are left out if they are None, as older releases expect.
        """
        newer = ("stage_cardinalities", "output_stride")
        given = {k: v for k, v in asdict(self).items() if v is not None or k not in newer}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}

    @staticmethod
    def from_dict(values: object) -> "Architecture":
        """Build from JSON values of any file.

        Raises RequestError for an unknown field or an invalid value, TypeError for a value of a wrong type.
        """
        if not isinstance(values, dict):
            raise RequestError("its architecture is not a JSON object")
        known = Architecture.__dataclass_fields__
        for key in values:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise RequestError(
                    f"its architecture has the unknown field {key!r}{hint}; did a newer resnext write it?"
                )
        return Architecture(**values)


def list_models(pattern: str = "*") -> list[str]:
    """List the known names (networks of the paper and the release) that match a shell pattern.

    Other names of the same pattern, such as ``resnext50_16x8d``, can be built too.
    """
    return [name for name in MODEL_NAMES if fnmatchcase(name, pattern.lower())]


MODEL_NAMES: tuple[str, ...] = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
    *("resnext50_2x40d", "resnext50_4x24d", "resnext50_8x14d", "resnext50_32x4d"),
    *("resnext101_2x40d", "resnext101_4x24d", "resnext101_8x14d", "resnext101_32x4d"),
    *("resnet101_1x100d", "resnext101_2x64d", "resnext101_64x4d"),
    *("resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d"),
    *("resnext152_32x4d", "resnext152_32x8d"),
    *("resnet29", "resnext29_2x64d", "resnext29_3x64d", "resnext29_4x64d", "resnext29_6x64d"),
    *("resnext29_8x64d", "resnext29_16x64d", "resnext29_32x4d"),
    *("resnet29_1x96d", "resnet29_1x128d", "resnet29_1x160d", "resnet29_1x192d", "resnet29_1x256d", "resnet29_1x384d"),
)


def _check_count(name: str, value: Any, low: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_COUNT:
        raise RequestError(f"{name} must be a whole number from {low} to {MAX_COUNT:,}, not {value!r}")


def _infer_blocks(depth: int, stem: Stem, block: BlockType) -> tuple[int, ...]:
    if stem == "imagenet":
        kind, stages = IMAGENET_STAGES.get(depth, (None, ()))
        if kind == block:
            return stages
        known = [str(d) for d, (k, _) in IMAGENET_STAGES.items() if k == block]
        raise RequestError(
            f"depth {depth} with {block} blocks has no ImageNet layout: choose from {', '.join(known)}, "
            "or give blocks per stage"
        )
    per_n = 3 * CONVOLUTIONS_PER_BLOCK[block]
    n, rest = divmod(depth - 2, per_n)
    if rest or n < 1:
        near = sorted({per_n * max(1, n) + 2, per_n * max(1, n + 1) + 2})
        known = [str(d) for d, (k, _) in IMAGENET_STAGES.items() if k == block]
        raise RequestError(
            f"depth {depth} is not {per_n}n+2, which a CIFAR network of {block} blocks needs; "
            f"nearest: {' or '.join(map(str, near))}; ImageNet networks of {block} blocks have depth "
            f"{', '.join(known)}; or give blocks per stage"
        )
    return (n, n, n)


def _merge_changes(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    known = [f.name for f in fields(Architecture)]
    for key in changes:
        if key not in known:
            raise RequestError(f"an architecture has no field {key!r}{did_you_mean(key, known)}")
    merged = base | dict(changes)
    if "cardinality" in changes and "stage_cardinalities" not in changes:
        merged["stage_cardinalities"] = None  # one C for all stages
    if changes.get("stage_cardinalities") is not None and "cardinality" not in changes:
        merged["cardinality"] = 1  # follows from them
    if changes.get("blocks") is not None and "depth" not in changes:
        merged["depth"] = None
    if changes.get("stage_widths") is not None and "width" not in changes:
        merged["width"] = None
    return merged


def _infer_stem_and_block(depth: int) -> tuple[Stem, BlockType]:
    """Infer the stem and the block type from the depth alone."""
    return ("imagenet", IMAGENET_STAGES[depth][0]) if depth in IMAGENET_STAGES else ("cifar", "bottleneck")


def _format_short_name(arch: Architecture) -> str:
    if max(arch.cardinalities) == 1:
        return f"resnet{arch.depth}" + ("" if arch.width == 64 else f"_1x{arch.width}d")
    cardinality = _format_value(arch.stage_cardinalities or arch.cardinality)
    return f"resnext{arch.depth}_{cardinality}x{arch.width}d"


def _format_value(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
