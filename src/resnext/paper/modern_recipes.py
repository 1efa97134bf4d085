"""What the field made of the networks since: torchvision's 600 epochs, and ResNet strikes back."""

from collections.abc import Iterator

from resnext.paper.numbers import Row, load_tables
from resnext.paper.recipe_entry import IMAGENET_IMAGES, PaperRecipe


def torchvision() -> Iterator[PaperRecipe]:
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


def rsb() -> Iterator[PaperRecipe]:
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
    return [row for row in load_tables()["modern"].rows if str(row.recipe).startswith(kind)]
