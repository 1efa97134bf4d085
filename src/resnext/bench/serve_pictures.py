"""What ``bench serve`` sends: JPEG files of a folder or of noise, and the same pictures as tensors."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnext.errors import RequestError
from resnext.evaluation.images import find_images, pick_evenly

MAX_PICTURES = 64
NOISE = (8, 500, 375)  # number, width and height of pictures of our own
GRAIN = 4  # pixels; gives about the bytes of a photo
JPEG_START = b"\xff\xd8\xff"


def write_pictures(folder: str | None, out: Path) -> tuple[list[str], str]:
    """Copy up to 64 evenly spaced JPEG files of a folder, or write pictures of noise, to ``out``.

    Returns:
        Their paths, and in words what they are.

    Raises:
        RequestError: The folder has no JPEG file.
    """
    if folder is None:
        count, width, height = NOISE
        paths = [out / f"{number}.jpg" for number in range(count)]
        for number, path in enumerate(paths):
            rng = np.random.default_rng(number)
            coarse = rng.integers(0, 256, (height // GRAIN, width // GRAIN, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
        return [str(path) for path in paths], f"{count} JPEGs of noise, {width}x{height}"
    found, _ = find_images([folder])
    files = [path for path in found if Path(path).open("rb").read(3) == JPEG_START]  # noqa: SIM115
    if not files:
        raise RequestError(f"--images {folder} has no JPEG file")
    picked = pick_evenly(files, MAX_PICTURES)
    paths = [out / f"{number}.jpg" for number in range(len(picked))]
    for source, path in zip(picked, paths, strict=True):
        shutil.copyfile(source, path)
    size = sum(path.stat().st_size for path in paths) / len(paths)
    return [str(path) for path in paths], f"{len(paths)} JPEGs of {size / 1000:.0f} kB on average"


def write_tensor_requests(facts: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Write requests of the Open Inference Protocol with its binary extension, one for each file of pixels.

    Args:
        facts: ``shape`` [S, S, C] of the pixels, and ``tensors``, the files.

    Returns:
        The files, and the number of bytes of JSON at the beginning of each.
    """
    tensor = {
        "name": "images",
        "shape": [1, *facts["shape"]],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": int(np.prod(facts["shape"]))},
    }
    output = {"name": "logits", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    paths = [Path(path).with_suffix(".request") for path in facts["tensors"]]
    for source, path in zip(facts["tensors"], paths, strict=True):
        path.write_bytes(head + Path(source).read_bytes())
    return tuple(str(path) for path in paths), len(head)
