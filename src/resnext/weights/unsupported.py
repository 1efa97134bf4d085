"""Recognize unsupported networks by their parameter names, so that an error can name the network.

Some variants do not show in the parameters (anti-aliasing by average pooling, other activations). These are refused by
the name in timm's config.json (``timm.py``).
"""

import re
from collections.abc import Iterable

NOT_SUPPORTED = "is not supported yet"

# parts of a network that otherwise has torchvision's names
UNSUPPORTED_PARTS: tuple[tuple[str, str], ...] = (
    (r"layer\d+\.\d+\.(se|eca)\.conv\.weight", "ecaresnet: efficient channel attention"),
    (r"layer\d+\.\d+\.(se|se_module)\.", "seresnext: squeeze-and-excitation"),
    (r"layer\d+\.\d+\.conv\d\.(attn|paths)\.", "skresnext: selective kernels"),
    (r"layer\d+\.\d+\.conv\d\.(bn\d|fc\d|conv)\.", "resnest: split attention"),
    (r"layer\d+\.\d+\.(convs|bns)\.\d", "res2net: scales inside a block"),
    (r"layer\d+\.\d+\.paths\.\d", "a resnext file of form branched or concatenated that lost its metadata"),
    (r"conv1\.\d+\.", "a deep stem (resnet50c, resnet50d, resnet50s, resnet50t): several 3x3 convolutions for one 7x7"),
    (r"layer\d+\.\d+\.downsample\.2\.", "resnet50d: average pooling in the shortcuts"),
    (r"maxpool\.\d+\.|.*\.aa\.|.*\.filt$", "resnetaa or resnetblur: pooling against aliasing"),
    (r"layer\d+\.\d+\.(conv\d_offset|conv\d\.offset)", "deformable convolution"),
    (r"layer\d+\.\d+\.f\.se\.", "squeeze-and-excitation"),
    (r"attnpool\.", "CLIP's ResNet: attention pooling"),
    (r"stage2\.\d+\.(branches|fuse_layers)\.", "HRNet"),
)
# families of networks with other names
UNSUPPORTED_FAMILIES: tuple[tuple[str, str], ...] = (
    (r"(.*\.)?layer0\.conv1\.|(.*\.)?layer\d\.\d+\.se_module\.", "SENet or legacy_seresnet"),
    (r"trunk_output\.|s\d\.b\d+\.conv\d\.conv\.", "RegNet"),
    (r"(.*\.)?denseblock\d", "DenseNet"),
    (r"(.*\.)?blocks\.\d+\.attn\.|(.*\.)?encoder\.layers?\.(encoder_layer_)?\d+\.|cls_token", "a vision transformer"),
    (r"(.*\.)?layers\.\d+\.blocks\.\d+\.attn\.|features\.\d+\.\d+\.attn\.", "Swin transformer"),
    (r"stages\.\d+\.(blocks\.)?\d+\.(conv_dw|dwconv|gamma)", "ConvNeXt"),
    (r"stages\.\d+\.(blocks\.)?\d+\.(norm1|downsample\.norm|conv1\.gain|gain)", "ResNetV2 or a normaliser-free ResNet"),
    (r"stem\.conv\.gain", "a normaliser-free ResNet"),
    (r"stem\.conv\d\.conv\.|stem\.conv\d\.weight", "one of timm's own ResNet designs (a stem of several convolutions)"),
    (r"body\.(conv1|layer1)\.", "TResNet"),
    (r"conv_stem\.|features\.\d+\.\d+\.block\.|features\.\d+\.conv\.\d", "EfficientNet or MobileNet"),
    (r"conv2d_1a\.|Mixed_5b\.|inception3a\.", "Inception"),
    (r"features\.0\.0?\.?weight", "VGG or AlexNet"),
)


def find_unsupported(names: Iterable[str], table: tuple[tuple[str, str], ...]) -> str | None:
    """Find the part or family of ``table`` (one of the two above) that the names show; None if there is none."""
    short = [name[:200] for name in names]
    return next((what for pattern, what in table if any(map(re.compile(pattern).match, short))), None)
