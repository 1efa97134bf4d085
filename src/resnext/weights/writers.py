"""Networks into files of any format, whole or not at all, and proven: what was written is read back and compared."""

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
from resnext.files import disk_named, sync_folder, written_whole
from resnext.model.complexity import default_image_size
from resnext.model.network import Network

ROUNDING = 1e-4  # of the largest output: float32 sums in another order
LARGEST_SIDE = 224  # pixels of the picture that is compared

OF_A_RUN = ("recipe.yaml", "curves.png", "confusion.png", "reliability.png")  # else an earlier card's would stay

Write = Callable[[Network, Path], None]


def write_ours(model: Network, path: Path) -> None:
    """One safetensors file with everything the network knows of itself."""
    from resnext.weights.native import save

    save(model, path)


def write_torchvision(model: Network, path: Path) -> None:
    """A state dict as torch.save writes it, for ``torchvision.models.ResNet(...).load_state_dict``."""
    from resnext.weights.torchvision import to_torchvision

    state, data = to_torchvision(model), io.BytesIO()  # a full disk under torch.save is a RuntimeError about zip files
    torch.save(OrderedDict((name, tensor.contiguous()) for name, tensor in state.items()), data)
    with written_whole(path) as file:
        file.write(data.getbuffer())


def write_detectron2(model: Network, path: Path) -> None:
    """A backbone as ``cfg.MODEL.WEIGHTS`` of detectron2 takes it: a pickle of NumPy arrays."""
    from resnext.weights.detectron2 import to_detectron2

    table = to_detectron2(model)
    with written_whole(path) as file:
        pickle.dump(table, file, protocol=4)  # every Python that detectron2 runs on; bytes stay bytes


def write_timm(model: Network, path: Path) -> None:
    """A folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` takes; as *.safetensors its weights."""
    from resnext.weights.timm import to_timm

    state, config = to_timm(model)
    folder = path.suffix != ".safetensors"
    if folder:
        make_folder(path)
        with written_whole(path / "config.json", "w") as file:
            json.dump(config, file, indent=1)
    with written_whole(path / "model.safetensors" if folder else path) as file:
        file.write(safetensors_bytes({k: v.contiguous() for k, v in state.items()}, metadata={"format": "pt"}))


def write_proven(model: Network, out: Path, write: Write) -> float:
    """Write ``model`` to ``out``, which appears whole and only once it was read back and computes the same.

    Returns the largest difference of the outputs. A folder that is there already keeps its other files. Raises
    WorkError where the disk refuses or the network read back is another, and what the writer raises.
    """
    out = Path(os.path.abspath(out))
    with _beside(out) as staged:
        write(model, staged)
        difference = prove(model, staged)
        _move(staged, out)
    return difference


def prove(model: Network, path: Path) -> float:
    """The largest difference between the outputs of ``model`` and of what ``path`` holds. Above ROUNDING a WorkError.

    One fixed picture, normalised once: files that do not hold the preprocessing are compared all the same.
    """
    from resnext.weights import load

    try:
        again = load(path)
    except RequestError as error:
        raise WorkError(f"what was written cannot be read back: {error}") from None
    picture = _picture(model)
    with torch.inference_mode():
        expected, found = _outputs(model.eval(), picture, again), _outputs(again, picture, model)
    difference, scale = (found - expected).abs().max().item(), expected.abs().max().item()
    if not difference <= ROUNDING * max(1.0, scale):  # also where they are no numbers
        raise WorkError(
            f"what was written computes something else: outputs of up to {scale:.3g} differ by {difference:.3g}"
        )
    return difference


def _picture(model: Network) -> Tensor:
    side = model.preprocessing.image_size if model.preprocessing is not None else default_image_size(model.architecture)
    side = max(model.architecture.stride, min(side, LARGEST_SIDE))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, model.architecture.in_channels, side, side, generator=generator)


def _outputs(model: Network, picture: Tensor, other: Network) -> Tensor:
    """The classes, or the pooled features where one of the two has no head."""
    if model.architecture.num_classes == other.architecture.num_classes:
        return model(picture)
    return model.features(picture, "pooled")["pooled"]


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder on the same disk, which goes away at the end."""
    with disk_named(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".part")
    with folder as name:
        yield Path(name) / out.name


def make_folder(path: Path) -> None:
    """A new folder. Raises WorkError where the disk refuses."""
    with disk_named(path):
        path.mkdir(exist_ok=True)


def _move(staged: Path, out: Path) -> None:
    """Put in place: by one rename, or file by file into a folder that is there (the weights last)."""
    with disk_named(out):
        if staged.is_dir() and out.is_dir():
            if (staged / "README.md").exists():
                for name in OF_A_RUN:
                    (out / name).unlink(missing_ok=True)
            for file in sorted(staged.iterdir(), key=lambda path: path.name == "model.safetensors"):
                os.replace(file, out / file.name)
            sync_folder(out)
        else:
            os.replace(staged, out)
        sync_folder(out.parent)
