"""``resnext prune`` and ``resnext grow``: files, tables, fine-tuning, exports, and what is refused."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import resnext
from resnext.commands import convert, evaluate, export, grow, info, prune
from resnext.data.sources.digits import open_digits
from resnext.deploy.exported import open_exported
from resnext.errors import RequestError
from resnext.model.network import create_model
from resnext.settings import DataSettings
from resnext.training.resume import resolve_resumed_recipe
from resnext.weights.native import save
from tests.commands.conftest import digits_network, run_command
from tests.conftest import TINY
from tests.training.helpers import read_changed, train, write_photos

OPTIONS = ("--engine", "none", "--images", "64", "--recalibrate", "128", "--device", "cpu")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Weights of a network with 4 paths in each block."""
    base = digits_network()
    model = create_model(base.architecture.change(cardinality=4), seed=0)
    model.preprocessing, model.classes = base.preprocessing, base.classes
    save(model, tmp_path / "whole.safetensors")
    return tmp_path / "whole.safetensors"


def test_a_pruned_file_is_an_ordinary_one(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unequal stages: evaluate, convert, info and export take it, and the export computes the same without torch."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "pruned.safetensors"
    options = ("--source", "digits", "--out", str(out), *OPTIONS)
    assert run_command(prune, str(whole), "--cardinality", "1,3,2", *options) == 0
    said = capsys.readouterr().out
    for words in (
        "whole",
        "resnext11_4x4d",
        "pruned",
        "resnext11_1-3-2x4d",
        "BN re-estimated",
        "359 held-out",
        str(out),
    ):
        assert words in said
    model = resnext.load(out)
    assert model.architecture.cardinalities == (1, 3, 2)
    about = model.provenance["prune"]
    assert about["parent"] == {"file": whole.name, "sha256": hashlib.sha256(whole.read_bytes()).hexdigest()}
    assert about["recalibrated_images"] == 128
    val = open_digits(DataSettings()).val
    error = resnext.evaluate(model, val).top1_error
    assert f"{error:.2f} %" in said.split("BN re-estimated")[1].split("\n")[0]

    assert run_command(evaluate, str(out), "--source", "digits", "--device", "cpu") == 0
    assert f"{error:.2f} %" in capsys.readouterr().out
    assert run_command(info, "resnext11_1-3-2x4d") == 0
    assert run_command(convert, str(out), str(tmp_path / "branched.safetensors"), "--form", "branched") == 0
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resnext.load(tmp_path / "branched.safetensors")(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(RequestError, match="torchvision's ResNet has"):
        run_command(convert, str(out), str(tmp_path / "x.pth"))

    assert run_command(export, str(out), "--to", "onnx", "--out", str(tmp_path / "pruned.onnx")) == 0
    predictor = resnext.Predictor(open_exported(tmp_path / "pruned.onnx"))
    assert predictor.architecture == model.architecture
    size = model.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 1), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - model.preprocessing.mean[0]
    expected = model(images / model.preprocessing.std[0]).detach().numpy()
    np.testing.assert_allclose(predictor.infer(pixels).logits, expected, rtol=1e-3, atol=1e-4)


def test_packed_engines_compute_the_pruned_network(whole: Path) -> None:
    from resnext.deploy.fold import fold
    from resnext.deploy.pack import pack_groups

    pruned = resnext.prune(resnext.load(whole), cardinality=(3, 1, 2))
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for channels in (8, 16):
            torch.testing.assert_close(pack_groups(fold(pruned), channels)(x), pruned(x), rtol=1e-3, atol=1e-4)


def test_without_data_the_weights_decide(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(prune, str(whole), "--macs", "100k", "--engine", "pytorch") == 0
    said = capsys.readouterr().out
    assert "ranked by magnitude" in said
    assert "ms" in said
    assert "fp32 on pytorch" in said
    (out,) = tmp_path.glob("resne*.safetensors")
    model = resnext.load(out)
    assert resnext.complexity(model, model.preprocessing.image_size).macs <= 100_000
    with pytest.raises(RequestError, match=rf"{out.name} exists; --overwrite replaces it"):
        run_command(prune, str(whole), "--macs", "100k", "--engine", "none")
    assert run_command(prune, str(whole), "--macs", "100k", "--engine", "none", "--overwrite") == 0


def test_a_run_is_pruned_on_its_own_data_and_trained_with_itself_as_the_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    run = train(read_changed(recipe, {"model__cardinality": 4, "train__epochs": 1}), tmp_path / "run")
    tuned, out = tmp_path / "tuned", tmp_path / "pruned.safetensors"
    finetuning = ("--finetune", str(recipe), "--run", str(tuned), "--train.epochs", "1", "--distill.alpha", "0.7")
    command = (str(run.path), "--cardinality", "2", "--out", str(out), *finetuning, *OPTIONS)
    assert run_command(prune, *command) == 0
    said = capsys.readouterr().out
    assert "fine-tuned" in said
    model = resnext.load(tuned)
    assert model.architecture.name == "resnext11_2x4d (base_channels=4)"
    assert model.provenance["init"]["prune"]["paths"] == [[4, 4, 4], [2, 2, 2]]
    teacher = run.weights("best")
    assert model.provenance["distill"]["sha256"] == hashlib.sha256(teacher.read_bytes()).hexdigest()
    settings = resnext.open_run(tuned).recipe
    assert (settings.init.weights, settings.distill.weights) == (str(out), str(teacher))
    assert (settings.distill.alpha, settings.model.name) == (0.7, None)
    assert resolve_resumed_recipe(resnext.open_run(tuned).files, settings) == settings
    with pytest.raises(RequestError, match=r"the run directory .* is not empty"):
        run_command(prune, *command, "--overwrite")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cardinality", "4"), "has 4 paths in its stages; pruning leaves fewer, not 4"),
        (("--cardinality", "two"), "--cardinality 'two' must be a whole number"),
        (("--cardinality", "1,2"), "2 numbers of paths were given"),
        ((), "give one of cardinality, macs and latency"),
        (("--macs", "9G"), "nothing to prune"),
        (("--macs", "1"), "1 MACs cannot be reached"),
        (("--latency", "1"), "--latency needs an engine"),
        (("--cardinality", "2", "--train.epochs", "3"), "--train.epochs is for fine-tuning: give --finetune RECIPE"),
        (("--cardinality", "2", "--run", "x"), "--run is for fine-tuning"),
        (("--cardinality", "2", "--data", "photos"), "photos is one folder of classes: set the share to hold out"),
        (("--cardinality", "2", "--data", "photos", "--val-fraction", "0.5"), "the classes of the model and of"),
        (("--cardinality", "2", "--data", "photos", "--val-fraction", "5"), "val_fraction"),
        (("--cardinality", "2", "--checkpoint", "last"), "is not a run"),
    ],
)
def test_bad_requests_are_one_sentence(
    whole: Path, tmp_path: Path, words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "photos" in words:
        write_photos(tmp_path / "photos", "cat", "dog", count=4)
    with pytest.raises(RequestError) as caught:
        run_command(prune, str(whole), "--engine", "none", *words)
    assert says in str(caught.value)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [whole.name]


def test_one_path_a_block_cannot_be_pruned(tmp_path: Path) -> None:
    save(create_model("resnet29", base_channels=4, width=4, num_classes=2), tmp_path / "w.safetensors")
    with pytest.raises(RequestError, match=r"its blocks have one path each \(C = 1\)"):
        run_command(prune, str(tmp_path / "w.safetensors"), "--cardinality", "1", "--engine", "none")


def test_a_recipe_of_other_classes_is_refused_before_the_work(whole: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "photos.yaml"
    photos = write_photos(tmp_path / "photos", "cat", "dog", count=4)
    recipe.write_text(f"data: {{source: folder, path: {photos}, image_size: 16, val_fraction: 0.5}}\n")
    words = ("--cardinality", "2", "--finetune", str(recipe), "--run", str(tmp_path / "run"))
    with pytest.raises(RequestError, match=r"the classes of the model and of .*photos.yaml differ"):
        run_command(prune, str(whole), *words, "--engine", "none")


def test_growing_writes_the_same_function(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grown.safetensors"
    assert run_command(grow, str(whole), "--cardinality", "6", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "resnext11_4x4d (base_channels=4) -> resnext11_6x4d (base_channels=4)" in said
    model, grown = resnext.load(whole), resnext.load(out)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grown(x), model(x), rtol=1e-5, atol=1e-6)
    about = grown.provenance["grow"]
    assert about["parent"]["sha256"] == hashlib.sha256(whole.read_bytes()).hexdigest()
    assert (about["paths"], about["seed"]) == ([[4, 4, 4], [6, 6, 6]], 0)
    with pytest.raises(RequestError, match="exists; --overwrite"):
        run_command(grow, str(whole), "--cardinality", "6", "--out", str(out))
    with pytest.raises(RequestError, match=r"growing needs more, not 4 \(resnext prune takes paths away\)"):
        run_command(grow, str(whole), "--cardinality", "4")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "pruned.onnx"), "pruned.onnx must end in .safetensors"),
        (("--multiple", "2"), "--multiple rounds what a budget leaves"),
        (("--val-fraction", "0.2"), "--val-fraction is for a folder given by --data"),
        (("--finetune", "small/digits", "--model.name", "resnet29"), "--model.name has no place here"),
        (("--finetune", "small/digits", "--init.weights", "x.safetensors"), "--init.weights has no place here"),
        (("--train.epochs", "3"), "--train.epochs is for fine-tuning"),
    ],
)
def test_a_word_that_would_be_ignored_is_refused(
    whole: Path, words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=re.escape(says)):
        run_command(prune, str(whole), "--cardinality", "2", *words)
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]


def test_grow_writes_no_weights_under_the_name_of_another_format(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"must end in \.safetensors"):
        run_command(grow, str(whole), "--cardinality", "6", "--out", str(tmp_path / "grown.pth"))
