"""The recipes of Table 8 and those of today: Faster R-CNN on COCO, in code as ``recipes.py``.

trainval35k (80k + 35k images) is COCO's train2017, the 5k minival its val2017 (``detect/minival.py``), so the recipes
read COCO 2017 as it is published. ImageNet weights are named by where they are published; ``--init FILE`` gives a copy.
"""

from collections.abc import Iterator
from typing import Any

from resnext.paper.numbers import Row, load_tables
from resnext.paper.recipe_entry import DetectorRecipe, Values
from resnext.weights.released import load_released

TRAINVAL, WITH_BOXES = 118_287, 117_266  # images of train2017, and those with boxes to train on
CLASSES = 80
ALL_ANCHORS = [32, 64, 128, 256, 512]
SIZES = [640, 672, 704, 736, 768, 800]
STARTS = {  # network -> entry of released.json
    "resnet50": "torchvision resnet50 IMAGENET1K_V1",
    "resnet101": "torchvision resnet101 IMAGENET1K_V1",
    "resnext50_32x4d": "ResNeXt release, resnext_50_32x4d.t7",
    "resnext101_32x4d": "ResNeXt release, resnext_101_32x4d.t7",
    "resnext101_32x8d": "Detectron2 FAIR/X-101-32x8d.pkl",
}
MODERN = {  # network -> (label, box AP of 1x and 3x as detectron2 publishes them)
    "resnet50": ("ResNet-50", {"1x": 37.9, "3x": 40.2}),
    "resnext50_32x4d": ("ResNeXt-50 32x4d", {}),
    "resnext101_32x8d": ("ResNeXt-101 32x8d", {"3x": 43.0}),
}
C4_OF_DETECTRON2 = {"resnet50": 35.7}
ZOO = "facebookresearch/detectron2, MODEL_ZOO.md"
FROZEN = "BN is frozen, and stem and conv2 stay as they were loaded."
DATA_NOTE = (
    "Train is COCO's train2017 (80k + 35k images, trainval35k), val its val2017 (the 5k minival): --data.path COCO, "
    "which holds annotations/, train2017/ and val2017/."
)
SPLIT_NOTE = (
    "Left open by the paper and chosen here: stem and conv2 frozen (py-faster-rcnn fixes the first layers of its VGG), "
    "biases at the rate of all weights (Caffe doubles it). Its code drops proposals below 16 pixels; these do not."
)


def detector_recipes() -> Iterator[DetectorRecipe]:
    """Three for each row of Table 8, and 1x and 3x with a feature pyramid."""
    for row in load_tables()["table8"].rows:
        yield _rpn(row)
        yield _fast_rcnn(row)
        yield _joint(row)
    for network in MODERN:
        yield _fpn(network, "1x")
        yield _fpn(network, "3x")


def of_network(network: str) -> str:
    """The part of a recipe's name that says the network: ``resnext50-32x4d``."""
    return network.replace("_", "-")


def rpn_name(fast_rcnn: str) -> str:
    """The recipe of the rpn step whose proposals the recipe ``fast_rcnn`` trains on."""
    return fast_rcnn.removesuffix("-fast-rcnn") + "-rpn"


def _rpn(row: Row) -> DetectorRecipe:
    network = str(row.network)
    return DetectorRecipe(
        name=f"coco-{of_network(network)}-rpn",
        folder="paper",
        title=f"{row.name} on COCO, first of the paper's two steps: the proposals",
        source="Xie et al. (2017), Appendix B: RPN on 8 GPUs x 2 images, 256 anchors an image, 120k steps at 0.02 and "
        "60k at 0.002, decay 1e-4, momentum 0.9; the rest as rbgirshick/py-faster-rcnn (lib/fast_rcnn/config.py).",
        expected="the paper prints no number for proposals.",
        values=_paper_values(network, "rpn", batch=16, lr=0.02),
        images=WITH_BOXES,
        classes=CLASSES,
        notes=(FROZEN, SPLIT_NOTE, DATA_NOTE),
    )


def _fast_rcnn(row: Row) -> DetectorRecipe:
    network, p = str(row.network), row.published
    name = f"coco-{of_network(network)}-fast-rcnn"
    return DetectorRecipe(
        name=name,
        folder="paper",
        title=f"{row.name} on COCO, second of the paper's two steps: Fast R-CNN on the proposals of the first",
        source="Xie et al. (2017), Table 8 and Appendix B: Fast R-CNN on 8 GPUs x 1 image, 64 regions an image, 120k "
        "steps at 0.005 and 60k at 0.0005, features not shared with the RPN; the rest as rbgirshick/py-faster-rcnn.",
        expected=f"AP@0.5 {p['ap50']:.1f}, AP {p['ap']:.1f} on minival.",
        values=_paper_values(network, "fast_rcnn", batch=8, lr=0.005, proposals=f"runs/paper/{rpn_name(name)}"),
        images=WITH_BOXES,
        classes=CLASSES,
        notes=(
            f"Needs the run of {rpn_name(name)}: train.proposals says where it lies.",
            FROZEN,
            SPLIT_NOTE,
            DATA_NOTE,
        ),
    )


