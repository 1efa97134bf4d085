"""What the tests of sources share: a cache folder of their own, and pictures in every layout."""

import tarfile
from pathlib import Path

import pytest

from tests.data.layouts import Picture, pictures, real_pictures


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["made up", "real"])
def images(request: pytest.FixtureRequest) -> list[Picture]:
    """Two training images and a validation image of each of a few synsets."""
    if request.param == "made up":
        return pictures()
    with tarfile.open(request.getfixturevalue("shared_data") / "imagenet-sample-250.tar") as tar:
        return real_pictures(tar)
