"""One recipe a published number, in code: what ``resnext paper run`` trains, and what recipes/ holds as YAML.

Values are the nested ones of a recipe file. What the paper leaves open is the Torch7 release's (docs/paper.md).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from resnext.errors import RequestError, nearest
from resnext.paper.numbers import WIDE_RESNET, WIDE_RESNET_FIELDS, Row, table, tables
from resnext.recipe import parse_recipe
from resnext.settings import Recipe

Values = dict[str, dict[str, Any]]
SCHEDULES = ("printed", "released")
RELEASED_CIFAR = [147, 222]  # the release's code drops at the start of epochs 148 and 223
IMAGENET_IMAGES, IMAGENET5K_IMAGES, CIFAR_IMAGES = 1_281_167, 6_774_000, 50_000
IMAGENET5K_STEPS = 5292  # mini-batches of 256 in a pass over the set, as Figure 6's drops tell


@dataclass(frozen=True)
class PaperRecipe:
    """A recipe with what its header says of it."""

    name: str
    folder: str  # below recipes/: paper or modern
    title: str
    source: str
    expected: str
    values: Values
    images: int  # of the training set
    classes: int
    notes: tuple[str, ...] = ()  # further lines of the header
    released: Mapping[str, Any] = field(default_factory=dict)  # what --schedule released changes

    def recipe(self, overrides: Mapping[str, Any] | None = None, schedule: str = "printed") -> Recipe:
        """The recipe, with ``{"train.epochs": 3}``-like overrides on top. Raises RequestError."""
        if schedule not in SCHEDULES:
            raise RequestError(f"no schedule {schedule!r}{nearest(schedule, SCHEDULES)}")
        if schedule == "released" and not self.released:
            raise RequestError(f"{self.name} has one schedule: what is printed is what was released")
        changed = dict(self.released) if schedule == "released" else {}
        return parse_recipe(_yaml(self.values), f"{self.folder}/{self.name}.yaml", changed | dict(overrides or {}))


def recipes() -> dict[str, PaperRecipe]:
    """Every recipe by its name."""
    return dict(_recipes())


def recipe_named(name: str) -> PaperRecipe:
    """The recipe ``name``. Raises RequestError naming the nearest."""
    known = _recipes()
    if name not in known:
        raise RequestError(f"there is no recipe {name!r}{nearest(name, known)}")
    return known[name]


def recipes_of(name: str) -> list[tuple[str, Recipe]]:
    """The rows of a table or figure that have recipes, with them. Raises RequestError for a table the paper has not."""
    return [(row.key, recipe_named(row.recipe).recipe()) for row in table(name).rows if row.recipe is not None]


@cache
def _recipes() -> dict[str, PaperRecipe]:
    every = [*_imagenet(), *_imagenet5k(), *_cifar(), *_wide_resnet(), *_torchvision(), *_rsb()]
    return {entry.name: entry for entry in every}


# ---------------------------------------------------------------------------------------------------------------------
# The paper's own


def _imagenet() -> Iterator[PaperRecipe]:
    """Tables 1, 3, 4 and 5, Figure 5 and the ablation: Section 4 and the release's train.lua, imagenet.lua."""
    seen: set[str] = set()
    for name in ("table3", "table4", "table5", "residual"):
        for row in tables()[name].rows:
            if row.recipe is None or row.recipe in seen:
                continue
            seen.add(row.recipe)
            where = ", ".join(
                f"{t.title.partition(':')[0] if n != 'residual' else 'Section 5.1, without shortcuts'}"
                for n, t in tables().items()
                if n in ("table3", "table4", "table5", "figure5", "residual")
                and any(r.recipe == row.recipe for r in t.rows)
                and (n != "residual" or row.changes)
            )
            model: dict[str, Any] = {"name": row.network, **row.changes}
            top5 = next((r.published["top5"] for r in tables()["table4"].rows if r.recipe == row.recipe), None)
            error = f"top-1 error {row.published['top1']:.1f} %" + (f", top-5 {top5:.1f} %" if top5 else "")
            without = " without shortcuts" if row.changes else ""
            yield PaperRecipe(
                name=row.recipe,
                folder="paper",
                title=f"{row.name.partition(',')[0]}{without} on ImageNet-1K",
                source=f"Xie et al. (2017), Section 4; {where}. What the text leaves open is the Torch7 release's "
                "(train.lua: 100 epochs, Nesterov, decay of all parameters; imagenet.lua: crops, colour; bicubic).",
                expected=f"{error} (one run in the paper, single crop 224 of 256).",
                values=_imagenet_values(model),
                images=IMAGENET_IMAGES,
                classes=1000,
                notes=(
                    "BN shares its statistics over 32 images, a GPU's part in the paper, on any number of devices.",
                ),
            )


