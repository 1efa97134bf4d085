"""Distillation: the teacher's part of the loss, its records, and what is refused."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import resnext
from resnext.data.loader import Batch
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.files import compute_sha256
from resnext.model.network import Network, create_model
from resnext.run_directory import RunDirectory
from resnext.settings import DistillSettings
from resnext.training.distill import Teacher
from tests.conftest import TINY, run_resnext
from tests.training.helpers import build_task, cut_off_before, read_changed, train
from tests.training.test_distributed import train_by
from tests.training.test_resume import assert_same_end

GREY = Preprocessing(image_size=16, resize=16, mean=(0.5,), std=(0.25,), channels=1)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def write_teacher(path: Path, classes: int = 10, **changes: object) -> Network:
    model = create_model("resnext11_4x2d", base_channels=4, num_classes=classes, in_channels=1, seed=5, **changes)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(1.5)
    model.preprocessing = GREY
    resnext.save(model, path)
    return model.eval()


def test_the_gradient_is_that_of_both_terms(tmp_path: Path, recipe: Path) -> None:
    """Against plain PyTorch, with another normalisation of the teacher."""
    teacher = write_teacher(tmp_path / "teacher.safetensors")
    distill = {"distill__weights": str(tmp_path / "teacher.safetensors"), "distill__alpha": 0.3, "train__fast": "no"}
    task, state = build_task(recipe, tmp_path / "run", distill__temperature=2.0, **distill)
    batch: Batch = next(iter(state.loader.batches(0)))
    expected = resnext.convert_form(state.model, "grouped").train()
    seen = []
    state.optimizer.zero_grad = lambda **_: None  # keeps the gradients
    state.optimizer.register_step_pre_hook(lambda *_: seen.append([p.grad.clone() for p in state.model.parameters()]))
    result = task.step(state, batch, 0.0)
    logits = expected(normalize(batch.images, state.model.preprocessing, "cpu"))
    with torch.no_grad():
        wanted = (teacher(normalize(batch.images, GREY, "cpu")) / 2).log_softmax(1)
    divergence = (wanted.exp() * (wanted - (logits / 2).log_softmax(1))).sum(1).mean()
    loss = 0.7 * F.cross_entropy(logits, batch.labels) + 0.3 * 4 * divergence
    loss.backward()
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    for found, parameter in zip(seen[0], expected.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-6)
    assert task.teacher is not None
    assert not task.teacher.network.training
    assert all(p.grad is None for p in task.teacher.network.parameters())


def test_a_resumed_run_is_the_same_and_knows_its_teacher(tmp_path: Path, recipe: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    write_teacher(file)
    settings = read_changed(recipe, {"distill__weights": str(file)})
    whole = train(settings, tmp_path / "whole")
    with cut_off_before(4):
        train(settings, tmp_path / "run")
    moved = tmp_path / "moved.safetensors"
    file.rename(moved)
    write_teacher(file, width=3)
    with pytest.raises(RequestError, match=r"not the teacher that the run was started with.*SHA-256"):
        train(settings, tmp_path / "run", resume=True)
    run = train(read_changed(recipe, {"distill__weights": str(moved)}), tmp_path / "run", resume=None)
    assert_same_end(run.path, whole.path)
    for checkpoint in ("best", "last"):
        about = resnext.load(run.path, checkpoint).provenance["distill"]
        assert about["sha256"] == compute_sha256(moved)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path, recipe: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    write_teacher(file)
    options = ["--train.threads", "1", "--train.bn_batch_size", "8", "--distill.weights", str(file)]
    run_resnext("train", recipe, "--run", tmp_path / "one", *options)
    train_by(2, recipe, "--run", tmp_path / "two", *options)
    one, two = (resnext.load(tmp_path / name, "last").state_dict() for name in ("one", "two"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_without_a_teacher_nothing_is_recorded(tmp_path: Path, recipe: Path) -> None:
    run = train(read_changed(recipe, {"train__steps": 4, "train__epochs": None}), tmp_path / "run")
    assert "distill" not in resnext.load(run.path).provenance
    assert isinstance(run, RunDirectory)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_classes": 3}, "teacher.pt cannot teach: it has 3 classes and 1 input channels, but the network has 2"),
        ({"in_channels": 3}, "it has 2 classes and 3 input channels"),
        ({"names": ("cat", "cow")}, "the classes of the model and of the teacher teacher.pt differ"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(changes: dict[str, object], says: str) -> None:
    fields = {"base_channels": 4, "num_classes": 2, "in_channels": 1}
    student = create_model("resnext11_2x4d", **fields)
    student.classes = ("cat", "dog")
    names = changes.pop("names", None)
    teacher = create_model("resnext11_2x4d", **fields | changes)
    teacher.classes = names
    with pytest.raises(RequestError) as caught:
        Teacher(teacher, student, DistillSettings(weights="teacher.pt"), "teacher.pt")
    assert says in str(caught.value)


def test_settings_without_a_teacher_are_refused(recipe: Path) -> None:
    with pytest.raises(RequestError, match=r"distill.alpha 0.1 is about a teacher, but the recipe names none"):
        read_changed(recipe, {"distill__alpha": 0.1})
