"""Fast paths of a detector with unchanged outputs: fused norms where BN trains, frozen BN folded into convolutions.

``RoiAlign`` chooses its fast path by itself.
"""

import torch

from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.model.frozen_norm import fold_frozen_norms
from resnext.model.plan import Plan


def fuse_detector(model: FasterRcnn, plan: Plan | None = None) -> int:
    """Apply ``plan`` and fold frozen BN; return the number of folded norms.

    Call after freezing, and again after another plan is applied. Raises RequestError for a frozen norm without a
    finite scale or a plan of another network.
    """
    (plan or Plan()).apply(model)
    return fold_frozen_norms(model)


def prepare_for_inference(model: FasterRcnn) -> FasterRcnn:
    """Prepare ``model`` in place: eval mode, no gradients, NHWC, BN folded. Raises RequestError for a bad BN scale."""
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    fold_frozen_norms(model)
    return model