def _imagenet_values(model: dict[str, Any]) -> Values:
    return {
        "model": model,
        "data": {"source": "imagenet", "image_size": 224, "resize": 256, "interpolation": "bicubic", "exif": False},
        "augment": {"crop": "paper_imagenet", "flip": 0.5, "jitter": 0.4, "lighting": 0.1},
        "optimizer": {
            "name": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 1e-4,
            "decay": "all",
        },
        "schedule": {"name": "step", "milestones": [30, 60, 90], "factor": 0.1},
        "train": {
            "epochs": 100,
            "batch_size": 256,
            "bn_batch": 32,
            "drop_last": False,
            "precision": "fp32",
            "channels_last": "auto",
            "checkpoint_steps": 1000,
        },
    }


def _imagenet5k() -> Iterator[PaperRecipe]:
    """Table 6 and Figure 6: Section 5.2."""
    for row in tables()["table6"].rows:
        assert row.recipe is not None
        values = _imagenet_values({"name": row.network})
        values["data"]["source"] = "imagenet5k"
        drops = [epoch * IMAGENET5K_STEPS for epoch in (30, 60, 90)]
        values["schedule"] |= {"milestones": drops, "milestone_unit": "steps"}
        values["train"] = {"steps": 100 * IMAGENET5K_STEPS} | {
            k: v for k, v in values["train"].items() if k != "epochs"
        }
        p = row.published
        yield PaperRecipe(
            name=row.recipe,
            folder="paper",
            title=f"{row.name} on ImageNet-5K",
            source="Xie et al. (2017), Section 5.2, Table 6 and Figure 6; the rest as on ImageNet-1K.",
            expected=f"on the validation images of ImageNet-1K, 5K-way {p['top1_5k']:.1f} % top-1 and "
            f"{p['top5_5k']:.1f} % top-5 error; 1K-way {p['top1_1k']:.1f} % and {p['top5_1k']:.1f} %.",
            values=values,
            images=IMAGENET5K_IMAGES,
            classes=5000,
            notes=(
                "As many mini-batches as on ImageNet-1K, to the rounding of Figure 6: its rate drops after 158,760, "
                "317,520 and 476,280 (30, 60, 90 times 5,292), so the whole is 529,200, a fifth of the epochs.",
                "The 4,000 further classes are those with most images; the list is written with the run.",
            ),
        )


def _cifar() -> Iterator[PaperRecipe]:
    """Table 7 and Figure 7: Section 5.3, Appendix A."""
    seen: set[str] = set()
    for name in ("table7", "figure7"):
        for row in tables()[name].rows:
            if row.recipe is None or row.recipe in seen or row.network == WIDE_RESNET:
                continue
            seen.add(row.recipe)
            classes = int(row.changes.get("num_classes", 10))
            data = f"CIFAR-{classes}"
            error = f"{row.published['top1']:.2f}" if name == "table7" else f"{row.published['top1']:.3f}"
            spread = f" ± {row.errors['top1']:.3f}, standard error" if row.errors else ""
            where = "Table 7" if name == "table7" else "Figure 7"
            yield PaperRecipe(
                name=row.recipe,
                folder="paper",
                title=f"{row.name.partition(',')[0]} on {data}, as the paper's {where} has it",
                source="Xie et al. (2017), Section 5.3 and Appendix A; what the text leaves open is the Torch7 "
                f"release's (train.lua: Nesterov; datasets/cifar{classes}.lua: normalisation, then flip, then padding, "
                "so it is mean colour).",
                expected=f"top-1 error {error} %{spread} (mean of 10 runs in the paper, 8 GPUs, "
                "BN statistics per GPU of 16 images).",
                values=_cifar_values(str(row.network), classes),
                images=CIFAR_IMAGES,
                classes=classes,
                notes=(
                    "Drops after epochs 150 and 225 as printed; the released code drops at the start of epochs 148 "
                    "and 223 (--schedule.milestones 147,222, or resnext paper run ... --schedule released).",
                ),
                released={"schedule.milestones": RELEASED_CIFAR},
            )


