"""Faster R-CNN: torchvision's function, layouts, frozen statistics, steps of the paper's training, batches."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from resnext.detection.model.faster_rcnn import SIZE_DIVISOR, FasterRcnn, build_detector
from resnext.detection.model.layouts import C4_ROI_SIZE, LastStageHead
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings
from resnext.device import autocast
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.forms import convert_state
from resnext.model.network import create_model
from tests.detection.tiny_detector import CIFAR, NARROW, detector, noise, pixels, settings, shake, target

LOSSES = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
TWO = [target((0, 10, 12, 40, 44), (1, 30, 5, 60, 35)), target((1, 8, 8, 50, 60))]

pytestmark = pytest.mark.usefixtures("one_thread")


def _around_resnext(**options: object) -> nn.Module:
    backbone = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnext50_32x4d", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    return torchvision.models.detection.FasterRCNN(backbone, **options)


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_parameters_have_torchvisions_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = (
            torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
            if name == "resnet50"
            else _around_resnext(num_classes=4)
        ).state_dict()
        ours = build_detector(
            Architecture.parse(name), DetectorSettings(), ("a", "b", "c"), DetectPreprocessing()
        ).state_dict()
    assert {key: value.shape for key, value in ours.items() if "num_batches" not in key} == {
        key: value.shape for key, value in theirs.items() if "num_batches" not in key
    }


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, FasterRcnn]:
    """torchvision's detector on a narrow network of four blocks, and ours with its weights."""
    torch.manual_seed(3)
    body = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=1, groups=2, width_per_group=4)
    backbone = torchvision.models.detection.backbone_utils._resnet_fpn_extractor(body, 5)
    theirs = torchvision.models.detection.FasterRCNN(
        backbone, 4, min_size=96, max_size=150, box_score_thresh=0.0, rpn_batch_size_per_image=64
    )
    shake(theirs)
    view = DetectPreprocessing(resize="torchvision", min_size=96, max_size=150)
    architecture = Architecture(blocks=(1, 1, 1, 1), cardinality=2, width=4, num_classes=0)
    ours = build_detector(architecture, DetectorSettings(score=0.0, rpn_batch=64), ("a", "b", "c"), view)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


IMAGES = [noise(160, 120, 1), noise(125, 166, 2)]


def as_floats(width: int, height: int, seed: int) -> torch.Tensor:
    return pixels(width, height, seed).float() / 255


GIVEN = [as_floats(160, 120, 1), as_floats(125, 166, 2)]


