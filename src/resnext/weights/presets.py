"""Preprocessings and class names of well-known published weights, for files that do not contain them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from resnext.data.imagenet_classes import imagenet_classes
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources import cifar
from resnext.errors import RequestError, did_you_mean, prefix_errors
from resnext.run_directory import MAX_JSON_BYTES
from resnext.settings import Interpolation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def make_imagenet_preprocessing(resize: int, interpolation: Interpolation, image_size: int = 224) -> Preprocessing:
    """Make a preprocessing with a center crop and ImageNet's mean and std."""
    return Preprocessing(
        image_size=image_size,
        resize=resize,
        interpolation=interpolation,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channels=3,
    )


TORCHVISION_V1 = make_imagenet_preprocessing(256, "bilinear")  # IMAGENET1K_V1
TORCHVISION_V2 = make_imagenet_preprocessing(232, "bilinear")  # IMAGENET1K_V2
CIFAR10_PREPROCESSING, CIFAR100_PREPROCESSING = (
    Preprocessing(image_size=32, resize=32, mean=source.mean, std=source.std, channels=3)
    for source in (cifar.CIFAR10, cifar.CIFAR100)
)
PREPROCESSINGS: dict[str, Preprocessing] = {
    "paper": make_imagenet_preprocessing(256, "bicubic"),  # the Torch7 release: Scale(256, 'bicubic')
    "torchvision": TORCHVISION_V1,
    "torchvision_v2": TORCHVISION_V2,
    "cifar10": CIFAR10_PREPROCESSING,
    "cifar100": CIFAR100_PREPROCESSING,
}

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# fmt: off
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)
# fmt: on
CLASS_NAMES: dict[str, Callable[[], tuple[str, ...]]] = {
    "imagenet": imagenet_classes,
    "cifar10": lambda: CIFAR10_CLASSES,
    "cifar100": lambda: CIFAR100_CLASSES,
}


def find_class_names(given: str) -> tuple[str, ...]:
    """Find class names: those of CLASS_NAMES, or the lines of a UTF-8 file."""
    if given in CLASS_NAMES:
        return CLASS_NAMES[given]()
    names = [line.strip() for line in _read_text(given, "class names", CLASS_NAMES).splitlines()]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise RequestError(f"{given}: line {names.index('') + 1} is empty; each line names one class")
    if not names:
        raise RequestError(f"{given} names no classes")
    return tuple(names)


def find_preprocessing(given: str, channels: int) -> Preprocessing:
    """Find one of PREPROCESSINGS, or read one from a JSON file; it must have ``channels`` channels."""
    found = PREPROCESSINGS.get(given)
    if found is None:
        text = _read_text(given, "preprocessing", PREPROCESSINGS)
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{given} is not JSON: {error}") from None
        with prefix_errors(given):
            found = Preprocessing.from_dict(values)
    if found.channels != channels:
        raise RequestError(f"--preprocessing {given} is for {found.channels} channels; the network takes {channels}")
    return found


def _read_text(path: str, what: str, words: Iterable[str]) -> str:
    """Read a text file given by the user; if there is none, the error suggests one of ``words``."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise RequestError(f"{path} is too large for {what}")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text, so it holds no {what}") from None
    except OSError:
        raise RequestError(
            f"{path!r} is neither a file with {what} nor a known word{did_you_mean(path, words)}"
        ) from None