def _cifar_values(network: str, classes: int) -> Values:
    return {
        "model": {"name": network},
        "data": {"source": f"cifar{classes}"},
        "augment": {"crop": "pad", "pad": 4, "flip": 0.5},
        "optimizer": {
            "name": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "decay": "all",
        },
        "schedule": {"name": "step", "milestones": [150, 225], "factor": 0.1},
        "train": {
            "epochs": 300,
            "batch_size": 128,
            "bn_batch": 16,
            "drop_last": False,
            "precision": "fp32",
            "channels_last": "auto",
        },
    }


def _wide_resnet() -> Iterator[PaperRecipe]:
    """The Wide ResNet that Table 7 compares with, by its own paper's recipe."""
    for row in tables()["table7"].rows:
        if row.network != WIDE_RESNET:
            continue
        assert row.recipe is not None
        classes = int(row.changes.get("num_classes", 10))
        values = _cifar_values("", classes)
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in WIDE_RESNET_FIELDS.items()}
        values["model"] = {"name": "resnet26_1x160d", **fields}
        values["schedule"] = {"name": "step", "milestones": [60, 120, 160], "factor": 0.2}
        values["train"] |= {"epochs": 200}
        del values["train"]["bn_batch"]
        yield PaperRecipe(
            name=row.recipe,
            folder="paper",
            title=f"Wide ResNet-28-10 on CIFAR-{classes}, which the paper's Table 7 compares with",
            source="Zagoruyko and Komodakis (2016), Wide Residual Networks: batch 128, 200 epochs, rate x 0.2 after "
            "60, 120, 160; no dropout. Its 28 counts the three projections, our name 26 does not.",
            expected=f"top-1 error {row.published['top1']:.2f} % as Xie et al. quote it.",
            values=values,
            images=CIFAR_IMAGES,
            classes=classes,
            notes=(
                "Differs from theirs: padding is mean colour (theirs reflects), the normalisation is the release's "
                "means and deviations, and BN shares statistics over a device's whole part.",
            ),
        )


# ---------------------------------------------------------------------------------------------------------------------
# What the field made of the networks since


def _torchvision() -> Iterator[PaperRecipe]:
    """torchvision's weights V2 (and 64x4d): pytorch/vision issue 3995, pull requests 4900 and 5935."""
    for row in _modern("torchvision"):
        pull, repeats = (5935, 4) if row.network == "resnext101_64x4d" else (4900, 1)
        again = {"repeats": repeats} if repeats > 1 else {}
        epochs, batch, every, decay = 600, 1024, 32, 0.99998
        yield PaperRecipe(
            name=str(row.recipe),
            folder="modern",
            title=f"{row.name.partition(',')[0]} on ImageNet-1K by torchvision's 600-epoch recipe",
            source=f"torchvision, references/classification (pytorch/vision issue 3995, pull request {pull})"
            + ("; repeated augmentation 4 as in that request." if repeats > 1 else ", before repeated augmentation."),
            expected=f"top-1 error {row.published['top1']:.3f} %, top-5 {row.published['top5']:.3f} % (theirs, of the "
            "averaged weights; single crop 224 of 232, bilinear).",
            values={
                "model": {"name": row.network},
                "data": {
                    "source": "imagenet",
                    "image_size": 224,
                    "resize": 232,
                    "interpolation": "bilinear",
                    "exif": False,
                },
                "augment": {
                    "crop": "random_resized",
                    "size": 176,
                    "flip": 0.5,
                    "trivial_augment": True,
                    "erase": 0.1,
                    "mixup": 0.2,
                    "cutmix": 1.0,
                    **again,
                },
                "optimizer": {
                    "name": "sgd",
                    "lr": 0.5,
                    "momentum": 0.9,
                    "nesterov": False,
                    "weight_decay": 2e-5,
                    "decay": "not_norms",
                },
                "schedule": {"name": "cosine", "warmup_epochs": 5, "warmup_start": 0.01},
                "train": {
                    "epochs": epochs,
                    "batch_size": batch,
                    "bn_batch": 128,
                    "drop_last": False,
                    "label_smoothing": 0.1,
                    "ema_decay": round(1 - (1 - decay) * batch * every / epochs, 6),
                    "ema_steps": every,
                    "ema_warmup": False,
                    "precision": "fp32",
                    "channels_last": "auto",
                    "checkpoint_steps": 1000,
                },
            },
            images=IMAGENET_IMAGES,
            classes=1000,
            notes=(
                "Their --model-ema-decay 0.99998 is stretched by their train.py to 1 - 0.00002 x 1024 x 32 / 600 = "
                "0.998908 for each of the updates, one every 32 steps: that is what stands here.",
                "They hold the average at the weights through the warm-up; here it averages from the first step, which "
                "600 epochs forget.",
                "Rates and milestones are for 8 devices x 128, and BN shares 128 images on any number of devices.",
            ),
        )


