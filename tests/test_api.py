"""The Python API: each call beside an independent computation."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.resnet import Bottleneck, ResNet

import resnext
from resnext import api
from resnext.cli import main
from resnext.data import open_data
from resnext.data.preprocessing import Preprocessing
from resnext.detection.settings import DetectRecipe
from resnext.detection.weights import load_detector
from resnext.errors import RequestError, WorkError
from resnext.evaluation.embed import embed
from resnext.evaluation.predict import predict
from resnext.model.network import Network, create_model
from resnext.recipe import parse_recipe
from resnext.run import Run, open_run
from resnext.settings import Recipe
from resnext.training.callbacks import EpochResult
from resnext.weights import load
from resnext.weights.native import save
from tests.detection.shape_images import folder
from tests.detection.shape_images import recipe as shapes

TEXT = """
model: {name: resnext11_2x4d, base_channels: 4}
data: {source: digits, max_train_images: 64, max_val_images: 50}
train: {epochs: 2, batch_size: 32, device: cpu}
"""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[EpochResult]]:
    """A run of two epochs, and what the callback got."""
    place, epochs = tmp_path_factory.mktemp("api"), list[EpochResult]()
    return api.train(parse_recipe(TEXT), place / "run", callback=epochs.append, quiet=True), epochs


def test_all_names_are_there_and_described() -> None:
    assert dir(resnext) == sorted(resnext.__all__)
    for name in set(resnext.__all__) - {"__version__", "train", "evaluate", "detect"}:
        assert getattr(resnext, name).__doc__
    for call in (api.train, api.evaluate, api.detect, api.load_recipe):
        assert "Raises:" in (call.__doc__ or "")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        getattr(resnext, "trian")  # noqa: B009 - a type checker knows that it is missing


def test_the_import_is_light() -> None:
    code = "import sys, resnext; print({'torch', 'numpy', 'yaml', 'argparse'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_training_calls_back_after_each_epoch_with_its_row_of_metrics(trained: tuple[Run, list[EpochResult]]) -> None:
    run, epochs = trained
    with open(run.path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    for epoch, row in zip(epochs, rows, strict=True):
        assert {"epoch", "step", *epoch.metrics} == set(row)
        assert (epoch.epoch, epoch.step) == (int(row["epoch"]), int(row["step"]))
        assert all(row[name] == ("" if value is None else str(value)) for name, value in epoch.metrics.items())
    best = min(epochs, key=lambda epoch: epoch.metrics["top1_error"] or 0.0)
    assert run.files.state("best")["position"]["epoch"] == best.epoch
    assert [epoch.is_best for epoch in epochs][best.epoch - 1]


def test_a_run_has_its_settings_metrics_weights_and_evaluation(trained: tuple[Run, list[EpochResult]]) -> None:
    run = open_run(str(trained[0].path))
    assert isinstance(run.recipe, Recipe)
    assert run.recipe.train.epochs == 2
    with open(run.path / "metrics.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert list(run.metrics) == header
    for number, name in enumerate(header):
        assert run.metrics[name].dtype == (np.int64 if name in ("epoch", "step", "bad_images") else np.float64)
        expected = [float(row[number]) if row[number] else np.nan for row in rows]
        np.testing.assert_array_equal(run.metrics[name], expected)
    assert len(run.speed["seconds"]) == 2
    assert run.evaluation == json.loads((run.path / "evaluation" / "metrics.json").read_text())
    assert run.weights("last").parent == run.path / "checkpoints" / "last"
    state, again = run.load("last").state_dict(), load(run.weights("last")).state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state)
    with pytest.raises(RequestError, match="use load"):
        run.load_detector()
    with pytest.raises(RequestError, match="no run directory"):
        open_run(run.path / "missing")


def test_a_detection_run_opens_as_one(tmp_path: Path) -> None:
    folder(tmp_path / "data", train=4, val=2)
    settings = api.load_recipe(shapes(tmp_path / "recipe.yaml", tmp_path / "data"))
    epochs: list[EpochResult] = []
    run = api.train(settings, tmp_path / "run", callback=epochs.append, overrides={"train.epochs": 1}, quiet=True)
    assert isinstance(run.recipe, DetectRecipe)
    assert len(epochs) == len(run.metrics["train_loss"]) == 1
    detector = run.load_detector()
    picture = next((tmp_path / "data").rglob("*.png"))
    (found,) = api.detect(detector, picture)
    (again,) = api.detect(load_detector(run.path), [Image.open(picture)])
    np.testing.assert_array_equal(found.boxes, again.boxes)
    with pytest.raises(RequestError, match="use load_detector"):
        run.load()


def test_overrides_replace_settings_of_files_and_of_recipes(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    recipe = api.load_recipe(path, {"train.epochs": 1})
    assert recipe == parse_recipe(TEXT, overrides={"train.epochs": 1})
    run = api.train(recipe, tmp_path / "run", overrides={"train.seed": 3}, quiet=True)
    assert (run.recipe.train.epochs, run.recipe.train.seed) == (1, 3)
    before = run.weights("last").read_bytes()
    again = api.train(path, run.path, overrides={"train.epochs": 1, "train.seed": 3}, resume=True, quiet=True)
    assert again.weights("last").read_bytes() == before
    with pytest.raises(RequestError, match=r"did you mean 'epochs'|train\.epochs"):
        api.train(recipe, tmp_path / "other", overrides={"train.epoch": 3})
    with pytest.raises(RequestError, match="not empty"):
        api.train(recipe, run.path)
    with pytest.raises(RequestError, match="give run"):
        api.train(recipe, resume=True)


def test_an_evaluation_is_the_runs_own_and_the_share_of_wrong_predictions(
    trained: tuple[Run, list[EpochResult]],
) -> None:
    run, _ = trained
    evaluation = api.evaluate(run)
    assert evaluation.top1_error == api.evaluate(str(run.path)).top1_error
    assert run.evaluation is not None
    assert evaluation.n - evaluation.correct1 == round(run.evaluation["top1_error"] * evaluation.n / 100)
    model, val = run.load(), open_data(parse_recipe(TEXT).data).val
    predictions = predict(model, [val.image(index) for index in range(len(val))])
    wrong = sum(p.top(1)[0][0] != p.classes[label] for p, label in zip(predictions, val.labels, strict=True))
    assert api.evaluate(model, val).top1_error == pytest.approx(100 * wrong / len(val))


def test_an_ensemble_leaves_the_callers_networks_alone(trained: tuple[Run, list[EpochResult]]) -> None:
    run, _ = trained
    named, nameless = run.load(), run.load("last")
    nameless.classes = None
    nameless.train()
    val = open_data(parse_recipe(TEXT).data).val
    both = api.evaluate([named, nameless], val, api.EvalOptions(view="center+flip", combine="probabilities"))
    assert both.n == len(val)
    assert nameless.classes is None
    assert nameless.training
    with pytest.raises(RequestError, match="name the images"):
        api.evaluate(named)


def imagenet_like() -> tuple[ResNet, Network]:
    """A small network of torchvision's own code, and ours with its weights."""
    torch.manual_seed(0)
    theirs = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=7, groups=2, width_per_group=4).eval()
    ours = create_model("resnext50_2x4d", blocks=(1, 1, 1, 1), num_classes=7)
    ours.load_state_dict(theirs.state_dict())
    mean, std = IMAGENET
    ours.preprocessing = Preprocessing(image_size=64, resize=64, mean=mean, std=std, channels=3)
    return theirs, ours