def test_detections_are_torchvisions(pair: tuple[nn.Module, FasterRcnn]) -> None:
    theirs, ours = (model.eval() for model in pair)
    with torch.no_grad():
        expected = theirs(GIVEN)
        found = ours.detect([ours.preprocessing.apply(image) for image in IMAGES], [im.size[::-1] for im in IMAGES])
    for mine, right in zip(found, expected, strict=True):
        assert len(right["boxes"]) > 20
        torch.testing.assert_close(mine["boxes"], right["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(mine["scores"], right["scores"], atol=1e-4, rtol=0)
        assert torch.equal(mine["labels"] + 1, right["labels"])


def test_losses_are_torchvisions(pair: tuple[nn.Module, FasterRcnn]) -> None:
    theirs, ours = (model.train() for model in pair)
    for module in [*theirs.modules(), *ours.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    boxes = [target((0, 10, 20, 100, 90), (1, 30, 30, 60, 60)), target()]
    assert isinstance(theirs.transform, GeneralizedRCNNTransform)
    batch, scaled = theirs.transform(
        GIVEN, [{"boxes": one["boxes"].clone(), "labels": one["labels"] + 1} for one in boxes]
    )
    torch.manual_seed(0)  # the transform drew from the generator
    maps = theirs.backbone(batch.tensors)
    proposals, expected = theirs.rpn(batch, maps, scaled)
    expected |= theirs.roi_heads(maps, proposals, batch.image_sizes, scaled)[1]
    torch.manual_seed(0)
    given = [{"boxes": one["boxes"], "labels": one["labels"] - 1} for one in scaled]
    losses = ours.compute_losses([ours.preprocessing.apply(image) for image in IMAGES], given)
    assert losses.keys() == expected.keys() == LOSSES
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-5, rtol=1e-5)
        assert float(value.detach()) > 0


def test_c4_has_the_last_stage_in_the_head() -> None:
    model = detector(layout="c4").eval()
    names = model.state_dict().keys()
    assert any(name.startswith("roi_heads.box_head.layer4.") for name in names)
    assert not any(name.startswith("backbone.body.layer4.") for name in names)
    assert not any(".fc." in name for name in names)
    before, last = NARROW.stages[-2:]
    assert model.backbone(torch.rand(1, 3, 64, 96))["0"].shape == (1, before.out_channels, 4, 6)
    head = model.roi_heads.box_head
    assert isinstance(head, LastStageHead)
    assert head(torch.rand(5, before.out_channels, 14, 14)).shape == (5, last.out_channels)
    assert model.roi_heads.box_predictor.cls_score.in_features == last.out_channels


def test_backbone_and_head_of_c4_are_the_network() -> None:
    """On a whole map, as one region, the parts compute what the network's features are."""
    for architecture in (NARROW, CIFAR.change(pre_activation=True)):
        model = detector(architecture, layout="c4").eval()
        whole = model.network.state_dict() | model.roi_heads.box_head.state_dict()
        network = create_model(architecture).eval()
        network.load_state_dict(whole)
        x = torch.rand(2, 3, 64, 64)
        ours = model.roi_heads.box_head(model.backbone(x)["0"])
        torch.testing.assert_close(ours, network(x), atol=1e-5, rtol=1e-5)


def test_max_pool_is_torchvisions_and_the_largest_value_of_each_bin() -> None:
    model = detector(layout="c4", pool="max")
    map_ = torch.rand(1, 3, 28, 28)
    boxes = [torch.tensor([[0.0, 0, 432, 432], [16, 32, 200, 300]])]
    pooled = model.roi_heads.box_roi_pool({"0": map_}, boxes, [(448, 448)])
    assert torch.equal(pooled, torchvision.ops.roi_pool(map_, boxes, (C4_ROI_SIZE, C4_ROI_SIZE), 1 / 16))
    by_hand = torch.nn.functional.max_pool2d(map_, 2)  # both ends count: 28 cells into 14 bins
    assert torch.equal(pooled[:1], by_hand)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        (CIFAR, {}),
        (CIFAR, {"layout": "c4"}),
        (CIFAR.change(pre_activation=True), {}),
        (CIFAR.change(pre_activation=True), {"layout": "c4", "pool": "max"}),
        (NARROW.change(pre_activation=True), {}),
        (NARROW.change(block="basic", cardinality=1), {"layout": "c4"}),
    ],
    ids=str,
)
def test_every_kind_of_network_trains_and_detects(architecture: Architecture, changes: dict[str, object]) -> None:
    model = detector(architecture, **changes)
    torch.manual_seed(0)
    losses = model.compute_losses([pixels(64, 70), pixels(60, 64, 1)], TWO)
    assert losses.keys() == LOSSES
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not missing
    with torch.no_grad():
        found = model.eval().detect([pixels(64, 70)], [(140, 128)])[0]
    assert len(found["boxes"]) > 0
    assert float(found["boxes"].min()) >= 0
    assert float(found["boxes"][:, 2].max()) <= 128
    assert float(found["boxes"][:, 3].max()) <= 140


def test_fpn_reads_a_pre_activation_network_behind_its_last_norm() -> None:
    model = detector(CIFAR.change(pre_activation=True)).eval()
    x = torch.rand(1, 3, 32, 32)
    seen = {}
    model.backbone.fpn.register_forward_pre_hook(lambda _, args: seen.update(args[0]))
    with torch.no_grad():
        maps = model.backbone(x)
        raw = model.network.features(x, ["C4"])["C4"]
    assert list(maps) == ["0", "1", "2", "pool"]
    assert [tuple(value.shape[-2:]) for value in maps.values()] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert torch.equal(seen["2"], model.network.bn(raw))
    assert float(seen["2"].min()) == 0  # BN and ReLU


