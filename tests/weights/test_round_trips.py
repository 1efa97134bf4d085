"""Every format that is written, over random networks: read back it is the same network, or writing it was refused."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnext.data.preprocessing import Preprocessing
from resnext.deploy.publish import ModelCardInfo, write_hub_folder
from resnext.errors import RequestError
from resnext.model.architecture import FORMS, Architecture
from resnext.model.network import Network, create_model
from resnext.settings import CROP_MODES, INTERPOLATIONS
from resnext.weights import load, native, writers

WRITERS: dict[str, tuple[str, writers.Writer]] = {
    "ours": ("out.safetensors", native.save),
    "hub": ("hub", lambda model, folder: write_hub_folder(model, folder, ModelCardInfo())),
    "torchvision": ("out.pth", writers.write_torchvision),
    "timm": ("timm", writers.write_timm),
    "detectron2": ("out.pkl", writers.write_detectron2),
}
BARE = ("torchvision",)  # holds tensors alone


@st.composite
def architectures(draw: Any) -> Architecture:
    """Mostly what other libraries have too, with one thing or another that they have not."""
    block = draw(st.sampled_from(["bottleneck", "bottleneck", "basic"]))
    fields: dict[str, Any] = {
        "block": block,
        "blocks": draw(st.sampled_from([(1, 1, 1, 1), (1, 1, 1, 1), (1, 2, 1, 1), (1, 1, 1)])),
        "cardinality": draw(st.sampled_from([1, 2])) if block == "bottleneck" else 1,
        "width": draw(st.sampled_from([4, 6])) if block == "bottleneck" else 64,
        "base_channels": draw(st.sampled_from([64, 64, 64, 8])),
        "num_classes": draw(st.sampled_from([0, 1, 3, 3])),
        "in_channels": draw(st.sampled_from([3, 3, 1, 4])),
        "stem": draw(st.sampled_from(["imagenet", "imagenet", "imagenet", "cifar"])),
        "shortcut": draw(st.sampled_from(["B", "B", "B", "A", "C", "none"])),
        "pre_activation": draw(st.sampled_from([False, False, False, True])),
        "bn_eps": draw(st.sampled_from([1e-5, 1e-5, 1.0000001e-5, 1.01e-5, 1e-3])),
        "stride_in_1x1": block == "bottleneck" and draw(st.booleans()),
        "form": draw(st.sampled_from(FORMS)),
    }
    try:
        return Architecture(**fields)
    except RequestError:
        return Architecture(**fields | {"shortcut": "B", "form": "grouped", "pre_activation": False})


@st.composite
def preprocessings(draw: Any, channels: int) -> Preprocessing:
    crop_mode = draw(st.sampled_from(CROP_MODES))
    size = draw(st.integers(32, 400))
    shares = st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=channels, max_size=channels)
    return Preprocessing(
        image_size=size,
        resize=size + (draw(st.integers(0, 200)) if crop_mode == "crop" else 0),
        crop_mode=crop_mode,
        interpolation=draw(st.sampled_from(INTERPOLATIONS)),
        mean=tuple(draw(shares)),
        std=tuple(max(value, 0.001) for value in draw(shares)),
        channels=channels,
        exif=draw(st.booleans()),
    )


@st.composite
def networks(draw: Any) -> Network:
    architecture = draw(architectures())
    model = create_model(architecture, seed=draw(st.integers(0, 3))).eval()
    if architecture.in_channels in (1, 3) and draw(st.integers(0, 3)):
        model.preprocessing = draw(preprocessings(architecture.in_channels))
    if architecture.num_classes and draw(st.integers(0, 3)):
        count = architecture.num_classes
        model.classes = tuple(draw(st.lists(st.text(max_size=4), min_size=count, max_size=count)))
    return model


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(model=networks())
def test_what_is_read_back_is_what_was_written(name: str, model: Network) -> None:
    file, write = WRITERS[name]
    with TemporaryDirectory() as folder:
        path = Path(folder) / file
        try:
            write(model, path)
        except RequestError:
            return
        again = load(path)
    whole = name in ("ours", "hub")
    same = {} if whole else {"form": again.architecture.form, "initialisation": again.architecture.initialisation}
    assert again.architecture == model.architecture.change(**same)
    if whole or model.architecture.form == "grouped":
        theirs = again.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())
    if name not in BARE:
        assert (again.preprocessing, again.classes) == (model.preprocessing, model.classes)
