"""Remote checkpoints: complete at any moment, enough to resume on another machine, refused if damaged."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from resnext.errors import RequestError, WorkError
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.training import remote_checkpoints
from resnext.training.remote_checkpoints import download_run, upload_run
from tests.training.helpers import create_run, cut_off_before, train
from tests.training.test_resume import assert_same_end

SHORT = {"train.epochs": 2}


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'store' / 'run'}"


def cut_off(recipe: Path, folder: Path, url: str, step: int) -> RunDirectory:
    """Train with remote checkpoints and stop before ``step``, as if the machine had disappeared."""
    with cut_off_before(step):
        train(read_recipe(recipe, {**SHORT, "train.checkpoint_url": url}), folder, resume=None)
    return RunDirectory(folder)


@pytest.fixture
def object_store() -> Iterator[str]:
    """Run a local S3 server (moto) and set the environment that s3fs reads."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fs = fsspec.filesystem("s3")
        fs.mkdir("bucket")
        yield "s3://bucket/runs/one"
        fs.clear_instance_cache()
    server.stop()


def test_a_run_whose_machine_is_gone_goes_on_elsewhere_to_the_same_bytes(
    tiny_recipe: Path, tmp_path: Path, object_store: str
) -> None:
    whole = train(read_recipe(tiny_recipe, SHORT), tmp_path / "whole")
    gone = cut_off(tiny_recipe, tmp_path / "gone", object_store, 9)
    shutil.rmtree(gone.path)
    recipe = read_recipe(tiny_recipe, {**SHORT, "train.checkpoint_url": object_store})
    elsewhere = train(recipe, tmp_path / "elsewhere", resume=None)
    assert_same_end(elsewhere.path, whole.path)
    fs, root = remote_checkpoints.open_remote(object_store)
    there = {path.removeprefix(f"{root}/") for path in fs.find(root)}
    last = {f"checkpoints/last/{p.name}" for p in elsewhere.checkpoint("last").iterdir()}
    assert last <= there
    assert not [name for name in there if name.endswith(".part") or "00000008" in name]


def test_only_what_is_later_there_is_brought_here(tiny_recipe: Path, tmp_path: Path, store: str) -> None:
    run = cut_off(tiny_recipe, tmp_path / "run", store, 5)
    assert not download_run(store, run), "what is here is as late"
    other = RunDirectory(tmp_path / "other")
    assert download_run(store, other)
    assert (other.path / "recipe.yaml").read_bytes() == (run.path / "recipe.yaml").read_bytes()
    assert other.state("last")["position"] == run.state("last")["position"]
    assert not download_run(f"file://{tmp_path}/nothing", RunDirectory(tmp_path / "third"))


@pytest.mark.parametrize("after", range(0, 10, 2))
def test_a_push_that_breaks_off_anywhere_leaves_a_whole_mirror(
    tiny_recipe: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    run, local = cut_off(tiny_recipe, tmp_path / "run", store, 3), {"train.checkpoint_url": None}
    shutil.copytree(run.path, tmp_path / "later")
    later = train(read_recipe(run.recipe, local), tmp_path / "later", resume=True)
    calls = iter(range(100))

    def broken(*arguments: Any) -> None:
        if next(calls) >= after:
            raise OSError("the network is gone")
        _send(*arguments)

    _send = remote_checkpoints._upload_file
    monkeypatch.setattr(remote_checkpoints, "_upload_file", broken)
    with pytest.raises(WorkError, match=r"could not be written; the checkpoint on the local disk is complete"):
        upload_run(later, store)
    monkeypatch.undo()
    back = RunDirectory(tmp_path / "back")
    assert download_run(store, back)
    train(read_recipe(back.recipe, local), back.path, resume=True)
    assert_same_end(back.path, later.path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: "{", "is not the state of a resnext checkpoint"),
        (lambda s: json.dumps(s | {"format": "other"}), "is not the state of a resnext checkpoint"),
        (lambda s: json.dumps(s | {"files": {"model": 3}}), "does not say which files"),
        (lambda s: json.dumps(s | {"files": {"model": {"name": "../x.safetensors", "bytes": 3}}}), "no usable model"),
        (lambda s: json.dumps(s | {"files": {"model": s["files"]["model"] | {"bytes": 3}}}), "the expected 3 bytes"),
    ],
)
def test_a_damaged_mirror_is_named_and_nothing_outside_is_written(
    tiny_recipe: Path, tmp_path: Path, store: str, change: Any, says: str
) -> None:
    run = cut_off(tiny_recipe, tmp_path / "run", store, 3)
    remote = RunDirectory(Path(store.removeprefix("file://")))
    (remote.checkpoint("last") / "state.json").write_text(change(run.state("last")))
    shutil.rmtree(run.checkpoint("best"), ignore_errors=True)
    with pytest.raises(RequestError, match=says):
        download_run(store, RunDirectory(tmp_path / "back" / "run"))
    assert not list(tmp_path.glob("back/*.safetensors"))


@pytest.mark.parametrize("url", ["s4://bucket/run", "nonsense://x"])
def test_a_url_of_no_file_system_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a path or URL that can be read"):
        download_run(url, RunDirectory(tmp_path / "run"))


def test_a_mirror_out_of_reach_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    run = create_run(tmp_path / "run")
    (run.path / "log.jsonl").write_text("")
    with pytest.raises(WorkError, match=r"the remote checkpoints at file://.* could not be written"):
        upload_run(run, f"file://{tmp_path / 'file'}/below")