@pytest.mark.parametrize("first", [(33, 33), (40, 30), (66, 64)])
def test_strides_are_the_networks_whatever_images_come_first(first: tuple[int, int]) -> None:
    """torchvision's RoIAlign guesses the strides from its first images, and keeps the guess."""
    model, fresh = detector().eval(), detector().eval()
    with torch.no_grad():
        model.detect([pixels(*first)])
        one, other = model.detect([pixels(128, 96)])[0], fresh.detect([pixels(128, 96)])[0]
    assert model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_frozen_norm_with_tiny_variances_stays_finite() -> None:
    """COCO's published backbones have running variances of 1e-19 and below."""
    model = detector(NARROW.change(bn_eps=1e-5))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_var[::2] = 1e-30
            module.eval().requires_grad_(False)
    torch.manual_seed(0)
    losses = model.compute_losses([pixels(64, 64), pixels(80, 64, 1)], TWO)
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_eps_is_the_architectures(eps: float) -> None:
    model = detector(NARROW.change(bn_eps=eps))
    assert {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {eps}
    norm = model.eval().network.bn1
    frozen = FrozenBatchNorm2d(8, eps=eps)
    frozen.load_state_dict({name: value for name, value in norm.state_dict().items() if "num_batches" not in name})
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(norm(x), frozen(x).relu(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["fpn", "c4"])
def test_images_without_boxes_give_finite_losses(layout: str) -> None:
    model = detector(layout=layout)
    torch.manual_seed(0)
    for targets in ([target(), target()], [TWO[0], target()]):
        losses = model.compute_losses([pixels(64, 64), pixels(64, 64, 1)], targets)
        assert all(bool(torch.isfinite(value)) for value in losses.values())
        sum(losses.values()).backward()


def test_the_rpn_step_has_no_head_and_detects_proposals() -> None:
    model = detector(stage="rpn", detections=7)
    assert model.classes == ("object",)
    assert not hasattr(model, "roi_heads")
    assert model.compute_losses([pixels(64, 64)], [target((0, 5, 5, 40, 40))]).keys() == {
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    with torch.no_grad():
        found = model.eval().detect([pixels(64, 64)], [(128, 128)])[0]
    assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"]) == 7
    assert found["labels"].unique().tolist() == [0]
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)


def test_the_fast_rcnn_step_trains_on_proposals_that_stay_as_they_are() -> None:
    proposer = detector(stage="rpn", seed=1)
    model = detector(stage="fast_rcnn", proposer=proposer).train()
    before = {name: value.clone() for name, value in proposer.state_dict().items()}
    assert not hasattr(model, "rpn")
    assert model.training
    assert not any(module.training for module in model.proposer.modules())
    losses = model.compute_losses([pixels(64, 64), pixels(64, 64, 1)], TWO)
    assert losses.keys() == {"loss_classifier", "loss_box_reg"}
    sum(losses.values()).backward()
    assert all((p.grad is None) == name.startswith("proposer.") for name, p in model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.proposer.state_dict().items())
    with torch.no_grad():
        assert len(model.eval().detect([pixels(64, 64)])[0]["boxes"]) > 0


def test_the_proposer_proposes_as_many_as_training_wants() -> None:
    proposer = detector(stage="rpn", rpn_post_nms_train=30, rpn_post_nms_test=5, rpn_nms=1.0)
    model = detector(stage="fast_rcnn", proposer=proposer)
    counts = []
    model.proposer.rpn.register_forward_hook(lambda _, __, out: counts.append(len(out[0][0])))
    model.train().compute_losses([pixels(64, 64), pixels(64, 64, 1)], TWO)
    with torch.no_grad():
        model.eval().detect([pixels(64, 64)])
    assert counts == [30, 5]


def test_anchors_are_exact_under_bf16() -> None:
    model = detector()
    rpn = model.rpn
    sizes = [(25, 25), (13, 13), (7, 7), (4, 4), (2, 2)]
    batch = ImageList(torch.zeros(1, 3, 800, 800), [(800, 800)])
    exact = rpn.anchor_generator(batch, [torch.zeros(1, 8, *size) for size in sizes])[0]
    with autocast(torch.device("cpu"), "bf16"):
        given = rpn.anchor_generator(batch, [torch.zeros(1, 8, *size, dtype=torch.bfloat16) for size in sizes])[0]
    assert given.dtype == torch.float32
    assert torch.equal(given, exact)


def test_under_bf16_all_coordinates_and_losses_are_float32() -> None:
    model = detector()
    with autocast(torch.device("cpu"), "bf16"):
        losses = model.compute_losses([pixels(64, 64), pixels(80, 64, 1)], TWO)
        with torch.no_grad():
            found = model.eval().detect([pixels(64, 64)])[0]
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_a_batch_fills_up_with_mean_colour_and_leaves_images_as_they_are() -> None:
    model = detector()
    images = [pixels(50, 33), pixels(64, 20, 1)]
    batch = model.make_batch(images)
    assert batch.tensors.shape == (2, 3, 64, 64)
    assert batch.image_sizes == [(33, 50), (20, 64)]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
    for place, image in zip(batch.tensors, images, strict=True):
        h, w = image.shape[1:]
        torch.testing.assert_close(place[:, :h, :w] * std + mean, image.float() / 255)
        assert float(place[:, h:].abs().max()) == float(place[:, :, w:].abs().sum()) == 0
    assert all(side % SIZE_DIVISOR == 0 for side in batch.tensors.shape[2:])
    nhwc = detector().to(memory_format=torch.channels_last).make_batch(images).tensors
    assert nhwc.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(nhwc, batch.tensors)


def test_an_images_detections_do_not_depend_on_what_came_before() -> None:
    model = detector().eval()
    with torch.no_grad():
        alone = model.detect([pixels(70, 64, 3)])[0]
        model.detect([pixels(128, 40, 1), pixels(30, 96, 2)])
        again = model.detect([pixels(70, 64, 3)])[0]
        beside = model.detect([pixels(70, 64, 3), pixels(90, 60, 4)])[0]  # both fill up to 96 x 64
    assert all(torch.equal(alone[key], again[key]) for key in alone)
    torch.testing.assert_close(beside["boxes"], alone["boxes"], atol=0.01, rtol=0)


@pytest.mark.parametrize("layout", ["fpn", "c4"])
def test_the_three_forms_of_figure_3_detect_the_same(layout: str) -> None:
    """Of c4 the last stage is converted in the head."""
    grouped = detector(layout=layout).eval()
    whole = grouped.network.state_dict()
    if layout == "c4":
        whole |= grouped.roi_heads.box_head.state_dict()
    images, expected = [pixels(100, 64), pixels(64, 90, 1)], []
    with torch.no_grad():
        expected = grouped.detect(images)
        for form in ("concatenated", "branched"):
            other = detector(NARROW.change(form=form), layout=layout).eval()
            state = grouped.state_dict()
            body = convert_state(whole, NARROW, form)
            for prefix in ("backbone.body.", "roi_heads.box_head."):
                names = [name.removeprefix(prefix) for name in other.state_dict() if name.startswith(prefix)]
                state = {name: value for name, value in state.items() if not name.startswith(prefix)} | {
                    prefix + name: body.get(name, state.get(prefix + name)) for name in names
                }
            other.load_state_dict(state)
            for mine, right in zip(other.detect(images), expected, strict=True):
                assert len(right["boxes"]) > 10
                for key in ("boxes", "scores"):
                    torch.testing.assert_close(mine[key], right[key], atol=1e-3, rtol=0)
                assert torch.equal(mine["labels"], right["labels"])


def test_set_score_leaves_out_what_is_below() -> None:
    model = detector().eval()
    with torch.no_grad():
        everything = model.detect([pixels(64, 64)])[0]["scores"]
        limit = float(everything.median())
        model.set_score_threshold(limit)
        left = model.detect([pixels(64, 64)])[0]["scores"]
    assert 0 < len(left) < len(everything)
    assert float(left.min()) >= limit
    assert model.settings.score == limit


@pytest.mark.parametrize(
    ("architecture", "changes", "says"),
    [
        (NARROW.change(in_channels=1), {}, "a detector reads RGB images"),
        (NARROW, {"anchor_sizes": (32.0, 64.0)}, "anchor_sizes has 2 values, .* needs 5"),
        (NARROW, {"pool": "max"}, "needs detector.layout c4"),
        (CIFAR.change(depth=None, blocks=(1,)), {"layout": "c4"}, "needs at least two stages"),
    ],
)
def test_what_does_not_fit_is_refused(architecture: Architecture, changes: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        build_detector(architecture, settings(**changes), ("a",), DetectPreprocessing())


def test_fresh_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = detector(seed=4).state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    two = detector(seed=4).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    other = detector(seed=5).state_dict()
    for name in ("rpn.head.cls_logits.weight", "roi_heads.box_head.fc6.weight", "backbone.body.conv1.weight"):
        assert not torch.equal(one[name], other[name])
