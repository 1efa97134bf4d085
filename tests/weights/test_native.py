"""Our weights file: read back equal, opened by anybody, and refused in one sentence when it is not one."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import resnext
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from tests.weights.adapters.adapter_helpers import get_error


def tiny(form: str = "grouped") -> Network:
    model = resnext.create_model("resnext11_2x4d", base_channels=4, num_classes=2, form=form, seed=0)
    model.classes = ("cat", "dög <b>")
    model.preprocessing = Preprocessing(image_size=16, resize=20, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
    return model


@pytest.mark.parametrize("form", ["grouped", "concatenated", "branched"])
def test_a_network_survives_its_file(tmp_path: Path, form: str) -> None:
    model = tiny(form).eval()
    resnext.save(model, tmp_path / "w.safetensors")
    again = resnext.load(tmp_path / "w.safetensors")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(x), model(x))
    assert (again.architecture, again.classes, again.preprocessing) == (
        model.architecture, model.classes, model.preprocessing,
    )  # fmt: skip
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_plain_safetensors_opens_it(tmp_path: Path) -> None:
    model = tiny()
    resnext.save(model, tmp_path / "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    assert tensors.keys() == model.state_dict().keys()


def rewritten(path: Path, change: object) -> Path:
    """The file with its metadata or tensors changed by ``change(about, tensors)``."""
    from safetensors import safe_open

    resnext.save(tiny(), path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["resnext"])
    tensors = load_file(path)
    change(about, tensors)  # type: ignore[operator]
    save_file(tensors, path, metadata={"resnext": json.dumps(about)})
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a, t: t.pop("fc.bias"), "1 missing (fc.bias)"),
        (lambda a, t: t.update({"fc.bia": t.pop("fc.bias")}), "did you mean 'fc.bias'"),
        (lambda a, t: t.update({"fc.bias": torch.zeros(3)}), "fc.bias has shape (3,), the network needs (2,)"),
        (lambda a, t: t.update({"fc.bias": torch.zeros(2, dtype=torch.long)}), "fc.bias is torch.int64"),
        (lambda a, t: a["architecture"].update(depht=3), "unknown field 'depht'; did you mean 'depth'"),
        (lambda a, t: a["architecture"].update(depth=12, blocks=None), "not 9n+2"),
        (lambda a, t: a.update(classes=["one"]), "1 class names for 2 outputs"),
        (lambda a, t: a.update(classes=[1, 2]), "not a list of names"),
        (lambda a, t: a.update(version=99), "version 99"),
        (lambda a, t: a.update(version=0), "version 0"),
        (lambda a, t: a.update(version=[1] * 100_000), "version [1, 1"),
        (lambda a, t: a["architecture"].update(stem="\x1b[31m\n" + "x" * 100_000), r"stem '\x1b[31m\nxxx"),
        (lambda a, t: a["preprocessing"].update(mean=[0.5]), "mean"),
        (lambda a, t: a.pop("architecture"), "metadata has no architecture"),
    ],
)
def test_a_file_that_does_not_fit_says_why(tmp_path: Path, change: object, says: str) -> None:
    path = rewritten(tmp_path / "w.safetensors", change)
    said = get_error(lambda: resnext.load(path), str(path))
    assert says in said
    assert len(said) < 1300


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 60_000), flip=st.integers(0, 600))
def test_a_damaged_file_never_ends_in_anything_but_one_clear_error(tmp_path: Path, cut: int, flip: int) -> None:
    path = tmp_path / "w.safetensors"
    if not (tmp_path / "good").exists():
        resnext.save(tiny(), tmp_path / "good")
    data = bytearray((tmp_path / "good").read_bytes())
    data[flip] ^= 0x15
    path.write_bytes(data[: max(0, len(data) - cut)])
    try:
        assert isinstance(resnext.load(path), Network)
    except RequestError as error:
        assert str(path) in str(error)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no weights file or run directory"):
        resnext.load(tmp_path / "nothing")


def test_a_newer_programs_file_is_read_where_its_function_is_known(tmp_path: Path) -> None:
    """New keys are passed over; new fields of the architecture stand in a file only where they say something."""
    path = rewritten(tmp_path / "w.safetensors", lambda a, t: a.update(colour_profile="sRGB", signed_by={"who": "x"}))
    assert isinstance(resnext.load(path), Network)
    resnext.save(tiny(), path)
    assert "bn_eps" not in path.read_bytes()[:4000].decode("utf-8", "replace")
    model = resnext.create_model("resnext11_2x4d", base_channels=4, num_classes=2, bn_eps=1e-3, stride_in_1x1=True)
    resnext.save(model, path)
    again = resnext.load(path)
    assert (again.architecture.bn_eps, again.architecture.stride_in_1x1) == (1e-3, True)
    assert again.architecture == model.architecture


def test_what_is_known_of_weights_stays_in_the_file(tmp_path: Path) -> None:
    model = tiny()
    model.provenance = {"format": "torch7", "source": {"file": "x.t7"}, "notes": ["folded a bias"]}
    resnext.save(model, tmp_path / "w")
    again = resnext.load(tmp_path / "w")
    assert again.provenance == model.provenance
    resnext.save(again, tmp_path / "v", {"recipe": "by hand"})
    assert resnext.load(tmp_path / "v").provenance["recipe"] == "by hand"


def test_the_metadata_of_a_network_with_one_cardinality_stays_as_it_was(tmp_path: Path) -> None:
    from safetensors import safe_open

    resnext.save(resnext.create_model("resnext11_2x4d", num_classes=2), tmp_path / "w.safetensors", {})
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata()["resnext"] == (
            '{"version": 1, "architecture": {"depth": 11, "cardinality": 2, "width": 4, "stem": "cifar", '
            '"block": "bottleneck", "form": "grouped", "shortcut": "B", "pre_activation": false, "num_classes": 2, '
            '"in_channels": 3, "base_channels": 64, "initialisation": "release", "blocks": [1, 1, 1], '
            '"stage_widths": [8, 16, 32], "stage_channels": [256, 512, 1024]}, '
            '"preprocessing": null, "classes": null, "provenance": {}}'
        )


@pytest.mark.parametrize("form", ["grouped", "concatenated", "branched"])
@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_a_network_of_unequal_stages_survives_its_file(tmp_path: Path, form: str, block: str) -> None:
    blocks = {"blocks": (1, 1, 1), "block": block, "base_channels": 4, "num_classes": 2}
    a = Architecture(stage_cardinalities=(2, 3, 1), width=4, stem="cifar", form=form, **blocks)
    model = resnext.create_model(a, seed=0).eval()
    resnext.save(model, tmp_path / "w.safetensors")
    again = resnext.load(tmp_path / "w.safetensors")
    x = torch.randn(2, 3, 16, 16)
    assert again.architecture == a
    assert torch.equal(again(x), model(x))