def _rsb() -> Iterator[PaperRecipe]:
    """ResNet strikes back: Wightman, Touvron and Jégou (2021), Table 2."""
    procedures = (
        ("a1", 600, 5e-3, 0.01, 0.2, 7, 0.1, 0.05, 3, 224),
        ("a2", 300, 5e-3, 0.02, 0.1, 7, 0.0, 0.05, 3, 224),
        ("a3", 100, 8e-3, 0.02, 0.1, 6, 0.0, 0.0, 1, 160),
    )
    for row, procedure in zip(_modern("rsb"), procedures, strict=True):
        name, epochs, lr, decay, mixup, magnitude, smoothing, path, repeats, train = procedure
        yield PaperRecipe(
            name=str(row.recipe),
            folder="modern",
            title=f"ResNeXt-50 32x4d on ImageNet-1K by procedure {name.upper()} of ResNet strikes back",
            source="Wightman, Touvron and Jégou (2021), arXiv 2110.00476, Table 2; warm-up from 1e-4, cosine to 1e-6 "
            "and the threshold 0.2 of the targets as in timm's training arguments for it.",
            expected=f"top-1 error {row.published['top1']:.3f} % (timm's weights resnext50_32x4d.{name}_in1k at 224, "
            "crop 0.95; one run).",
            values={
                "model": {"name": "resnext50_32x4d"},
                "data": {
                    "source": "imagenet",
                    "image_size": 224,
                    "resize": 236,
                    "interpolation": "bicubic",
                    "exif": False,
                },
                "augment": {
                    "crop": "random_resized",
                    **({"size": train} if train != 224 else {}),
                    "flip": 0.5,
                    "rand_augment": f"rand-m{magnitude}-mstd0.5-inc1",
                    "mixup": mixup,
                    "cutmix": 1.0,
                    **({"repeats": repeats} if repeats > 1 else {}),
                },
                "optimizer": {"name": "lamb", "lr": lr, "weight_decay": decay, "decay": "weights"},
                "schedule": {"name": "cosine", "warmup_epochs": 5, "warmup_start": 1e-4 / lr, "final_lr": 1e-6},
                "train": {
                    "epochs": epochs,
                    "batch_size": 2048,
                    "bn_batch": 256,
                    "loss": "bce",
                    "bce_threshold": 0.2,
                    **({"label_smoothing": smoothing} if smoothing else {}),
                    **({"drop_path": path} if path else {}),
                    "precision": "fp32",
                    "channels_last": "auto",
                    "checkpoint_steps": 500,
                },
            },
            images=IMAGENET_IMAGES,
            classes=1000,
            notes=(
                "Theirs trained in mixed precision (--train.precision bf16 comes near to it), on 4 GPUs of 512 images; "
                "BN shares 256 here, so that 1, 2, 4 and 8 devices compute the same. "
                "Needs timm: pip install 'resnext[modern]'.",
            ),
        )


def _modern(kind: str) -> list[Row]:
    return [row for row in tables()["modern"].rows if str(row.recipe).startswith(kind)]


def _yaml(values: Values) -> str:
    """Plain YAML of nested values, in the house's form: one line a setting, lists on their line."""
    lines = []
    for section, inside in values.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {_scalar(value)}" for key, value in inside.items()]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{float(mantissa)}e{int(exponent)}"
    return str(value)


def yaml_of(entry: PaperRecipe) -> str:
    """The recipe's settings as YAML, without its header."""
    return _yaml(entry.values)
