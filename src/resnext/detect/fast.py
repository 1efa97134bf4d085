"""The fast paths of a detector: fused norms where BN trains, frozen BN inside the convolutions. The function stays.

``RoiAlign`` (roi.py) is fast by itself.
"""

import torch

from resnext.detect.faster_rcnn import FasterRcnn
from resnext.model.frozen import fold_frozen
from resnext.model.plan import Plan


def make_fast(model: FasterRcnn, plan: Plan | None = None) -> int:
    """Set the ways of ``plan`` and fold frozen BN; returns how many norms are folded.

    After freezing, and again after a plan is applied. Raises RequestError for a frozen norm without a finite scale,
    or a plan of another network.
    """
    (plan or Plan()).apply(model)
    return fold_frozen(model)


def for_prediction(model: FasterRcnn) -> FasterRcnn:
    """``model`` itself, ready to predict only: in evaluation mode, nothing trains, NHWC, BN folded.

    Raises RequestError for a norm without a finite scale.
    """
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    fold_frozen(model)
    return model
