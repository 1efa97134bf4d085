"""Files that tests read: small ones that are always there, and the larger ones of the team beside this checkout.

Always there: ``tests/assets`` (files written by Torch7, packed by ``tools/make_test_assets.py``) and pieces of the two
photographs that scikit-learn brings (CC BY 2.0, by danielbuechele and vultilion).
"""

import atexit
import io
import random
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).with_name("assets")
SHARED = Path(__file__).parents[1].parent / "shared" / "data"
PHOTOGRAPH_SETS = ["scikit-learn's", *["ImageNet's"] * (SHARED / "imagenet-sample-250.tar").is_file()]
SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


@cache
def unpack_torch7() -> Path:
    """Unpack the files of Torch7 into a folder that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="resnext-torch7-")  # a TemporaryDirectory's finalizer would run in forks too
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(ASSETS / "torch7.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return Path(folder)


def find_torch7(name: str) -> Path | None:
    """Find a file of Torch7 by its path: the team's, else among the small ones; None if it is nowhere."""
    return next((f for f in (SHARED / "t7" / name, unpack_torch7() / name) if f.is_file()), None)


def read_photographs(which: str) -> list[bytes]:
    """Return the JPEG files of one of PHOTOGRAPH_SETS, of many sizes."""
    if which == PHOTOGRAPH_SETS[0]:
        return make_photographs()
    with tarfile.open(SHARED / "imagenet-sample-250.tar") as tar:
        contents = [tar.extractfile(member) for member in tar.getmembers()]
        return [content.read() for content in contents if content is not None]


@cache
def make_photographs() -> list[bytes]:
    """Cut 40 pieces of 260 to 420 pixels out of two photographs, in several qualities and samplings of colour."""
    from sklearn.datasets import load_sample_images

    wholes = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    drawn, files = random.Random(0), []
    for number in range(40):
        whole = wholes[number % 2]
        width, height = drawn.randint(260, 420), drawn.randint(260, 420)
        left, top = drawn.randint(0, whole.width - width), drawn.randint(0, whole.height - height)
        piece, file = whole.crop((left, top, left + width, top + height)), io.BytesIO()
        quality, sampling = drawn.randint(75, 96), SAMPLINGS[number // 2 % 3]
        piece.save(file, "JPEG", quality=quality, subsampling=sampling, progressive=number % 5 == 4)
        files.append(file.getvalue())
    return files
