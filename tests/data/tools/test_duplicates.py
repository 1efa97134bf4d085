"""What looks alike is reported across splits and classes, and not within them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from resnext.data.tools.check_folder import check_image_folder
from resnext.settings import DataSettings


def paint(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Paint smooth blobs, as photographs have."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def write_copies(folder: Path) -> None:
    """Write five pictures, and smaller copies: within a class, in another class, and in another split."""
    for place, seed in {"train/a/1": 1, "train/a/2": 2, "train/b/3": 3, "val/a/4": 4, "val/b/5": 5}.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        paint(seed).save(folder / f"{place}.png")
    for source, copy in (("train/a/1", "train/a/6"), ("train/a/2", "train/b/7"), ("val/a/4", "train/a/8")):
        Image.open(folder / f"{source}.png").resize((80, 60)).save(folder / f"{copy}.jpg", quality=40)


def test_a_smaller_copy_in_another_class_or_split_is_a_finding_and_one_within_is_not(tmp_path: Path) -> None:
    write_copies(tmp_path)
    report = check_image_folder(DataSettings(source="folder", path=str(tmp_path)), workers=1)
    found = {(f.path, f.problem, f.detail) for f in report.findings}
    assert found == {
        ("train/a/2.png", "near-duplicate in two classes", "looks like train/b/7.jpg"),
        ("train/b/7.jpg", "near-duplicate in two classes", "looks like train/a/2.png"),
        ("val/a/4.png", "near-duplicate across splits", "looks like train/a/8.jpg"),
        ("train/a/8.jpg", "near-duplicate across splits", "looks like val/a/4.png"),
    }
    assert any("look like one in another split" in sentence for sentence in report.advice)


def test_of_too_many_pictures_the_report_says_that_none_were_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_copies(tmp_path)
    for module in ("check_folder", "duplicates"):
        monkeypatch.setattr(f"resnext.data.tools.{module}.MAX_COMPARED", 7)
    report = check_image_folder(DataSettings(source="folder", path=str(tmp_path)), workers=1)
    (finding,) = report.findings
    assert (finding.severity, finding.problem) == ("note", "no search for near-duplicates")
    assert "among up to 7 files" in finding.detail
