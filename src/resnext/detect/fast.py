"""Fast paths of a detector with unchanged outputs: fused norms where BN trains, frozen BN folded into convolutions.

``RoiAlign`` chooses its fast path by itself.
"""

import torch

from resnext.detect.faster_rcnn import FasterRcnn
from resnext.model.frozen import fold_frozen
from resnext.model.plan import Plan


def make_fast(model: FasterRcnn, plan: Plan | None = None) -> int:
    """Apply ``plan`` and fold frozen BN; return the number of folded norms.

    Call after freezing, and again after another plan is applied. Raises RequestError for a frozen norm without a
    finite scale or a plan of another network.
    """
    (plan or Plan()).apply(model)
    return fold_frozen(model)


def for_prediction(model: FasterRcnn) -> FasterRcnn:
    """Prepare ``model`` in place for inference: eval mode, no gradients, NHWC, BN folded.

    Raises RequestError for a norm without a finite scale.
    """
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    fold_frozen(model)
    return model
