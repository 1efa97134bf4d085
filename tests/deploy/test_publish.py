"""Tests of the hub folder: resnext and timm can read it, and the card has the errors with their protocol."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard

from resnext.data.preprocessing import Preprocessing
from resnext.deploy.publish import ModelCardInfo, write_hub_folder
from resnext.errors import RequestError
from resnext.evaluation.output.protocol import build_protocol
from resnext.model.network import Network, create_model
from resnext.recipe import dump_recipe, parse_recipe
from resnext.run_directory import RunDirectory
from resnext.weights import load
from resnext.weights.released import ReleasedFile

RELEASE = ReleasedFile(
    name="the release", architecture="resnext50_2x4d", format="torch7", licence="cc-by-nc-4.0", figures=()
)
VIEW = Preprocessing(image_size=64, resize=72, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), channels=3)
NAMES = ("cat", "dog", "a | b", "é", "last")
RECIPE = "model: {name: resnext11_2x4d}\ndata: {source: folder, path: /home/somebody/photos}\ntrain: {epochs: 3}\n"


def network(**changes: Any) -> Network:
    """Build a small network that timm has too."""
    fields = {"blocks": (1, 1, 1, 1), "stage_channels": (16, 32, 64, 128), "num_classes": 5} | changes
    model = create_model("resnext50_2x4d", seed=1, **fields).eval()
    model.preprocessing, model.classes = VIEW, NAMES[: model.architecture.num_classes]
    model.provenance = {"format": "torch7", "notes": ["a note"], "source": {"file": "a.t7", "format": "torch7"}}
    return model


def metrics(checkpoint: str = "best") -> dict[str, Any]:
    about = build_protocol(VIEW, data="photos", split="a folder each", device="cpu", checkpoint=checkpoint, step=1200)
    errors = {"top1_error": 12.25, "top1_error_interval95": [9.0, 16.5], "top5_error": 2.5}
    return {"n": 300, **errors, "protocol": about}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Make a run directory without weights."""
    directory = RunDirectory(tmp_path / "run")
    directory.evaluation.mkdir(parents=True)
    directory.recipe.write_text(dump_recipe(parse_recipe(RECIPE)))
    (directory.evaluation / "metrics.json").write_text(json.dumps(metrics()))
    for path in (directory.curves, directory.evaluation / "confusion.png", directory.evaluation / "worst.png"):
        path.write_bytes(b"png")
    return directory


