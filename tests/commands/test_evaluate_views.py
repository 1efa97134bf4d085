"""``resnext evaluate`` end to end: views, ensembles, restricted classes, ReaL labels, ImageNet-C and ImageNet-5K."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnext.cli import main
from resnext.data.imagenet_classes import imagenet_classes, imagenet_synsets
from resnext.data.preprocessing import Preprocessing
from resnext.evaluation.suites.imagenet_c import CORRUPTIONS
from resnext.model.network import create_model
from resnext.weights import load
from resnext.weights.native import save
from tests.commands.conftest import digits_network
from tests.commands.test_evaluate import digits_folder, evaluate, metrics

SHARK, TENCH = imagenet_synsets()[3], imagenet_synsets()[0]
MORE = ("n00000001", *imagenet_synsets())


pytestmark = pytest.mark.usefixtures("one_thread", "blank_figures")


def colour(size: int = 16) -> Preprocessing:
    return Preprocessing(image_size=size, resize=size, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)


def weights(path: Path, classes: tuple[str, ...] | None, *favourites: int, size: int = 16, seed: int = 0) -> Path:
    """A network of 1000 outputs, or as many as ``classes``, whose predictions do not depend on the image."""
    model = create_model("resnext11_2x4d", seed=seed, base_channels=4, num_classes=len(classes or imagenet_synsets()))
    with torch.no_grad():
        model.fc.weight.zero_()
        for place, output in enumerate(favourites):
            model.fc.bias[output] = 1000.0 - place
    model.preprocessing, model.classes = colour(size), classes
    save(model, path)
    return path


def folder(root: Path, files: Sequence[str], size: tuple[int, int] = (20, 16)) -> Path:
    for number, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("view", ["center+flip", "ten-crop", "dense:8,12", "dense:8+flip"])
@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_the_view_is_part_of_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], view: str, combine: str
) -> None:
    save(digits_network(), tmp_path / "net.safetensors")
    out = tmp_path / "out"
    arguments = ("--data", digits_folder(tmp_path / "data"), "--view", view, "--combine", combine, "--workers", 0)
    assert evaluate(tmp_path / "net.safetensors", *arguments, "--out", out) == 0
    assert f"mean of {combine}, bicubic" in capsys.readouterr().out
    about: Any = metrics(out)["protocol"]
    assert (about["view"], about["combine"]) == (view, combine)
    assert metrics(out)["n"] == 20


def test_a_change_of_size_is_printed_and_keeps_the_share_that_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = weights(tmp_path / "net.safetensors", None, 0)
    data = folder(tmp_path / "val", [f"{TENCH}/a.png", f"{SHARK}/b.png"], (60, 50))
    for arguments, words in (
        (("--image-size", 32), "shorter side 32, centre crop 32×32"),
        (("--image-size", 32, "--resize", 40), "shorter side 40, centre crop 32×32"),
        (("--resize", 18), "shorter side 18, centre crop 16×16"),
    ):
        assert evaluate(net, "--data", data, "--workers", 0, *arguments) == 0
        assert words in capsys.readouterr().out
    assert evaluate(net, "--data", data, "--resize", 15) == 2
    assert "no centre crop fits" in capsys.readouterr().err


def test_an_ensemble_names_its_networks_whatever_they_call_imagenets_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first network predicts tench as confidently as the others shark, and is outvoted."""
    names = (None, imagenet_classes(), imagenet_synsets())
    nets = [
        weights(tmp_path / f"{i}.safetensors", classes, favourite, size=16 + 16 * (i == 2))
        for i, (classes, favourite) in enumerate(zip(names, (0, 3, 3), strict=True))
    ]
    data = folder(tmp_path / "val", [f"{TENCH}/a.png", f"{SHARK}/b.png"])
    out = tmp_path / "out"
    assert evaluate(*nets, "--data", data, "--workers", 0, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "ensemble of 3 (mean of probabilities): weights 0.safetensors, weights 1.safetensors, weights 2" in shown
    assert "centre crop 16×16, bicubic | shorter side 16, centre crop 16×16" in shown
    assert [row["predicted"] for row in rows(out / "images.csv")] == ["tiger shark"] * 2
    assert float(rows(out / "images.csv")[0]["probability"]) == pytest.approx(2 / 3)
    about: Any = metrics(out)["protocol"]
    assert [one["weights"] for one in about["ensemble"]] == [f"{i}.safetensors" for i in range(3)]
    assert [one["image_size"] for one in about["ensemble"]] == [16, 16, 32]
    assert evaluate(*nets, "--data", data, "--workers", 0, "--combine", "logits", "--out", out) == 0
    assert float(rows(out / "images.csv")[0]["probability"]) == pytest.approx(1)


def test_networks_of_other_classes_make_no_ensemble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nets = [weights(tmp_path / f"{i}.safetensors", classes) for i, classes in enumerate((None, MORE))]
    assert evaluate(*nets, "--data", tmp_path) == 2
    assert "1000 outputs and" in capsys.readouterr().err
    nets = [weights(tmp_path / f"{i}.safetensors", classes) for i, classes in enumerate((("a", "b"), ("a", "c")))]
    assert evaluate(*nets, "--data", tmp_path) == 2
    assert "only the model has 'b'" in capsys.readouterr().err
    model = load(nets[0])
    model.classes = None
    save(model, tmp_path / "nameless.safetensors")
    assert evaluate(tmp_path / "nameless.safetensors", *nets, "--data", tmp_path) == 2
    assert "only the model has 'b'" in capsys.readouterr().err


def test_a_network_of_more_synsets_is_judged_on_all_its_outputs_or_on_the_thousand(tmp_path: Path) -> None:
    """Section 5.2: in the 5K-way evaluation a prediction outside of the 1K classes is an error."""
    net = weights(tmp_path / "net.safetensors", MORE, 0, MORE.index(SHARK))
    data = folder(tmp_path / "val", [f"{SHARK}/a.png", f"{SHARK}/b.png", f"{TENCH}/c.png"])
    out = tmp_path / "out"
    assert evaluate(net, "--data", data, "--workers", 0, "--out", out) == 0
    assert metrics(out)["top1_error"] == 100.0
    assert len(metrics(out)["classes"]) == 1001  # type: ignore[arg-type]
    assert evaluate(net, "--data", data, "--workers", 0, "--restrict", "imagenet1k", "--out", out) == 0
    assert metrics(out)["top1_error"] == pytest.approx(100 / 3)
    assert metrics(out)["classes"] == list(imagenet_synsets())
    about: Any = metrics(out)["protocol"]
    assert about["restricted_to"] == "1,000 classes (imagenet1k)"
    assert evaluate(net, "--data", data, "--workers", 0, "--restrict", "data", "--out", out) == 0
    assert metrics(out)["classes"] == sorted([SHARK, TENCH])


def test_imagenet_v2s_numbered_folders_are_the_official_classes(tmp_path: Path) -> None:
    net = weights(tmp_path / "net.safetensors", None, 10)
    data = folder(tmp_path / "v2", [f"{number}/a.png" for number in (0, 1, 2, 9, 10, 100)])
    assert evaluate(net, "--data", data, "--workers", 0, "--out", tmp_path / "out") == 0
    right = [row["path"] for row in rows(tmp_path / "out" / "images.csv") if row["label"] == row["predicted"]]
    assert right == ["10/a.png"]


def test_real_labels_stand_beside_the_ordinary_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = weights(tmp_path / "net.safetensors", None, 3)
    names = [f"{TENCH}/ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2, 3)]
    data = folder(tmp_path / "val", [*names, f"{SHARK}/ILSVRC2012_val_00000004.JPEG"])
    real = tmp_path / "real.json"
    real.write_text(json.dumps([[0, 3], [], [0], [3], *([[1]] * 49_996)]))
    out = tmp_path / "out"
    assert evaluate(net, "--data", data, "--real", real, "--workers", 0, "--out", out) == 0
    assert "ReaL error         33.33 %  (1 of 3 wrong, 1 without a label left out" in capsys.readouterr().out
    assert metrics(out)["top1_error"] == 75.0
    values: Any = metrics(out)["real"]
    assert (values["n"], values["left_out"], values["correct1"]) == (3, 1, 2)
    verdicts = {row["path"][-6:-5]: row["real"] for row in rows(out / "images.csv")}
    assert verdicts == {"1": "right", "2": "no label", "3": "wrong", "4": "right"}
    other = folder(tmp_path / "other", [f"{TENCH}/a.png", f"{SHARK}/b.png"])
    assert evaluate(net, "--data", other, "--real", real, "--workers", 0) == 2
    assert "not to 'n01440764/a.png'" in capsys.readouterr().err


def imagenet_c(root: Path, corruptions: Sequence[str] = CORRUPTIONS) -> Path:
    """For every severity s: s images of a shark and one of a tench."""
    for corruption in corruptions:
        for severity in range(1, 6):
            names = [f"{SHARK}/{i}.png" for i in range(3)] + [f"{TENCH}/t.png"]
            folder(root / corruption / str(severity), names, (16, 16))
    return root


def test_imagenet_c_has_an_error_of_each_and_an_mce(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = weights(tmp_path / "net.safetensors", imagenet_classes(), 3)
    data, out = imagenet_c(tmp_path / "C"), tmp_path / "out"
    assert evaluate(net, "--corruptions", data, "--workers", 0, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "mCE 32.34 % (of AlexNet's errors); mean error 25.00 % over 15 corruptions" in shown
    assert "300 images of C (2 of 1,000 classes) · shorter side 16, centre crop 16×16" in shown
    values = json.loads((out / "corruptions.json").read_text())
    assert values["errors"] == dict.fromkeys(CORRUPTIONS, 25.0)
    table = rows(out / "corruptions.csv")
    assert len(table) == 75
    assert list(table[0]) == ["corruption", "severity", "images", "wrong", "top1_error", "low95", "high95"]
    assert list(table[0].values())[:5] == ["gaussian_noise", "1", "4", "1", "25.0"]
    assert (out / "corruptions.png").read_bytes().startswith(b"\x89PNG")


def test_stored_corrupted_pictures_are_not_cropped_again(tmp_path: Path) -> None:
    model = create_model("resnext11_2x4d", seed=0, base_channels=4, num_classes=1000)
    model.preprocessing = Preprocessing(image_size=16, resize=24, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
    save(model, tmp_path / "net.safetensors")
    data, out = imagenet_c(tmp_path / "C", ("fog",)), tmp_path / "out"
    assert evaluate(tmp_path / "net.safetensors", "--corruptions", data, "--workers", 0, "--out", out) == 0
    values = json.loads((out / "corruptions.json").read_text())
    assert values["protocol"]["resize"] == 16
    assert values["mce"] is None
    assert "70 of the 75 are missing" in values["no_mce_because"]


def test_corruptions_are_made_of_any_labelled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = weights(tmp_path / "net.safetensors", ("cat", "dog"), 1, size=32)
    data, out = folder(tmp_path / "photos", ["cat/a.png", "dog/b.png", "dog/c.png"], (50, 40)), tmp_path / "out"
    arguments = ("--data", data, "--corrupt", "fog,pixelate", "--severity", "5,1", "--out", out, "--workers", 0)
    assert evaluate(net, *arguments) == 0
    shown = capsys.readouterr().out
    assert "12 images of photos all, fog, pixelate at severity 1, 5 · shorter side 32, centre crop 32×32" in shown
    assert "corrupted after the crop by imagecorruptions, seed 0" in shown
    assert "no mCE: the images were corrupted here, not taken from ImageNet-C" in shown
    assert [(row["corruption"], row["severity"]) for row in rows(out / "corruptions.csv")] == [
        *(("fog", "1"), ("fog", "5"), ("pixelate", "1"), ("pixelate", "5"))
    ]
    assert evaluate(net, *arguments) == 0  # replaces its own
    (out / "corruptions.json").write_text("{}")
    assert evaluate(net, *arguments) == 2
    assert "which resnext did not write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--view", "ten-corp"), "did you mean 'ten-crop'"),
        (("--view", "dense:8"), "scale 8 is smaller than the 16 pixels"),
        (("--combine", "votes"), "invalid choice"),
        (("--image-size", "0"), "at least 1"),
        (("--restrict", "nothing.txt"), "not a list of class names"),
        (("--real", "nothing.json"), "not a file of ReaL labels"),
        (("--severity", "3"), "--severity needs --corrupt"),
        (("--corrupt", "fog", "--severity", "0"), "different numbers from 1 to 5"),
        (("--corrupt", "fog", "--severity", "1,1"), "different numbers from 1 to 5"),
        (("--corrupt", "fog,fog"), "twice"),
        (("--corrupt", "fog"), "at least 32 pixels"),
        (("--corrupt", "fog", "--corruptions", "C"), "give only one of them"),
        (("--corrupt", "fog", "--view", "ten-crop"), "view ten-crop is impossible"),
        (("--corrupt", "fog", "--real", "r"), "cannot be combined with --corrupt"),
        (("--corruptions", "C"), "leave out --data and --source"),
    ],
)
def test_wrong_questions_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], part: str
) -> None:
    net = weights(tmp_path / "net.safetensors", None, 0)
    data = folder(tmp_path / "val", [f"{TENCH}/a.png", f"{SHARK}/b.png"])
    assert main(["evaluate", str(net), "--data", str(data), "--device", "cpu", "--workers", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert len(error.strip().splitlines()) == 1
