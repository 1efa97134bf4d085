"""One recipe a published number, in code: what ``resnext paper run`` trains, and what recipes/ holds as YAML.

Values are the nested ones of a recipe file. What the paper leaves open is the Torch7 release's (docs/paper.md).
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from resnext.errors import RequestError, did_you_mean
from resnext.paper.detect_recipes import detector_recipes
from resnext.paper.modern_recipes import rsb, torchvision
from resnext.paper.numbers import WIDE_RESNET, WIDE_RESNET_FIELDS, get_table, load_tables
from resnext.paper.recipe_entry import IMAGENET_IMAGES, DetectorRecipe, PaperRecipe, Values, WrittenRecipe
from resnext.settings import Recipe

RELEASED_CIFAR = [147, 222]  # the release's code drops at the start of epochs 148 and 223
IMAGENET5K_IMAGES, CIFAR_IMAGES = 6_774_000, 50_000
IMAGENET5K_STEPS = 5292  # mini-batches of 256 in a pass over the set, as Figure 6's drops tell


def recipes() -> dict[str, PaperRecipe]:
    """Every recipe of classification by its name."""
    return dict(_recipes())


def detections() -> dict[str, DetectorRecipe]:
    """Every recipe of detection by its name."""
    return dict(_detections())


def get_recipe(name: str) -> WrittenRecipe:
    """The recipe ``name``, of whatever kind. Raises RequestError naming the nearest."""
    known = _recipes() | _detections()
    if name not in known:
        raise RequestError(f"there is no recipe {name!r}{did_you_mean(name, known)}")
    return known[name]


def list_table_recipes(name: str) -> list[tuple[str, Recipe]]:
    """The rows of a table or figure that have recipes of classification, with them.

    Raises RequestError for a table the paper has not.
    """
    known = _recipes()
    return [(row.key, known[row.recipe].recipe()) for row in get_table(name).rows if row.recipe in known]


@cache
def _recipes() -> dict[str, PaperRecipe]:
    every = [*_imagenet(), *_imagenet5k(), *_cifar(), *_wide_resnet(), *torchvision(), *rsb()]
    return {entry.name: entry for entry in every}


@cache
def _detections() -> dict[str, DetectorRecipe]:
    return {entry.name: entry for entry in detector_recipes()}


# ---------------------------------------------------------------------------------------------------------------------
# The paper's own


def _imagenet() -> Iterator[PaperRecipe]:
    """Tables 1, 3, 4 and 5, Figure 5 and the ablation: Section 4 and the release's train.lua, imagenet.lua."""
    seen: set[str] = set()
    for name in ("table3", "table4", "table5", "residual"):
        for row in load_tables()[name].rows:
            if row.recipe is None or row.recipe in seen:
                continue
            seen.add(row.recipe)
            where = ", ".join(
                f"{t.title.partition(':')[0] if n != 'residual' else 'Section 5.1, without shortcuts'}"
                for n, t in load_tables().items()
                if n in ("table3", "table4", "table5", "figure5", "residual")
                and any(r.recipe == row.recipe for r in t.rows)
                and (n != "residual" or row.changes)
            )
            model: dict[str, Any] = {"name": row.network, **row.changes}
            top5 = next((r.published["top5"] for r in load_tables()["table4"].rows if r.recipe == row.recipe), None)
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
        "data": {
            "source": "imagenet",
            "image_size": 224,
            "resize": 256,
            "interpolation": "bicubic",
            "exif": False,
            "decode": "fast",
        },
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
    for row in load_tables()["table6"].rows:
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
        for row in load_tables()[name].rows:
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
    for row in load_tables()["table7"].rows:
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
