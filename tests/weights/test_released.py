"""The list of public files agrees with torchvision and timm, and files are identified."""

import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image
from torchvision.models import get_model_weights, list_models

from resnext.cli import main
from resnext.model.architecture import Architecture
from resnext.weights import released as module
from resnext.weights.presets import IMAGENET_MEAN, IMAGENET_STD
from resnext.weights.released import (
    MIB,
    PublishedError,
    ReleasedFile,
    find_origin,
    identify_released,
    identify_source,
    load_released,
)
from tests.commands.test_convert import NAMES, content, convert

TORCHVISION = [
    (name, weights)
    for name in list_models()
    if name.startswith(("resnet", "resnext", "wide_resnet"))
    for weights in get_model_weights(name)
]
OURS = {"wide_resnet50_2": "resnet50_1x128d", "wide_resnet101_2": "resnet101_1x128d"}


def by_url(url: str) -> ReleasedFile:
    return next(entry for entry in load_released() if entry.url == url)


@pytest.mark.parametrize(("name", "weights"), TORCHVISION, ids=[f"{name}-{w.name}" for name, w in TORCHVISION])
def test_torchvision_s_own_list_says_the_same(name: str, weights: Any) -> None:
    entry, view, metrics = by_url(weights.url), weights.transforms(), weights.meta["_metrics"]["ImageNet-1K"]
    figure = entry.figures[0]
    assert entry.architecture == OURS.get(name, name)
    assert entry.mib == weights.meta["_file_size"]
    assert entry.sha256 is not None
    assert weights.url.endswith(f"-{entry.sha256}.pth")
    assert figure.top1_error == pytest.approx(100 - metrics["acc@1"])
    assert figure.top5_error == pytest.approx(100 - metrics["acc@5"])
    assert ([figure.image_size], [figure.resize]) == (view.crop_size, view.resize_size)
    assert figure.interpolation == view.interpolation.value


def test_every_torchvision_file_is_listed_once() -> None:
    listed = [entry.url for entry in load_released() if entry.name.startswith("torchvision ")]
    assert sorted(listed) == sorted(weights.url for _, weights in TORCHVISION)


@pytest.mark.parametrize("entry", [e for e in load_released() if e.hub], ids=lambda e: e.hub)
def test_timm_s_own_list_says_the_same(entry: ReleasedFile) -> None:
    cfg = timm.get_pretrained_cfg(str(entry.hub).removeprefix("timm/"))
    assert cfg is not None
    assert cfg.hf_hub_id == entry.hub
    assert (cfg.url, cfg.license) == (entry.url, entry.licence)
    assert all(figure.interpolation == cfg.interpolation for figure in entry.figures)
    if entry.format == "timm":  # the figure that says how this file's network wants its pictures
        view = (cfg.input_size[1], math.floor(cfg.input_size[1] / cfg.crop_pct))
        assert (entry.figures[0].image_size, entry.figures[0].resize) == view
    assert (cfg.mean, cfg.std, cfg.crop_mode) == (IMAGENET_MEAN, IMAGENET_STD, "center")


def test_every_resnext_that_timm_has_and_we_can_build_is_listed() -> None:
    listed = {entry.hub for entry in load_released()}
    for name in timm.list_models("resnext*_*x*d.*", pretrained=True):
        if re.match(r"resnext\d+_", name):  # resnext50d has another stem
            assert f"timm/{name}" in listed


def test_the_three_files_of_the_torch7_release_are_listed_with_the_papers_errors() -> None:
    torch7 = {entry.architecture: entry for entry in load_released() if entry.format == "torch7"}
    assert {name: e.figures[0].top1_error for name, e in torch7.items()} == {
        "resnext50_32x4d": 22.2,
        "resnext101_32x4d": 21.2,
        "resnext101_64x4d": 20.4,
    }
    assert all(entry.licence == "cc-by-nc-4.0" for entry in torch7.values())


def test_every_entry_is_whole() -> None:
    urls = [entry.url for entry in load_released()]
    assert len(set(urls)) == len(urls)
    for entry in load_released():
        assert str(Architecture.parse(entry.architecture)) == entry.architecture
        assert entry.licence in ("bsd-3-clause", "apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-sa-3.0")
        assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{8}", entry.sha256)
        assert entry.figures or entry.note
        for figure in entry.figures:
            assert 10 < figure.top1_error < 35
            assert figure.top5_error is None or 2 < figure.top5_error < figure.top1_error
            assert figure.image_size <= figure.resize
            assert str(figure.resize) in figure.summary_line
            assert figure.source