def publish(folder: Path, model: Network | None = None, **about: Any) -> Any:
    """Write a folder for the hub, and return its card as the hub reads it."""
    write_hub_folder(model or network(), folder, ModelCardInfo(**about))
    card = ModelCard.load(folder / "README.md")
    card.data.to_dict()
    return card


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_our_reader_reads_the_folder(tmp_path: Path) -> None:
    model, folder = network(), tmp_path / "hub"
    publish(folder, model)
    again = load(folder)
    assert (again.preprocessing, again.classes) == (VIEW, NAMES)
    assert again.provenance["source"] == {"file": "a.t7", "format": "torch7"}
    with torch.inference_mode():
        assert torch.equal(again(images()), model(images()))
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_timm_reads_the_folder_and_computes_the_same(tmp_path: Path) -> None:
    model, folder = network(), tmp_path / "hub"
    publish(folder, model)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images()), model(images()), rtol=1e-5, atol=1e-5)
    assert theirs.pretrained_cfg["label_names"] == list(NAMES)
    config = timm.data.resolve_model_data_config(theirs)
    assert [tuple(config[key]) for key in ("input_size", "mean", "std")] == [(3, 64, 64), VIEW.mean, VIEW.std]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"form": "branched"}, "form 'branched'"),
        ({"stem": "cifar"}, "stem 'imagenet'"),
        ({"shortcut": "C"}, "shortcut"),
    ],
)
def test_what_timm_cannot_express_is_ours_alone_and_the_card_says_so(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    model, folder = network(**changes), tmp_path / "hub"
    card = publish(folder, model)
    assert "timm cannot read it: " in card.text
    assert why in card.text
    assert card.data.library_name == "resnext"
    assert "architecture" not in json.loads((folder / "config.json").read_text())
    with torch.inference_mode():
        assert torch.equal(load(folder)(images()), model(images()))


def test_the_card_of_a_run_holds_its_errors_with_their_protocol(tmp_path: Path, run: RunDirectory) -> None:
    card = publish(tmp_path / "hub", name="lab/cats", licence="apache-2.0", run=run)
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "timm"
    assert card.data.eval_results is not None
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values == {"top-1 accuracy": 0.8775, "top-5 accuracy": 0.975}
    assert card.data.eval_results[0].dataset_name == "photos"
    assert card.data.eval_results[0].metric_args["resize"] == 72
    for part in (
        "# cats\n",
        "top-1 error **12.25 %** (95 % interval 9.00 to 16.50)",
        "300 images of photos · shorter side 72, centre crop 64×64, bicubic",
        "checkpoint best (step 1,200)",
        'resnext.load("hf://lab/cats")',
        'timm.create_model("hf-hub:lab/cats", pretrained=True)',
        "## Licence\n\napache-2.0.",
        "- a note",
        "cat, dog, a \\| b",
    ):
        assert part in card.text


def test_the_recipe_is_whole_but_does_not_tell_where_the_pictures_lay(tmp_path: Path, run: RunDirectory) -> None:
    text = publish(tmp_path / "hub", run=run).content
    recipe = yaml.safe_load((tmp_path / "hub" / "recipe.yaml").read_text())
    assert recipe["train"]["epochs"] == 3
    assert recipe["data"]["path"] == "photos"
    assert "somebody" not in text
    assert "epochs: 3" in text


def test_diagrams_are_published_and_the_images_of_the_data_are_not(tmp_path: Path, run: RunDirectory) -> None:
    text = publish(tmp_path / "hub", run=run).text
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert {"curves.png", "confusion.png"} <= names
    assert "worst.png" not in names
    assert "(curves.png)" in text
    assert "reliability.png" not in text


def test_the_evaluation_of_another_checkpoint_is_not_this_one_s(tmp_path: Path, run: RunDirectory) -> None:
    (run.evaluation / "metrics.json").write_text(json.dumps(metrics("last")))
    card = publish(tmp_path / "hub", run=run)
    assert card.data.eval_results is None
    assert "not measured" in card.text
    assert not (tmp_path / "hub" / "confusion.png").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"n": 1}', "[" * 100_000, '{"n": null}'])
def test_a_damaged_evaluation_is_named(tmp_path: Path, run: RunDirectory, text: str) -> None:
    (run.evaluation / "metrics.json").write_text(text)
    with pytest.raises(RequestError, match=r"metrics\.json is damaged"):
        publish(tmp_path / "hub", run=run)


def test_a_licence_says_whose_it_is_or_that_nobody_knows(tmp_path: Path) -> None:
    for number, (origin, licence, says) in enumerate(
        (
            (RELEASE, "cc-by-nc-4.0", "cc-by-nc-4.0, the licence of the release"),
            (None, "other", "The licence of these weights is unknown"),
            (replace(RELEASE, is_certain=False), "other", "They look like the release, whose licence is cc-by-nc-4.0."),
        )
    ):
        card = publish(tmp_path / str(number), origin=origin)
        assert card.data.license == licence
        assert says in card.text


def test_a_card_gives_no_command_that_would_be_refused(tmp_path: Path) -> None:
    model = network()
    assert "resnext predict" in publish(tmp_path / "a", model).text
    model.preprocessing = None
    assert "resnext predict" not in publish(tmp_path / "b", model).text


def test_a_backbone_is_published_as_one(tmp_path: Path) -> None:
    model = network(num_classes=0)
    model.classes = None
    card = publish(tmp_path / "hub", model)
    assert "none: pooled features" in card.text
    assert "resnext predict" not in card.text
    assert "resnext evaluate" not in card.text
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert load(tmp_path / "hub").architecture.num_classes == 0
