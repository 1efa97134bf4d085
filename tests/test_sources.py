"""The table of sources: every row can be opened, and a new source is one file and one row."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.sources import BOX_FORMATS, SOURCES, import_function

TOY_FILE = '''
"""Images of two classes in one folder, such as train-dark-3.png: a source of a user's own."""

from pathlib import Path

import numpy as np

from resnext.data.sources.image_folder import FolderDataset, natural_image_source


def open_toy(settings):
    train, val = (open_toy_split(settings, split) for split in ("train", "val"))
    return natural_image_source(train, val, settings, "by the beginning of the name")


def open_toy_split(settings, split):
    names = sorted(path.name for path in Path(settings.path).glob(f"{split}-*.png"))
    labels = np.array(["light" in name for name in names], np.int64)
    return FolderDataset(f"toy {split}", ("dark", "light"), 3, settings.path, np.array(names, bytes), labels)
'''
TOY_RUN = """
import json, sys
from resnext.sources import CHECK, SOURCES, SourceSpec

SOURCES["toy"] = SourceSpec(
    name="toy", sentence="a toy", open="toy:open_toy", open_split="toy:open_toy_split", check=CHECK, val_path=True
)
from resnext.cli import main

sys.exit(max(main(argv) for argv in json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize("name", SOURCES)
def test_every_row_names_functions_that_exist(name: str) -> None:
    spec = SOURCES[name]
    assert spec.name == name
    assert all(callable(import_function(path)) for path in (spec.open, spec.open_split, spec.check) if path)


@pytest.mark.parametrize("name", BOX_FORMATS)
def test_every_format_of_boxes_has_its_reader(name: str) -> None:
    from resnext.detection.data.annotated_split import AnnotatedSplit

    reader = import_function(BOX_FORMATS[name].reader)
    assert isinstance(reader, type)
    assert issubclass(reader, AnnotatedSplit)


def test_a_new_source_is_one_file_and_one_row(tmp_path: Path) -> None:
    """It can be checked, sharded, trained on, and evaluated, by the commands."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for i in range(count):
            pixels = rng.integers(0, 100, (36, 36, 3), np.uint8) + 150 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(images / f"{split}-{('dark', 'light')[i % 2]}-{i}.png")
    (tmp_path / "toy.py").write_text(TOY_FILE)
    (tmp_path / "toy.yaml").write_text(
        f"model: {{name: resnext11_2x4d, base_channels: 4}}\n"
        f"data: {{source: toy, path: {images}, image_size: 16, workers: 0}}\n"
        "augment: {crop: center}\ntrain: {steps: 2, batch_size: 4, channels_last: 'no'}\n"
    )
    commands = [
        ["data", "check", str(images), "--source", "toy", "--csv", "check.csv"],
        ["data", "shard", str(images), "shards", "--source", "toy"],
        ["train", "toy.yaml", "--run", "run"],
        ["evaluate", "run", "--source", "toy", "--data", str(images), "--out", "tables"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", TOY_RUN, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "val/: 4 images in 2 classes" in done.stdout
    assert (tmp_path / "shards" / "train-000000.tar").is_file()
    assert "split: every image of toy val" in done.stdout
