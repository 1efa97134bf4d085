"""``resnext convert``: every format, its output, and that nothing is lost."""

import errno
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from resnext.cli import main
from resnext.data.preprocessing import Preprocessing
from resnext.errors import WorkError
from resnext.model.network import Network, create_model
from resnext.weights import load, writers
from resnext.weights.adapters.naming import UNKNOWN_PREPROCESSING
from resnext.weights.native import serialize_network
from resnext.weights.presets import PREPROCESSINGS, TORCHVISION_V1

pytestmark = pytest.mark.usefixtures("blank_figures")

VIEW = Preprocessing(image_size=64, resize=72, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), channels=3)
NAMES = ("cat", "dog", "fox", "owl", "yak")


def network(**changes: Any) -> Network:
    """A network of one block per stage, which torchvision, timm and detectron2 can build too."""
    fields = {"blocks": (1, 1, 1, 1), "num_classes": 5} | changes
    model = create_model("resnext50_2x4d", seed=1, **fields).eval()
    model.preprocessing, model.classes = VIEW, NAMES
    return model


@cache
def content() -> bytes:
    return serialize_network(network())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "in.safetensors"
    path.write_bytes(content())
    return path


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def images(channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(3))


def outputs(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(images())


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


@pytest.mark.parametrize("out", ["out.safetensors", "out.pth", "out.pt", "out.pkl", "hub/", "hub", "new/deep/out.pth"])
def test_what_is_written_computes_the_same(weights: Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = weights.parent / out
    assert convert(weights, f"{weights.parent}/{out}") == 0
    torch.testing.assert_close(outputs(load(place)), outputs(network()), rtol=1e-5, atol=1e-5)
    shown = capsys.readouterr().out
    written = place / "model.safetensors" if place.is_dir() else place
    file = (f"{written.stat().st_size:,} bytes", hashlib.sha256(written.read_bytes()).hexdigest())
    network_lines = (
        "parameters",
        "shorter side 72, centre crop 64×64",
        "5 (cat, dog, fox, ...)",
        "read back; outputs ",
    )
    for part in file + network_lines:
        assert part in shown
    assert left_over(weights.parent) == set()


def test_torchvision_loads_its_file_strictly(weights: Path) -> None:
    assert convert(weights, weights.parent / "out.pth") == 0
    theirs = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5, groups=2, width_per_group=4)
    theirs.load_state_dict(torch.load(weights.parent / "out.pth", weights_only=True), strict=True)
    torch.testing.assert_close(outputs(theirs.eval()), outputs(network()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("to", ["timm", "hub"])
def test_timm_loads_its_folder(weights: Path, to: str) -> None:
    assert convert(weights, weights.parent / "folder", "--to", to) == 0
    theirs = timm.create_model(f"local-dir:{weights.parent / 'folder'}", pretrained=True).eval()
    torch.testing.assert_close(outputs(theirs), outputs(network()), rtol=1e-5, atol=1e-5)
    again = load(weights.parent / "folder")
    assert (again.preprocessing, again.classes) == (VIEW, NAMES)


def test_timm_s_weights_alone_go_into_a_file(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(weights, weights.parent / "x.safetensors", "--to", "timm") == 0
    assert "cannot store preprocessing and class names" in capsys.readouterr().out
    assert load(weights.parent / "x.safetensors").preprocessing is None


def test_ours_keeps_everything_and_where_it_came_from(weights: Path) -> None:
    assert convert(weights, weights.parent / "x.pth") == 0
    names = weights.parent / "names.txt"
    names.write_text("\n".join(NAMES) + "\n")
    view = weights.parent / "view.json"
    view.write_text(json.dumps(VIEW.to_dict()))
    out = weights.parent / "y.safetensors"
    assert convert(weights.parent / "x.pth", out, "--classes", names, "--preprocessing", view) == 0
    again, read = load(out), (weights.parent / "x.pth").read_bytes()
    assert (again.preprocessing, again.classes) == (VIEW, NAMES)
    source = {"format": "torchvision", "file": "x.pth", "bytes": len(read)}
    assert again.provenance["source"] == source | {"sha256": hashlib.sha256(read).hexdigest()}
    assert convert(out, weights.parent / "z.safetensors") == 0
    assert load(weights.parent / "z.safetensors").provenance["source"] == again.provenance["source"]


def test_form_head_and_stem_can_be_changed_and_it_is_said(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = weights.parent / "names.txt"
    names.write_text("dog\nbear\n")
    out = weights.parent / "out.safetensors"
    assert convert(weights, out, "--form", "branched", "--classes", names, "--num-classes", 2, "--in-channels", 1) == 0
    again, before = load(out), network()
    assert (again.architecture.form, again.architecture.in_channels, again.classes) == ("branched", 1, ("dog", "bear"))
    assert torch.equal(again.fc.weight[0], before.fc.weight[1])
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "1 rows were kept by name, 1 are newly initialized",
        "conv1 was changed from 3 to 1",
        "form 'branched'",
    ):
        assert part in shown


def test_0_classes_give_a_backbone(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(weights, weights.parent / "out.safetensors", "--num-classes", 0) == 0
    assert load(weights.parent / "out.safetensors").architecture.num_classes == 0
    assert "none: outputs pooled features" in capsys.readouterr().out


def test_other_libraries_get_form_c_without_asking(weights: Path) -> None:
    branched = weights.parent / "branched.safetensors"
    assert convert(weights, branched, "--form", "branched") == 0
    for out in ("hub/", "x.pth"):
        assert convert(branched, f"{weights.parent}/{out}") == 0
        assert load(weights.parent / out).architecture.form == "grouped"
    assert convert(branched, weights.parent / "same.safetensors") == 0
    assert load(weights.parent / "same.safetensors").architecture.form == "branched"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["IN", "IN"], "is the input too"),
        (["IN", "IN", "--overwrite"], "is the input too"),
        (["IN", "there.pth"], "there.pth exists; --overwrite replaces it"),
        (["IN", "full/"], "full exists; --overwrite replaces its files"),
        (["IN", "there.pth/"], "there.pth is not a folder"),
        (["IN", "full", "--to", "torchvision"], "--to torchvision contradicts"),
        (["IN", "x.pth", "--to", "ours"], "--to ours contradicts"),
        (["IN", "x.pth", "--to", "hub"], "--to hub contradicts"),
        (["IN", "x.safetensor"], "unknown extension .safetensor; did you mean '.safetensors'"),
        (["IN", "x.pth", "--form", "branched"], "torchvision supports only form grouped"),
        (["IN", "x.safetensors", "--form", "grupped"], "did you mean 'grouped'"),
        (["IN", "x.safetensors", "--classes", "imagenett"], "did you mean 'imagenet'"),
        (["IN", "x.safetensors", "--classes", "gap.txt"], "line 2 is empty"),
        (["IN", "x.safetensors", "--classes", "cifar10"], "10 names, but the network has 5 classes; --num-classes 10"),
        (
            ["IN", "x.safetensors", "--classes", "other.txt"],
            "other.txt has 'cow', which is no class of the network; --num",
        ),
        (["IN", "x.safetensors", "--classes", "empty.txt"], "names no classes"),
        (["IN", "x.safetensors", "--classes", "latin.txt"], "is not UTF-8"),
        (["IN", "x.safetensors", "--classes", "cifar10", "--num-classes", "5"], "10 class names were given for 5"),
        (["IN", "x.safetensors", "--preprocessing", "papper"], "did you mean 'paper'"),
        (["IN", "x.safetensors", "--preprocessing", "gap.txt"], "is not JSON"),
        (["IN", "x.safetensors", "--preprocessing", "odd.json"], "odd.json: preprocessing"),
        (["IN", "x.safetensors", "--preprocessing", "paper", "--in-channels", "1"], "the network takes 1"),
        (["IN", "hub/", "--name", "a b"], "owner/name"),
        (["IN", "hub/", "--licence", "a b"], "one word"),
        (
            ["IN", "out.pth", "--licence", "mit"],
            "--licence is for the model card of a hub folder; torchvision has none",
        ),
        (["IN", "out.safetensors", "--num-classes", "-1"], "num_classes must be a whole number"),
        (["none.pth", "x.pth"], "there is no weights file"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(
    weights: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights.parent)
    (weights.parent / "full").mkdir()
    files = {"there.pth": b"mine", "full/config.json": b"mine", "odd.json": b'{"size": 3}'}
    files |= {
        "gap.txt": b"a\n\nb\n",
        "empty.txt": b"\n",
        "latin.txt": b"\xe9\n",
        "other.txt": b"cat\ncow\nfox\nowl\nyak\n",
    }
    for name, data in files.items():
        (weights.parent / name).write_bytes(data)
    before = {path: path.read_bytes() for path in weights.parent.rglob("*") if path.is_file()}
    assert convert(*(weights.name if word == "IN" else word for word in arguments)) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1
    assert before == {path: path.read_bytes() for path in weights.parent.rglob("*") if path.is_file()}


def test_overwrite_replaces_a_file_and_only_its_own_in_a_folder(weights: Path) -> None:
    out, folder = weights.parent / "out.pth", weights.parent / "hub"
    folder.mkdir()
    for path in (out, *(folder / name for name in ("config.json", "model.safetensors", "mine.txt", "recipe.yaml"))):
        path.write_text("old")
    assert convert(weights, out, "--overwrite") == 0
    assert convert(weights, folder, "--overwrite") == 0
    torch.testing.assert_close(outputs(load(out)), outputs(load(folder)), rtol=1e-5, atol=1e-5)
    assert (folder / "mine.txt").read_text() == "old"
    assert not (folder / "recipe.yaml").exists()  # of a run that was published here before
    assert (folder / "config.json").read_text() != "old"


@pytest.mark.parametrize("out", ["out.safetensors", "hub"])
def test_a_file_that_computes_something_else_is_never_put_in_place(
    weights: Path, out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: object, **options: object) -> Network:
        model = load(*arguments, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            model.fc.bias.add_(0.5)
        return model

    monkeypatch.setattr("resnext.weights.load", wrong)
    place = weights.parent / out
    with pytest.raises(WorkError, match=r"computes something else: outputs of up to .* differ by 0\.5"):
        writers.verify_file(network(), weights)
    loads = iter([load, wrong])
    monkeypatch.setattr("resnext.weights.load", lambda *a, **o: next(loads)(*a, **o))
    assert convert(weights, place) == 1
    assert "computes something else" in capsys.readouterr().err
    assert not place.exists()
    assert left_over(weights.parent) == set()


def test_a_place_that_cannot_be_written_to_is_named(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (weights.parent / "file").touch()
    assert convert(weights, weights.parent / "file" / "out.pth") == 2
    assert "cannot be written to: it is a file" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["out.safetensors", "out.pth", "out.pkl", "hub"])
def test_a_full_disk_is_named_and_leaves_nothing(
    weights: Path, out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("resnext.files.os.fsync", full)
    assert convert(weights, weights.parent / out) == 1
    assert "could not be written: No space left on device" in capsys.readouterr().err
    assert {path.name for path in weights.parent.iterdir()} == {weights.name}


def test_an_empty_folder_is_filled_and_dots_are_resolved(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (weights.parent / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(weights.parent / "a" / "b")
    assert convert(weights, ".") == 0  # an empty folder
    assert load(weights.parent / "a" / "b").classes == NAMES
    assert convert(weights, "..", "--overwrite") == 0
    assert {path.name for path in weights.parent.iterdir()} == {weights.name, "a"}
    assert load(weights.parent / "a").classes == NAMES


def test_a_run_becomes_a_hub_folder(tiny_recipe: Path, tmp_path: Path) -> None:
    run, hub = tmp_path / "run", tmp_path / "hub"
    assert main(["train", str(tiny_recipe), "--run", str(run)]) == 0
    assert convert(run, f"{hub}/", "--name", "lab/digits", "--licence", "apache-2.0") == 0
    names = {path.name for path in hub.iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "recipe.yaml", "curves.png", "confusion.png"} <= names
    card = (hub / "README.md").read_text()
    for part in ("top-1 error **", "30 images of", "checkpoint best", "epochs: 3", "license: apache-2.0", "lab/digits"):
        assert part in card
    before, after = load(run), load(hub)
    assert (after.classes, after.preprocessing) == (before.classes, before.preprocessing)
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(before(x), after(x))


def test_the_last_checkpoint_can_be_taken_and_a_run_is_never_overwritten(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(tiny_recipe), "--run", str(run)]) == 0
    assert convert(run, tmp_path / "last.safetensors", "--checkpoint", "last") == 0
    last = load(tmp_path / "last.safetensors").state_dict()
    assert all(torch.equal(tensor, last[name]) for name, tensor in load(run, "last").state_dict().items())
    capsys.readouterr()
    assert convert(tmp_path / "last.safetensors", run, "--overwrite") == 2
    assert "is a run directory" in capsys.readouterr().err
    best = next((run / "checkpoints" / "best").glob("model*.safetensors"))
    assert convert(run, best, "--overwrite") == 2


def test_a_note_that_the_preprocessing_is_unknown_goes_when_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5).state_dict(), tmp_path / "bare.pth")
    assert convert(tmp_path / "bare.pth", tmp_path / "a.safetensors") == 0
    assert "does not contain the preprocessing of images" in capsys.readouterr().out
    assert convert(tmp_path / "bare.pth", tmp_path / "b.safetensors", "--preprocessing", "torchvision") == 0
    out = capsys.readouterr().out
    assert "does not contain the preprocessing of images" not in out
    assert "the preprocessing is torchvision, as given by --preprocessing" in out
    assert load(tmp_path / "b.safetensors").preprocessing == TORCHVISION_V1


def test_help_and_the_note_name_every_known_preprocessing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ", ".join(PREPROCESSINGS) + " or FILE.json" in text
    assert "|".join(PREPROCESSINGS) in UNKNOWN_PREPROCESSING


def test_what_is_written_does_not_tell_where_the_first_weights_lay(weights: Path, tiny_recipe: Path) -> None:
    model = network(stem="cifar", in_channels=1)
    model.preprocessing, first = None, weights.parent / "first.safetensors"
    first.write_bytes(serialize_network(model))
    text = tiny_recipe.read_text().replace("model: {name: resnext11_2x4d, base_channels: 4}\n", "")
    tiny_recipe.write_text(
        text.replace("epochs: 3", "epochs: 1").replace("max_train_images: 100", "max_train_images: 16")
    )
    run, hub = weights.parent / "run", weights.parent / "hub"
    assert main(["train", str(tiny_recipe), "--run", str(run), "--init", str(first)]) == 0
    assert convert(run, hub) == 0
    for path in (hub / "README.md", hub / "recipe.yaml", hub / "model.safetensors"):
        assert str(weights.parent).encode() not in path.read_bytes()
    assert "initialised from first.safetensors" in (hub / "README.md").read_text()
    assert load(hub).provenance["init"]["source"]["sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()


def test_what_a_file_says_of_itself_cannot_reach_into_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network()
    model.classes = ("\x1b[2Jcat", *NAMES[1:])
    model.provenance = {"notes": ["all is well\x1b[1A\nproof  forged"]}
    (tmp_path / "in").write_bytes(serialize_network(model))
    assert convert(tmp_path / "in", tmp_path / "out.safetensors") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[2Jcat" in shown
    assert not any(line.startswith("proof  forged") for line in shown.splitlines())
