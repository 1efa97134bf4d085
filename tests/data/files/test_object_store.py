"""Shards and archives on an object store (moto): the same batches as from a disk, and errors that name keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext.data import open_data
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings
from tests.data.layouts import make_sample_images, read_contents, write_archives, write_shards
from tests.data.sources.test_sources_agree import stream

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A store with a bucket ``pictures``."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("pictures")
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_store_gives_what_a_disk_gives(store: Any, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", make_sample_images())
    write_archives(tmp_path / "imagenet", make_sample_images())
    store.put(f"{tmp_path}/shards", "pictures/shards", recursive=True)
    store.put(f"{tmp_path}/imagenet", "pictures/imagenet", recursive=True)
    pattern = {"path": "{}/shards/train-{{000000..000002}}.tar", "val_path": "{}/shards/val-*.tar"}
    here, there = (
        open_data(DataSettings(source="webdataset", **{k: v.format(root) for k, v in pattern.items()}))  # type: ignore[arg-type]
        for root in (tmp_path, "s3://pictures")
    )
    assert read_contents(there.val) == read_contents(here.val)
    forked = stream(there, 1, workers=2, start_method="fork")
    assert all(torch.equal(a, b) for a, b in zip(stream(here)[3:], forked, strict=True))
    whole = open_data(DataSettings(source="imagenet", path="s3://pictures/imagenet"))
    assert read_contents(whole.train) == read_contents(here.train)

    with pytest.raises(RequestError, match=r"missing: 's3://pictures/shards/train-000003\.tar'"):
        open_data(
            DataSettings(source="webdataset", path="s3://pictures/shards/train-{000000..000003}.tar", val_path="x")
        )
    with pytest.raises(RequestError, match=r"s3://nobucket/imagenet does not exist"):
        open_data(DataSettings(source="imagenet", path="s3://nobucket/imagenet"))
    store.rm("pictures/shards/train-000001.tar")
    with pytest.raises(WorkError, match=r"cannot read .*\.jpg of s3://pictures/shards/train-000001\.tar"):
        there.train.image(5)