def _paper_values(network: str, learn: str, *, batch: int, lr: float, proposals: str | None = None) -> Values:
    regions = {"roi_batch": 64, "roi_positive": 0.25, "score": 0.05, "nms": 0.3, "detections": 100}
    return {
        "model": {"name": network},
        "detector": {
            "layout": "c4",
            "pool": "max",
            "anchor_sizes": [64, 128, 256, 512],
            "rpn_batch": 256,
            "rpn_positive": 0.5,
            "rpn_pre_nms_train": 12000,
            "rpn_pre_nms_test": 6000,
            "rpn_post_nms_train": 2000,
            "rpn_post_nms_test": 300,
            "rpn_nms": 0.7,
            **(regions if learn == "fast_rcnn" else {}),
        },
        "init": _init(network),
        "data": {"source": "coco", "min_size": 600, "max_size": 1000, "empty": "drop", "bad_boxes": "drop"},
        "augment": {"flip": 0.5, "group": True},
        "optimizer": _sgd(lr, "weights"),
        "schedule": {"name": "step", "milestones": [120000], "milestone_unit": "steps", "factor": 0.1},
        "train": {
            "learn": learn,
            **({"proposals": proposals} if proposals else {}),
            "steps": 180000,
            "batch_size": batch,
            "precision": "fp32",
            "checkpoint_steps": 1000,
        },
    }


def _joint(row: Row) -> DetectorRecipe:
    network = str(row.network)
    known = C4_OF_DETECTRON2.get(network)
    paper = f"The paper's two steps have AP {row.published['ap']:.1f} by another recipe: smaller images, 64 regions"
    return DetectorRecipe(
        name=f"coco-{of_network(network)}",
        folder="paper",
        title=f"{row.name} on COCO, RPN and head trained together: the practical way",
        source="not the paper's: one run instead of two, by detectron2's C4 1x (configs/Base-RCNN-C4.yaml: 16 images, "
        "90k steps at 0.02, drops after 60k and 80k, shorter sides 640 to 800), which became the usual one.",
        expected=(f"AP {known:.1f} on val2017 ({ZOO}; theirs from other ImageNet weights). " if known else "")
        + f"{paper}.",
        values={
            "model": {"name": network},
            "detector": {
                "layout": "c4",
                "anchor_sizes": ALL_ANCHORS,
                "rpn_pre_nms_train": 12000,
                "rpn_pre_nms_test": 6000,
            },
            **_detectron2(_init(network), steps=90_000, drops=[60_000, 80_000]),
        },
        images=WITH_BOXES,
        classes=CLASSES,
        notes=(FROZEN, DATA_NOTE),
    )


def _fpn(network: str, length: str) -> DetectorRecipe:
    label, known = MODERN[network]
    times = int(length[0])
    drops = [60_000, 80_000] if length == "1x" else [210_000, 250_000]
    start = "Detectron2 MSRA/R-50.pkl" if network == "resnet50" else STARTS[network]
    said = (
        f"AP {known[length]:.1f} on val2017 ({ZOO})." if length in known else "nothing is published for it by theirs."
    )
    return DetectorRecipe(
        name=f"coco-fpn-{length}-{of_network(network)}",
        folder="modern",
        title=f"{label} with a feature pyramid on COCO, {length}",
        source="detectron2, configs/Base-RCNN-FPN.yaml and COCO-Detection: 16 images, "
        f"{90 * times}k steps at 0.02, drops after {drops[0] // 1000}k and {drops[1] // 1000}k, shorter sides 640 to "
        "800 (in 1x too), 1,000 steps of warm-up.",
        expected=said,
        values={
            "model": {"name": network},
            "detector": {"layout": "fpn", "rpn_post_nms_train": 1000},
            **_detectron2(_init(network, start), steps=90_000 * times, drops=drops),
        },
        images=WITH_BOXES,
        classes=CLASSES,
        notes=(
            FROZEN,
            "Differs from theirs: offsets of boxes are learnt with a smooth L1 of beta 1/9 (theirs is L1), and "
            "RoIAlign is not shifted by half a pixel, as torchvision has both.",
            DATA_NOTE,
        ),
    )


def _detectron2(init: dict[str, Any], *, steps: int, drops: list[int]) -> Values:
    """What detectron2's C4 and FPN configurations share."""
    return {
        "init": init,
        "data": {"source": "coco", "min_size": 800, "max_size": 1333, "empty": "drop", "bad_boxes": "drop"},
        "augment": {"flip": 0.5, "min_sizes": SIZES, "group": True},
        "optimizer": _sgd(0.02, "all"),
        "schedule": {
            "name": "step",
            "milestones": drops,
            "milestone_unit": "steps",
            "factor": 0.1,
            "warmup_epochs": round(1000 / (WITH_BOXES // 16), 4),
            "warmup_start": 0.001,
        },
        "train": {"steps": steps, "batch_size": 16, "precision": "fp32", "checkpoint_steps": 1000},
    }


def _init(network: str, start: str | None = None) -> dict[str, Any]:
    url = next(entry.url for entry in load_released() if entry.name == (start or STARTS[network]))
    return {"weights": url, "freeze": "conv2", "frozen_bn": True}


def _sgd(lr: float, decay: str) -> dict[str, Any]:
    return {"name": "sgd", "lr": lr, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "decay": decay}