FILE = ReleasedFile(
    name="a", architecture="resnet50", format="torchvision", licence="mit", figures=(), url="https://x.org/a.pth"
)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """List one file by size and checksum, and others by size or name and format only."""
    path = tmp_path / "renamed.bin"
    path.write_bytes(b"weights" * 1000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    exact = replace(FILE, sha256=digest[:8], mib=round(7000 / MIB, 3), hub="lab/a")
    rough = replace(FILE, name="b", format="torch7", mib=2, url="https://x.org/b.t7")
    named = replace(FILE, name="c", format="pycls", url="https://x.org/c.pyth")
    monkeypatch.setattr(module, "load_released", lambda: (exact, rough, named))
    return path


def name(entry: ReleasedFile | None) -> tuple[str, bool] | None:
    return None if entry is None else (entry.name, entry.is_certain)


def test_a_file_is_known_by_its_checksum_under_any_name(listed: Path) -> None:
    assert name(identify_released({}, listed)) == ("a", True)
    listed.write_bytes(b"weighty" * 1000)
    assert identify_released({}, listed) is None


def test_the_same_first_digits_at_another_size_are_another_file(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tuple(replace(entry, mib=5.0) for entry in module.load_released())
    monkeypatch.setattr(module, "load_released", lambda: wrong)
    assert identify_released({}, listed) is None


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("hf://lab/a", ("a", True)),
        ("hf://lab/a@v2", ("a", True)),
        ("hf://lab/a/model.safetensors@v2", ("a", True)),
        ("hf://lab/b", None),
        ("https://x.org/a.pth", ("a", True)),
        ("https://x.org/a.pth#sha256=00", ("a", True)),
        ("https://x.org/other.pth", None),
    ],
)
@pytest.mark.usefixtures("listed")
def test_hub_ids_and_addresses_are_known(source: str, known: tuple[str, bool] | None) -> None:
    assert name(identify_released({"format": "timm"}, source, "resnet50")) == known


