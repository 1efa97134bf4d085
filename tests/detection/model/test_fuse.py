"""The fast paths of a detector change no function, in either layout."""

import pytest
import torch
from torch import Tensor

from resnext.detection.model.faster_rcnn import FasterRcnn, build_detector
from resnext.detection.model.fuse import fuse_detector, prepare_for_inference
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings
from resnext.model.architecture import Architecture
from resnext.model.layers import Conv2d, NormAct
from resnext.model.plan import Plan
from resnext.speed.convolution import ConvAlgorithms
from resnext.training.finetune import find_bn_layers

TINY = Architecture.parse("resnext11_4x4d", base_channels=8, num_classes=0)
SMALL = {"fpn_channels": 8, "head_channels": 16, "roi_batch": 8, "rpn_post_nms_train": 50}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast paths are off in other tests."""
    monkeypatch.setenv("RESNEXT_FAST", "1")


def detector(layout: str, pre_activation: bool = False) -> FasterRcnn:
    settings = DetectorSettings(layout=layout, **SMALL)  # type: ignore[arg-type]
    architecture = TINY.change(pre_activation=pre_activation)
    model = build_detector(architecture, settings, ("a", "b"), DetectPreprocessing()).double().train()
    for number, norm in enumerate(find_bn_layers(model)):
        norm.eval().requires_grad_(False)
        norm.running_mean.fill_(0.1 * (number % 3))
        norm.running_var.fill_(0.5)
    return model.to(memory_format=torch.channels_last)


def losses(model: FasterRcnn) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.set_default_dtype(torch.float64)
    try:
        generator = torch.Generator().manual_seed(0)
        images = [torch.rand(3, 48, 64, generator=generator) for _ in range(2)]
        boxes = torch.tensor([[4.0, 5, 30, 40], [20, 10, 60, 44]])
        targets = [{"boxes": boxes, "labels": torch.tensor([0, 1])}] * 2
        torch.manual_seed(0)
        found = model.compute_losses(images, targets)
        sum(found.values()).backward()  # type: ignore[union-attr]
    finally:
        torch.set_default_dtype(torch.float32)
    return found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", ["fpn", "c4"])
@pytest.mark.parametrize("pre_activation", [False, True])
def test_losses_and_gradients_stay_as_they_are(layout: str, pre_activation: bool) -> None:
    plain, quick = detector(layout, pre_activation), detector(layout, pre_activation)
    ways = {
        name: ConvAlgorithms("pack2", "pack4", "pack2")
        if layer.groups > 1
        else ConvAlgorithms("product", "product", "product")
        for name, layer in quick.named_modules()
        if isinstance(layer, Conv2d) and (layer.groups > 1 or layer.kernel_size == (1, 1))
    }
    assert fuse_detector(quick, Plan(ways)) > 0
    (expected, wanted), (found, gradients) = losses(plain), losses(quick)
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-6), name
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_all_frozen_norms_fold() -> None:
    for layout in ("fpn", "c4"):
        model = detector(layout)
        assert fuse_detector(model) == sum(isinstance(module, NormAct) for module in model.modules())


@pytest.mark.parametrize("layout", ["fpn", "c4"])
def test_a_detector_ready_to_predict_finds_the_same(layout: str) -> None:
    model = detector(layout).float()
    for module in model.roi_heads.box_predictor.cls_score, model.rpn.head.cls_logits:
        torch.nn.init.normal_(module.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(5))]
    model.eval()
    for norm in find_bn_layers(model):
        norm.requires_grad_(True)
    with torch.no_grad():
        (plain,) = model.detect(images)
        ready = prepare_for_inference(model)
        (found,) = ready.detect(images)
    assert ready is model
    assert not any(p.requires_grad for p in model.parameters())
    assert all(module.is_folded for module in model.modules() if isinstance(module, NormAct))
    assert len(plain["scores"]) >= 3
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(found[key], plain[key], rtol=1e-3, atol=1e-3)
