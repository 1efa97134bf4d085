"""Fixtures of the data tests: a cache folder of their own, the fast decoder, and sample images."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnext.data.decode import turbojpeg
from resnext.data.decode.turbojpeg import TurboJpegDecoder
from tests.data.layouts import SampleImage, make_sample_images, read_sample_images
from tests.sample_files import SHARED


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def decoder() -> Iterator[TurboJpegDecoder]:
    """The fast decoder, which is off in tests that do not use this fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNEXT_FAST", "1")
        turbojpeg.load_decoder.cache_clear()
        found = turbojpeg.load_decoder()
        if found is None:
            pytest.skip("needs a C++ compiler and the libjpeg-turbo of Pillow's wheel")
        yield found
    turbojpeg.load_decoder.cache_clear()


@pytest.fixture(params=["made up", *["real"] * SHARED.is_dir()])
def images(request: pytest.FixtureRequest) -> list[SampleImage]:
    """Two training images and a validation image of each of a few synsets."""
    if request.param == "made up":
        return make_sample_images()
    with tarfile.open(SHARED / "imagenet-sample-250.tar") as tar:
        return read_sample_images(tar)