@pytest.mark.usefixtures("listed")
def test_a_file_without_checksum_is_probably_the_one_of_its_format_network_and_size(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    path.write_bytes(bytes(2 * MIB + 100_000))
    assert name(identify_released({"format": "torch7"}, path, "resnet50")) == ("b", False)
    assert identify_released({"format": "torch7"}, path, "resnet101") is None
    assert identify_released({"format": "torchvision"}, path, "resnet50") is None
    path.write_bytes(bytes(4 * MIB))
    assert identify_released({"format": "torch7"}, path, "resnet50") is None


@pytest.mark.usefixtures("listed")
def test_form_and_stride_are_no_part_of_what_was_published(tmp_path: Path) -> None:
    """The released Torch7 files are of form (b), and MSRA's networks have the stride in the 1x1 convolution."""
    (tmp_path / "c.pyth").write_bytes(b"x")
    for architecture in ("resnet50 (form=concatenated)", "resnet50 (stride_in_1x1=True)"):
        assert name(identify_released({"format": "pycls"}, tmp_path / "c.pyth", architecture)) == ("c", False)


@pytest.mark.usefixtures("listed")
def test_a_file_without_size_is_probably_the_one_of_its_name(tmp_path: Path) -> None:
    for file, known in (("c.pyth", ("c", False)), ("d.pyth", None)):
        (tmp_path / file).write_bytes(b"x")
        assert name(identify_released({"format": "pycls"}, tmp_path / file, "resnet50")) == known


def test_what_convert_noted_counts_before_the_file(listed: Path, tmp_path: Path) -> None:
    noted = {"source": find_origin({"format": "torchvision"}, listed).to_dict()}
    assert name(identify_released(noted, tmp_path / "elsewhere.safetensors")) == ("a", True)
    assert identify_released({"source": {"file": "x", "sha256": "00"}}, listed) is None


def test_a_changed_network_is_no_longer_the_published_one_but_keeps_its_licence(listed: Path) -> None:
    changed = {"changed": {"num_classes": [1000, 10]}}
    assert identify_released(changed, listed) is None
    assert name(identify_source(changed, listed)) == ("a", True)


@pytest.mark.parametrize("weights", ["hf://lab/a", "https://x.org/a.pth", "listed"])
def test_a_fine_tuned_network_is_not_the_published_one_but_keeps_its_licence(listed: Path, weights: str) -> None:
    trained = {"init": {"weights": str(listed) if weights == "listed" else weights}, "step": 9}
    assert identify_released(trained, "run") is None
    assert name(identify_source(trained, "run")) == ("a", True)
    assert identify_released({"step": 9}, listed) is None


@pytest.mark.parametrize(
    "noted", [{}, {"sha256": 5, "bytes": "x", "hub": [], "url": {}}, {"bytes": True}, {"file": None}]
)
def test_provenance_that_nobody_vouches_for_does_no_harm(listed: Path, noted: dict[str, Any]) -> None:
    assert identify_released({"source": noted}, listed, "resnet50") is None


@pytest.mark.parametrize("path", ["nowhere", ".", "a\0b", "x" * 5000])
def test_a_path_that_is_no_file_is_not_recognised(path: str) -> None:
    assert identify_released({}, path) is None


# what convert and evaluate say of a public file


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "in.safetensors"
    path.write_bytes(content())
    return path


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> ReleasedFile:
    """The list of public files holds ``weights``, with one figure."""
    figure = PublishedError(
        top1_error=22.2, top5_error=None, data="val", image_size=64, resize=72, interpolation="bicubic", source="README"
    )
    entry = ReleasedFile(
        name="the release",
        architecture="resnext50_2x4d",
        format="resnext",
        licence="cc-by-nc-4.0",
        figures=(figure,),
        mib=round(len(content()) / MIB, 3),
        sha256=hashlib.sha256(content()).hexdigest()[:8],
        note="a note",
    )
    monkeypatch.setattr(module, "load_released", lambda: (entry,))
    return entry


def judged(weights: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Output of ``resnext evaluate`` on one image per class."""
    data = weights.parent / "pictures"
    for name in NAMES:
        (data / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 70), (len(name) * 40, 90, 10)).save(data / name / "1.png")
    capsys.readouterr()
    assert main(["evaluate", str(weights), "--data", str(data), "--workers", "0"]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("released")
def test_evaluate_shows_the_published_figures_under_the_measured_one(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = weights.parent / "copy.safetensors"
    assert convert(weights, out) == 0
    lines = judged(out, capsys).splitlines()
    start = lines.index("these are the weights of the release: a note")
    heading, measured, published = (line.split() for line in lines[start + 1 : start + 4])
    assert heading == ["top-1", "error", "top-5", "error", "on"]
    assert measured[0] == "measured"
    assert measured[2:5] == ["%", "0.00", "%"]
    assert " ".join(measured[5:]) == "5 images of pictures all · shorter side 72, centre crop 64×64, bicubic"
    assert " ".join(published) == "published 22.20 % val · shorter side 72, centre crop 64×64, bicubic · README"
    assert convert(out, weights.parent / "grey.safetensors", "--in-channels", "1") == 0
    assert "published" not in judged(weights.parent / "grey.safetensors", capsys)


@pytest.mark.usefixtures("released")
def test_the_card_of_a_known_file_has_its_figures_and_licence(weights: Path) -> None:
    assert convert(weights, weights.parent / "hub") == 0
    card = (weights.parent / "hub" / "README.md").read_text()
    assert "published for these weights: top-1 error 22.20 % · val · shorter side 72, centre crop 64×64" in card
    assert "- a note" in card
    assert "cc-by-nc-4.0, the licence of the release" in card
    assert convert(weights.parent / "hub", weights.parent / "other", "--num-classes", "2") == 0
    card = (weights.parent / "other" / "README.md").read_text()
    assert "22.20" not in card
    assert "cc-by-nc-4.0, the licence of the release" in card


def test_a_file_that_only_resembles_a_public_one_does_not_get_its_licence(
    weights: Path, released: ReleasedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    rough = replace(released, architecture="resnext14_2x4d", sha256=None, mib=round(len(content()) / MIB))
    monkeypatch.setattr(module, "load_released", lambda: (rough,))
    assert convert(weights, weights.parent / "hub") == 0
    card = (weights.parent / "hub" / "README.md").read_text()
    assert "license: other\n" in card
    assert "They look like the release, whose licence is cc-by-nc-4.0." in card
    assert "published for the release, which these weights are likely to be: top-1 error 22.20 %" in card
