"""What the ResNets of other libraries cannot express is refused by the name of the field."""

from collections.abc import Callable
from typing import Any

import pytest

from resnext.model.network import Network
from resnext.weights.adapters.detectron2 import to_detectron2
from resnext.weights.adapters.timm import to_timm
from resnext.weights.adapters.torchvision import to_torchvision
from tests.weights.adapters.adapter_helpers import get_error, make_network

CASES: list[tuple[Callable[[Network], object], dict[str, Any], str]] = [
    (to_torchvision, {"stem": "cifar"}, "stem 'imagenet'"),
    (to_torchvision, {"pre_activation": True}, "pre_activation False"),
    (to_torchvision, {"shortcut": "C"}, "shortcut 'B'"),
    (to_torchvision, {"shortcut": "A"}, "shortcut 'B'"),
    (to_torchvision, {"stride_in_1x1": True}, "stride_in_1x1 False"),
    (to_torchvision, {"bn_eps": 1e-3}, "bn_eps 1e-05"),
    (to_torchvision, {"base_channels": 8}, "base_channels 64"),
    (to_torchvision, {"in_channels": 1}, "in_channels 3"),
    (to_torchvision, {"stage_channels": (256, 512, 1024, 1024)}, "stage_channels (256, 512, 1024, 2048)"),
    (to_torchvision, {"stage_widths": (4, 8, 16, 40)}, "stage_widths (4, 8, 16, 32)"),
    (to_torchvision, {"blocks": (1, 1, 1)}, "four stages"),
    (to_torchvision, {"num_classes": 0}, "num_classes is 0"),
    (to_torchvision, {"stage_cardinalities": (2, 2, 1, 2)}, "one cardinality for all stages"),
    (to_timm, {"stage_cardinalities": (2, 2, 1, 2)}, "one cardinality for all stages"),
    (to_detectron2, {"stage_cardinalities": (2, 2, 1, 2)}, "one cardinality for all stages"),
    (to_timm, {"blocks": (1, 2, 1)}, "four stages"),
    (to_timm, {"blocks": (1, 1, 1, 1, 1)}, "four stages"),
    (to_timm, {"stem": "cifar"}, "stem 'imagenet'"),
    (to_timm, {"pre_activation": True}, "pre_activation"),
    (to_timm, {"shortcut": "A"}, "shortcut"),
    (to_timm, {"stride_in_1x1": True}, "stride_in_1x1"),
    (to_timm, {"bn_eps": 1e-3}, "bn_eps"),
    (to_timm, {"base_channels": 32}, "base_channels"),
    (to_timm, {"stage_channels": (256, 512, 1024, 2047)}, "multiples of 4"),
    (to_timm, {"stage_widths": (4, 8, 16, 40)}, "stage_widths (4, 8, 16, 32)"),
    (to_timm, {"block": "basic", "cardinality": 3}, "stage_widths"),
    (to_detectron2, {"stem": "cifar"}, "stem"),
    (to_detectron2, {"pre_activation": True}, "pre_activation"),
    (to_detectron2, {"shortcut": "C"}, "shortcut"),
    (to_detectron2, {"bn_eps": 1e-3}, "bn_eps"),
    (to_detectron2, {"stage_channels": (256, 512, 512, 2048)}, "projects only where channels change"),
    (to_detectron2, {"block": "basic"}, "basic blocks have stage_widths as their channels"),
]


@pytest.mark.parametrize(("export", "changes", "says"), CASES)
def test_a_network_that_the_library_lacks_is_refused(
    export: Callable[[Network], object], changes: dict[str, Any], says: str
) -> None:
    assert says in get_error(lambda: export(make_network(**changes)), start="")