def test_embeddings_are_what_torchvisions_classifier_gets(tmp_path: Path) -> None:
    theirs, ours = imagenet_like()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    seen: list[torch.Tensor] = []
    theirs.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    with torch.no_grad():
        theirs((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    found = embed(ours.train(), list(pixels), batch_size=2)
    assert found.dtype == np.float32
    assert ours.training
    np.testing.assert_allclose(found, seen[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(WorkError, match=r"missing\.png"):
        embed(ours, [tmp_path / "missing.png"])
    assert embed(ours, []).shape == (0, 2048)


def test_predict_writes_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, ours = imagenet_like()
    weights, out = tmp_path / "w.safetensors", tmp_path / "out.npz"
    save(ours, weights)
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for number, path in enumerate(paths):
        Image.new("RGB", (70, 90), (40 * number, 10, 200)).save(path)
    words = ["predict", str(weights), *map(str, paths), "--device", "cpu", "--embeddings", str(out)]
    assert main(words) == 0
    assert "3 images, 2,048 features each" in capsys.readouterr().out
    stored = np.load(out)
    assert stored["names"].tolist() == [str(path) for path in paths]
    np.testing.assert_allclose(stored["features"], embed(load(weights), paths), rtol=1e-5)
    paths[1].write_bytes(b"nonsense")
    assert main(words) == 1
    assert "b.png" in capsys.readouterr().err
    assert np.load(out)["names"].tolist() == [str(paths[0]), str(paths[2])]
    assert main([*words, "--engine", "pytorch"]) == 2
    assert "engines compute only logits" in capsys.readouterr().err
    assert main([*words, "--json"]) == 2


def test_an_engine_predicts_but_has_no_features() -> None:
    _, ours = imagenet_like()
    engine: Any = resnext.Predictor(ours, engine="pytorch")
    image = Image.new("RGB", (64, 64), "red")
    (one,), (other,) = predict(ours, image, top_k=3), predict(engine, image, top_k=3)
    assert [name for name, _ in one.top()] == [name for name, _ in other.top()]
    assert len(one.top()) == 3
    with pytest.raises(RequestError, match="engine computes only logits"):
        embed(engine, image)
    with pytest.raises(RequestError, match="top_k"):
        predict(ours, image, top_k=0)


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"epoch,top1_error\n1,\n2\n")
    with pytest.raises(RequestError, match=r"metrics\.csv is damaged"):
        Run(tmp_path, Recipe()).metrics  # noqa: B018
