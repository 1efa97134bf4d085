"""Preprocessings and class names of well-known published weights, for files that do not contain them."""

from resnext.data.preprocessing import Preprocessing
from resnext.data.sources import cifar

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def make_imagenet_preprocessing(resize: int, interpolation: str, image_size: int = 224) -> Preprocessing:
    """Make a preprocessing with a center crop and ImageNet's mean and std."""
    return Preprocessing(
        image_size=image_size,
        resize=resize,
        interpolation=interpolation,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channels=3,
    )


def _make_cifar_preprocessing(mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
    return Preprocessing(image_size=32, resize=32, mean=mean, std=std, channels=3)


PAPER_IMAGENET = make_imagenet_preprocessing(
    256, "bicubic"
)  # the Torch7 release: fb.resnet.torch's Scale(256, 'bicubic')
TORCHVISION_V1 = make_imagenet_preprocessing(256, "bilinear")  # IMAGENET1K_V1
TORCHVISION_V2 = make_imagenet_preprocessing(232, "bilinear")  # IMAGENET1K_V2
CIFAR10_PREPROCESSING = _make_cifar_preprocessing(cifar.CIFAR10.mean, cifar.CIFAR10.std)
CIFAR100_PREPROCESSING = _make_cifar_preprocessing(cifar.CIFAR100.mean, cifar.CIFAR100.std)
PREPROCESSINGS: dict[str, Preprocessing] = {
    "paper": PAPER_IMAGENET,
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
