"""torchvision's state dicts: the same function, its published files recognised by content, and written for it."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import resnext
from resnext.data.imagenet_classes import imagenet_classes
from resnext.data.normalization import normalize
from resnext.model.architecture import Architecture
from resnext.weights.adapters import torchvision as ours
from resnext.weights.adapters.registry import adapt
from resnext.weights.adapters.torchvision import to_torchvision
from resnext.weights.build import build_network
from resnext.weights.presets import TORCHVISION_V1, TORCHVISION_V2
from resnext.weights.released import MIB, PublishedError, ReleasedFile
from tests.weights.adapters.adapter_helpers import copy_state, make_images, make_raw, randomize

BLOCKS: list[tuple[type[Any], dict[str, Any]]] = [
    (Bottleneck, {"groups": 32, "width_per_group": 4}),
    (Bottleneck, {"groups": 1, "width_per_group": 96}),
    (BasicBlock, {}),
]


@pytest.mark.parametrize(("block", "options"), BLOCKS)
def test_the_function_is_torchvisions(block: type[Any], options: dict[str, Any]) -> None:
    theirs = randomize(ResNet(block, [1, 2, 1, 1], num_classes=5, **options))
    model = build_network(adapt(make_raw(copy_state(theirs))), "file")
    x = normalize(make_images(), TORCHVISION_V1, "cpu")
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert model.architecture.cardinality == options.get("groups", 1)


@pytest.mark.parametrize(("block", "options"), BLOCKS)
def test_what_is_written_torchvision_loads_strictly(block: type[Any], options: dict[str, Any]) -> None:
    theirs = ResNet(block, [1, 2, 1, 1], num_classes=5, **options)
    model = build_network(adapt(make_raw(copy_state(randomize(theirs, seed=2)))), "file")
    form = "branched" if block is BasicBlock else "concatenated"
    fresh = ResNet(block, [1, 2, 1, 1], num_classes=5, **options).eval()
    fresh.load_state_dict(to_torchvision(resnext.convert_form(model, form)), strict=True)
    x = normalize(make_images(), TORCHVISION_V1, "cpu")
    with torch.no_grad():
        torch.testing.assert_close(fresh(x), model(x), rtol=1e-5, atol=1e-5)


def test_an_unknown_file_says_how_to_give_its_preprocessing() -> None:
    contents = adapt(make_raw(copy_state(randomize(ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5)))))
    assert (contents.format, contents.preprocessing, contents.classes) == ("torchvision", None, None)
    assert any("--preprocessing" in note for note in contents.notes)


FIGURE = PublishedError(
    top1_error=30, top5_error=None, data="val", image_size=224, resize=232, interpolation="bilinear", source="they"
)


def test_a_published_file_is_recognised_by_size_and_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the file: what the list says of it is its digest, its size and how pictures are prepared."""
    state = copy_state(torchvision.models.resnet18())
    path = tmp_path / "renamed.bin"
    torch.save(state, path)
    data = path.read_bytes()
    digest, size = hashlib.sha256(data).hexdigest()[:8], len(data) / MIB
    entry = ReleasedFile(
        name="theirs",
        architecture="resnet18",
        format="torchvision",
        licence="mit",
        figures=(FIGURE, replace(FIGURE, image_size=288, resize=288)),
        mib=round(size, 3),
        sha256=digest,
    )

    def contents(**changes: Any) -> Any:
        monkeypatch.setattr(ours, "load_released", lambda: (replace(entry, **changes),))
        return adapt(replace(make_raw(state), path=path))

    known = contents()
    assert known.preprocessing == TORCHVISION_V2
    assert known.classes == imagenet_classes()
    assert known.provenance == {"published": "theirs"}
    assert contents(mib=None).preprocessing == TORCHVISION_V2
    for other in ({"sha256": "00000000"}, {"sha256": None}, {"mib": size + 0.01}, {"architecture": "resnet34"}):
        assert contents(**other).preprocessing is None
        assert contents(**other).classes is None


def test_a_file_of_another_size_is_not_read_for_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"x" * 1000)
    monkeypatch.setattr(ours, "compute_sha256", lambda _: pytest.fail("read"))
    state = copy_state(torchvision.models.resnet18())
    assert ours.find_released_file(path, Architecture.parse("resnet18"), state) is None


def test_a_detectors_backbone_is_taken_and_the_rest_named() -> None:
    with torch.device("meta"):
        detector: nn.Module = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    contents = adapt(make_raw(detector.state_dict()))
    assert contents.architecture == Architecture.parse("resnet50", num_classes=0)
    assert any("ignored" in note and "roi_heads" in note and "fpn" in note for note in contents.notes)
    assert any("eps 0" in note for note in contents.notes)
