"""Measure time and peak memory of loading ResNeXt-50 in each format, compared with the plain reader of its tensors.

    python tools/measure_loading.py --repeats 5 --out results/weights-loading.csv

Each load runs in a fresh process after all imports; formats and readers are interleaved. ``seconds`` is the median;
``peak`` is the largest growth of resident memory over the bytes of the network's tensors.
"""

import argparse
import csv
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "resnext50_32x4d"
READERS = {
    "ours": ("resnext.load", "safetensors.torch.load_file"),
    "timm": ("resnext.load", "safetensors.torch.load_file"),
    "torchvision zip": ("resnext.load", "torch.load"),
    "torchvision legacy": ("resnext.load", "torch.load"),
    "detectron2": ("resnext.load", "pickle.load"),
    "pycls": ("resnext.load", "torch.load"),
    "torch7": ("resnext.load", "resnext.read_t7"),
}


def main() -> None:
    """Measure all formats and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("READER", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder))
        found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
        for _ in range(args.repeats):
            for kind, readers in READERS.items():
                for reader in readers:
                    command = [sys.executable, __file__, "--one", reader, str(files[kind])]
                    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
                    found[kind, reader].append(json.loads(answer.splitlines()[-1]))
        report(found, {kind: count_file_bytes(path) for kind, path in files.items()}, args.out)


def report(found: dict[tuple[str, str], list[dict[str, float]]], sizes: dict[str, int], out: Path | None) -> None:
    """Print one row per format and reader, and write them as CSV."""
    rows = []
    for (kind, reader), measured in found.items():
        seconds = [one["seconds"] for one in measured]
        rows.append(
            {
                "format": kind,
                "file_mb": round(sizes[kind] / 1e6, 1),
                "reader": reader,
                "seconds_median": round(statistics.median(seconds), 3),
                "seconds_best": round(min(seconds), 3),
                "seconds_worst": round(max(seconds), 3),
                "peak_over_tensors": round(statistics.median(one["peak"] for one in measured), 2),
            }
        )
        print(rows[-1])
    if out is not None:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def measure(reader: str, path: str) -> dict[str, float]:
    """Measure one load in this process."""
    import pickle
    import time

    import safetensors.torch
    import timm  # noqa: F401 (imported by no reader, but by every process: the base is the same)
    import torch

    import resnext

    warm_up(resnext)
    readers: dict[str, Callable[[], object]] = {
        "resnext.load": lambda: resnext.load(path).state_dict(),
        "resnext.read_t7": lambda: resnext.read_t7(path),
        "torch.load": lambda: torch.load(path, weights_only=True),
        "safetensors.torch.load_file": lambda: safetensors.torch.load_file(find_tensor_file(path)),
        "pickle.load": lambda: pickle.loads(Path(path).read_bytes(), encoding="latin1"),
    }
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
    before, begin = read_status("VmRSS"), time.perf_counter()
    kept = readers[reader]()
    seconds = time.perf_counter() - begin
    assert kept is not None
    return {"seconds": seconds, "peak": (read_status("VmHWM") - before) / count_tensor_bytes()}


def warm_up(resnext: object) -> None:
    """Import what every reader needs, by loading a tiny network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w"
        resnext.save(resnext.create_model("resnext11_2x1d", base_channels=1, num_classes=2, seed=0), path)  # type: ignore[attr-defined]
        resnext.load(path)  # type: ignore[attr-defined]
        import torch

        torch.save(resnext.load(path).state_dict(), path)  # type: ignore[attr-defined]
        resnext.load(path)  # type: ignore[attr-defined]


def read_status(key: str) -> int:
    """Read a value of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def count_tensor_bytes() -> int:
    """Count the bytes of the network's parameters."""
    import resnext

    return 4 * resnext.complexity(NAME).parameters


def find_tensor_file(path: str) -> str:
    """Return the safetensors file of a path, which can be a folder."""
    return str(Path(path) / "model.safetensors") if Path(path).is_dir() else path


def count_file_bytes(path: Path) -> int:
    """Count the bytes of a file or folder."""
    return sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size


def write_files(folder: Path) -> dict[str, Path]:
    """Write the same network in every format."""
    import pickle

    import torch
    from safetensors.torch import save_file

    import resnext
    from resnext.weights.adapters.detectron2 import to_detectron2
    from resnext.weights.adapters.timm import to_timm

    model = resnext.create_model(NAME, seed=0).eval()
    state = model.state_dict()
    resnext.save(model, folder / "ours")
    (folder / "timm").mkdir()
    tensors, config = to_timm(model)
    save_file(tensors, folder / "timm" / "model.safetensors", metadata={"format": "pt"})
    (folder / "timm" / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "torchvision zip")
    torch.save(state, folder / "torchvision legacy", _use_new_zipfile_serialization=False)
    with (folder / "detectron2").open("wb") as file:
        pickle.dump(to_detectron2(model), file, protocol=4)
    torch.save({"epoch": 1, "model_state": {to_pycls_name(name): t for name, t in state.items()}}, folder / "pycls")
    write_torch7(folder / "torch7")
    return {kind: folder / kind for kind in READERS}


def to_pycls_name(name: str) -> str:
    """Convert a parameter name of ours to pycls's."""
    name = re.sub(r"layer(\d)\.(\d+)\.", lambda m: f"s{m[1]}.b{int(m[2]) + 1}.", name)
    name = name.replace("downsample.0", "proj").replace("downsample.1", "bn")
    name = re.sub(r"(s\d\.b\d+)\.(conv|bn)(\d)", lambda m: f"{m[1]}.f.{'abc'[int(m[3]) - 1]}{BN_SUFFIX[m[2]]}", name)
    return re.sub(r"^(conv|bn)1", r"stem.\1", name).replace("fc.", "head.fc.")


BN_SUFFIX = {"conv": "", "bn": "_bn"}


def write_torch7(path: Path) -> None:
    """Write a network as the released Torch7 files store it (form C, with gradients beside the weights): 200 MB."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.weights.adapters.torch7.module_trees import TreeBuilder, make_sequential
    from tests.weights.readers.torch7_writer import Object, Storage, dump

    class Release(TreeBuilder):
        def conv(self, *args: Any, **options: Any) -> Object:
            made = super().conv(*args, **options)
            shape = made.fields["weight"].sizes
            return Object(made.class_name, made.fields | {"gradWeight": self.draw(*shape)})

    trees = Release()
    window = {"padW": 1, "padH": 1, "kW": 3, "kH": 3, "dW": 2, "dH": 2}
    layers = [*trees.unit(3, 64, 7, 2), Object("nn.SpatialMaxPooling", window)]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        made = []
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            made.append(trees.block("C", channels, 4 << stage, 32, 256 << stage, stride))
            channels = 256 << stage
        layers.append(make_sequential(*made))
    layers.append(Object("cudnn.SpatialAveragePooling", {"kW": 7, "kH": 7, "dW": 1, "dH": 1, "padW": 0, "padH": 0}))
    layers.append(Object("nn.View", {"size": Storage("Long", [channels]), "numElements": channels, "numInputDims": 3}))
    layers.append(Object("nn.Linear", {"weight": trees.draw(1000, channels), "bias": trees.draw(1000)}))
    path.write_bytes(dump(make_sequential(*layers)))


if __name__ == "__main__":
    main()
