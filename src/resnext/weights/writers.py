"""Write a network in any supported format, atomically, and verify the file by reading it back."""

import io
import json
import os
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from resnext.errors import RequestError, WorkError
from resnext.files import atomic_write, report_write_errors, sync_folder
from resnext.model.complexity import get_default_image_size
from resnext.model.network import Network

MAX_RELATIVE_DIFFERENCE = 1e-4  # relative to the largest output: float32 sums are added in another order
MAX_IMAGE_SIDE = 224  # pixels of the test image

RUN_FILES = ("recipe.yaml", "curves.png", "confusion.png", "reliability.png")  # removed before a new model card

Writer = Callable[[Network, Path], None]


def write_torchvision(model: Network, path: Path) -> None:
    """Write a state dict with torch.save, for ``torchvision.models.ResNet(...).load_state_dict``."""
    from resnext.weights.adapters.torchvision import to_torchvision

    state, data = to_torchvision(model), io.BytesIO()  # in memory: on a full disk torch.save raises a misleading error
    torch.save(OrderedDict((name, tensor.contiguous()) for name, tensor in state.items()), data)
    with atomic_write(path) as file:
        file.write(data.getbuffer())


def write_detectron2(model: Network, path: Path) -> None:
    """Write a backbone for detectron2's ``cfg.MODEL.WEIGHTS``: a pickle of NumPy arrays."""
    from resnext.weights.adapters.detectron2 import to_detectron2

    table = to_detectron2(model)
    with atomic_write(path) as file:
        pickle.dump(table, file, protocol=4)  # readable by every Python that detectron2 supports


def write_timm(model: Network, path: Path) -> None:
    """Write a folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``, or only its .safetensors file."""
    from resnext.weights.adapters.timm import to_timm

    state, config = to_timm(model)
    folder = path.suffix != ".safetensors"
    if folder:
        make_folder(path)
        with atomic_write(path / "config.json", "w") as file:
            json.dump(config, file, indent=1)
    with atomic_write(path / "model.safetensors" if folder else path) as file:
        file.write(safetensors_bytes({k: v.contiguous() for k, v in state.items()}, metadata={"format": "pt"}))


def write_verified(model: Network, out: Path, write: Writer) -> float:
    """Write ``model`` to ``out`` with ``write``; ``out`` appears only after ``verify_file``, whose result is returned.

    An existing folder keeps its other files. Raises WorkError if the disk fails or the outputs differ.
    """
    out = Path(os.path.abspath(out))
    with _make_temporary_path(out) as staged:
        write(model, staged)
        difference = verify_file(model, staged)
        _move_into_place(staged, out)
    return difference


def verify_file(model: Network, path: Path) -> float:
    """Compare the outputs of ``model`` and of the network in ``path`` on one fixed, already normalized test image.

    Returns the largest difference. Raises WorkError if it is above MAX_RELATIVE_DIFFERENCE or the file cannot be read.
    """
    from resnext.weights import load

    try:
        again = load(path)
    except RequestError as error:
        raise WorkError(f"the written file cannot be read back: {error}") from None
    image = _make_test_image(model)
    # the pooled features if only one of the two networks has a classifier
    pooled = model.architecture.num_classes != again.architecture.num_classes
    with torch.inference_mode():
        expected, found = (
            network.features(image, "pooled")["pooled"] if pooled else network(image)
            for network in (model.eval(), again)
        )
    difference, scale = (found - expected).abs().max().item(), expected.abs().max().item()
    if not difference <= MAX_RELATIVE_DIFFERENCE * max(1.0, scale):  # also true for nan
        raise WorkError(
            f"the written network computes something else: outputs of up to {scale:.3g} differ by {difference:.3g}"
        )
    return difference


def _make_test_image(model: Network) -> Tensor:
    given = model.preprocessing
    side = given.image_size if given is not None else get_default_image_size(model.architecture)
    side = max(model.architecture.stride, min(side, MAX_IMAGE_SIDE))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, model.architecture.in_channels, side, side, generator=generator)


@contextmanager
def _make_temporary_path(out: Path) -> Iterator[Path]:
    """Provide a path of the same name in a temporary folder on the same disk, which is deleted at the end."""
    with report_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".part")
    with folder as name:
        yield Path(name) / out.name


def make_folder(path: Path) -> None:
    """Make a folder unless it exists."""
    with report_write_errors(path):
        path.mkdir(exist_ok=True)


def _move_into_place(staged: Path, out: Path) -> None:
    """Move to the final place by one rename, or file by file into an existing folder (the weights last)."""
    with report_write_errors(out):
        if staged.is_dir() and out.is_dir():
            if (staged / "README.md").exists():
                for name in RUN_FILES:
                    (out / name).unlink(missing_ok=True)
            for file in sorted(staged.iterdir(), key=lambda path: path.name == "model.safetensors"):
                os.replace(file, out / file.name)
            sync_folder(out)
        else:
            os.replace(staged, out)
        sync_folder(out.parent)
