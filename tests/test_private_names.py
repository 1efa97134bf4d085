"""Private names of other packages that we use, in one list: a new release that drops one fails here, by name."""

from importlib import import_module
from pathlib import Path

import PIL
import pytest
import torch
from torch.utils.data import DataLoader

# module, path of attributes, the file of ours that uses it
PRIVATE_NAMES = (
    ("argparse", "ArgumentParser()._actions", "cli.py"),
    ("argparse", "_SubParsersAction", "commands/data_boxes.py"),
    ("torch", "_C._GLIBCXX_USE_CXX11_ABI", "speed/compiler.py"),
    ("torch", "_foreach_lerp_", "training/ema.py"),
    ("torch", "UntypedStorage._new_shared", "data/loader.py"),
    ("torch.nn", "Conv2d._conv_forward", "model/layers.py"),
    ("torch.ops", "mkldnn._convolution_pointwise", "deploy/pytorch_engine.py"),
    ("torch.ops", "mkldnn._convolution_pointwise_.binary", "deploy/pytorch_engine.py"),
    ("torch.ops", "mkldnn._reorder_convolution_weight", "deploy/pytorch_engine.py"),
    ("torch.ops", "mkldnn._reorder_linear_weight", "bench/infer_candidates.py"),
    ("torch.ops", "mkldnn._linear_pointwise", "bench/infer_candidates.py"),
    ("torch.utils.data.dataloader", "_MultiProcessingDataLoaderIter._shutdown_workers", "data/workers.py"),
    ("torchvision.models.detection.backbone_utils", "_resnet_fpn_extractor", "bench/detect_step.py"),
    ("torchvision.ops.poolers", "_convert_to_roi_format", "detection/model/roi_align.py"),
    ("torchvision.ops.poolers", "_setup_scales", "detection/model/roi_align.py"),
    ("PIL.Image", "core.jpeg_decoder", "data/decode/turbojpeg.py"),
    ("pycocotools.cocoeval", "COCOeval()._gts", "detection/evaluation/matching.py"),
)
# undocumented, though their names are not private
OTHER_NAMES = (
    ("torchvision.models.detection.rpn", "concat_box_prediction_layers", "detection/model/rpn.py"),
    ("torchvision.models.detection.rpn", "RegionProposalNetwork.filter_proposals", "detection/model/rpn.py"),
    ("torchvision.models.detection.rpn", "RegionProposalNetwork.assign_targets_to_anchors", "detection/model/rpn.py"),
    ("torchvision.ops.poolers", "LevelMapper", "detection/model/roi_align.py"),
    ("PIL.PngImagePlugin", "MAX_TEXT_CHUNK", "data/decode/pillow.py"),
    ("PIL.TiffImagePlugin", "TiffImageFile", "data/decode/pillow.py"),
)
SOURCE = Path(__file__).parents[1] / "src" / "resnext"


@pytest.mark.parametrize(("module", "path", "user"), [*PRIVATE_NAMES, *OTHER_NAMES])
def test_the_name_exists(module: str, path: str, user: str) -> None:
    if module.startswith("pycocotools"):
        pytest.importorskip("pycocotools")
    found = torch.ops if module == "torch.ops" else import_module(module)
    for name in path.split("."):
        called = name.endswith("()")
        assert hasattr(found, name.removesuffix("()")), f"{module} has no {path} any more; {user} uses it"
        found = getattr(found, name.removesuffix("()"))
        found = found() if called else found


@pytest.mark.parametrize(("module", "path", "user"), [*PRIVATE_NAMES, *OTHER_NAMES])
def test_the_list_is_not_longer_than_the_use(module: str, path: str, user: str) -> None:
    assert path.rpartition(".")[2] in (SOURCE / user).read_text("utf-8"), f"{user} no longer uses {module}.{path}"


def test_a_loader_with_workers_has_its_processes() -> None:
    """``_workers`` is set by the iterator's constructor."""
    batches = iter(DataLoader([1, 2], num_workers=1))  # type: ignore[arg-type]
    assert len(batches._workers) == 1  # type: ignore[attr-defined]
    batches._shutdown_workers()  # type: ignore[attr-defined]


def test_pillow_s_wheel_brings_its_libjpeg() -> None:
    """The folder ``pillow.libs`` beside the package; a Pillow built here links the system's library instead."""
    beside = Path(PIL.__file__).parents[1] / "pillow.libs"
    if not beside.is_dir():
        pytest.skip("Pillow is not from a wheel for Linux")
    assert list(beside.glob("libjpeg*.so*")), f"{beside} has no libjpeg*.so; data/decode/turbojpeg.py uses it"
