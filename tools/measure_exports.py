"""Compare exported files with the network in PyTorch, on real images, for every format, input and kind of network.

    python tools/measure_exports.py shared/data --out results/exports.csv
    python tools/measure_exports.py shared/data --networks imagenet --weights imagenet=resnext50.safetensors

``shared/data`` holds cifar10-jpeg.tar.xz and imagenet-sample-250.tar; Fashion-MNIST is that of the system or the cache.
The small networks are trained here for 50 steps, unless --weights names a run or file; without weights the
large one has random weights and BN statistics of the images. Each file is written as by ``resnext export`` and run in
batches of 1, 3 and 7 by a process that knows only the file. The pixels of the evaluation view inside of a file that
takes pictures are compared with Pillow's.
"""

import argparse
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import resnext
from resnext import Network
from resnext.bench.results import collect_protocol, write_rows
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import prepare_pixels
from resnext.deploy.engines import compute_relative_error
from resnext.deploy.export import ExportRequest, build_model, describe_export, write_model
from resnext.deploy.export_info import FORMATS, INPUTS
from resnext.deploy.fold import fold
from resnext.deploy.graph_interface import GraphInterface
from resnext.deploy.preprocess_graph import add_eval_view
from resnext.deploy.signal_stack import preserve_signal_stack
from resnext.deploy.verify import compute_reference, run_child
from resnext.evaluation.outputs import get_preprocessing
from resnext.evaluation.predict import compute_softmax
from resnext.settings import DataSettings

IMAGENET = Preprocessing(image_size=224, resize=256, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = {
    "data.source": "folder",
    "data.image_size": 32,
    "data.resize": 36,  # so that pictures are resized
    "augment.pad": 4,
    "model.name": "resnext11_4x8d",
    "model.blocks": None,
    "model.stage_widths": None,
    "model.stage_channels": None,
}
OVERRIDES: dict[str, dict[str, Any]] = {  # of the recipe small/fashion-mnist
    "grey": {"model.blocks": [1, 1, 1]},
    "colour": CIFAR,
    "pre-activation": CIFAR | {"model.pre_activation": True},
}
NETWORKS = (*OVERRIDES, "imagenet")
TRAIN_IMAGES = 3200  # 50 steps
View = Callable[[np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A network and the images it is measured on."""

    network: Network
    weights: str  # in words
    images: list[Image.Image]
    source: str  # of the images


def main() -> None:
    """Measure, and write the CSV after each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with cifar10-jpeg.tar.xz and imagenet-sample-250.tar")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=PATH", help="a run or weights file")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    weights = dict(one.split("=", 1) for one in args.weights)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in args.networks:
            case = make_case(kind, args.data, weights.get(kind), args.images, folder)
            command = f"python tools/measure_exports.py shared/data --networks {kind} --images {args.images}"
            facts = collect_protocol(command)
            rows: list[dict[str, object]] = []
            for row in measure(case, folder):
                rows.append({"network": kind} | row)
                if args.out is not None:
                    write_rows(args.out, rows, facts)


def make_case(kind: str, data: Path, weights: str | None, count: int, folder: Path) -> Case:
    """Load or train the network, and load images that it was not trained on."""
    if kind == "imagenet":
        images = list(read_tar(data / "imagenet-sample-250.tar", "val/", count))
        source = "imagenet-sample-250"
        if weights is None:
            network = resnext.create_model("resnext50_32x4d", seed=0)
            network.preprocessing = IMAGENET
            calibrate(network, images[:32])
            return Case(network, "random, with BN statistics of 32 of the images", images, source)
    else:
        overrides = dict(OVERRIDES[kind])
        if "data.source" in overrides:
            overrides["data.path"] = str(unpack_cifar(data / "cifar10-jpeg.tar.xz", folder))
        settings = DataSettings(source=overrides.get("data.source", "fashion_mnist"), path=overrides.get("data.path"))
        held_out = resnext.open_data(settings).val
        chosen = np.random.default_rng(0).permutation(len(held_out))[:count]
        images, source = [held_out.image(int(i)) for i in chosen], held_out.name
        if weights is None:
            common: dict[str, Any] = {"data.max_train_images": TRAIN_IMAGES, "data.max_val_images": 500}
            common |= {"train.epochs": 1, "train.precision": "fp32", "train.device": "cpu", "data.workers": 0}
            common |= {"train.ema_decay": 0.95, "data.download": False}
            run = resnext.train("small/fashion-mnist", folder / f"run-{kind}", overrides=overrides | common, quiet=True)
            weights = str(run.path)
    network = resnext.load(weights)
    return Case(network, f"trained, step {network.provenance.get('step', '?')}", images, source)


def read_tar(path: Path, prefix: str, count: int) -> Iterator[Image.Image]:
    """Read the first images of a tar file, in the order of their names."""
    with tarfile.open(path) as archive:
        members = sorted((m for m in archive if m.isfile() and m.name.startswith(prefix)), key=lambda m: m.name)
        for member in members[:count]:
            file = archive.extractfile(member)
            assert file is not None
            yield Image.open(file).convert("RGB")


def unpack_cifar(path: Path, folder: Path) -> Path:
    """Unpack some images of each class of both splits, once: ``train`` and ``val``."""
    out = folder / "cifar"
    if out.exists():
        return out
    seen: dict[str, int] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            split, _, name = member.name.partition("/")
            place = member.name.rpartition("/")[0]
            seen[place] = seen.get(place, 0) + 1
            if not member.isfile() or seen[place] > (1000 if split == "train" else 100):
                continue
            target = out / {"train": "train", "test": "val"}[split] / name
            target.parent.mkdir(parents=True, exist_ok=True)
            file = archive.extractfile(member)
            assert file is not None
            target.write_bytes(file.read())
    return out


def calibrate(network: Network, images: list[Image.Image]) -> None:
    """Set the BN statistics to those of the images, layer by layer in one pass."""
    p = get_preprocessing(network)
    pixels = np.stack([prepare_pixels(image, p) for image in images])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.inference_mode():
        network.train()(normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), p, "cpu"))
    network.eval()


def measure(case: Case, folder: Path) -> Iterator[dict[str, object]]:
    """Measure all files of a network; prints and yields rows."""
    network, images = case.network, case.images
    reference = compute_reference(network, images)
    best, scale = reference.argmax(1), np.linalg.norm(reference, axis=1)
    top = np.sort(reference, axis=1)
    margin = float((top[:, -1] - top[:, -2]).min() / np.abs(reference).max())
    p = get_preprocessing(network)
    views = [prepare_pixels(image, p) for image in images]
    for target in FORMATS:
        for given in INPUTS:
            request = ExportRequest(format=target, input=given)
            file = folder / f"model{FORMATS[target]}"
            write_model(
                build_model(fold(network), target, request.get_interface(p)),
                describe_export(network, request, None),
                file,
            )
            logits = run_child("resnext.deploy.verify", file, images)["logits"]
            pixels: dict[str, object] = {}
            if given == "picture":
                pixels = compare_pixels(build_view(target, p), images, views)
            row: dict[str, object] = {
                "architecture": network.architecture.name,
                "size": p.image_size,
                "weights": case.weights,
                "images": len(images),
                "source": case.source,
                "format": target,
                "input": given,
                "batches": "1 3 7",
                "relative_distance": f"{compute_relative_error(logits, reference):.2g}",
                "largest_relative_distance": f"{(np.linalg.norm(logits - reference, axis=1) / scale).max():.2g}",
                "same_top1": int((logits.argmax(1) == best).sum()),
                "largest_probability_difference": f"{np.abs(soften(logits) - soften(reference)).max():.2g}",
                "smallest_margin": f"{margin:.2g}",
                **pixels,
            }
            print(row, flush=True)
            yield row


def soften(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of each row."""
    return np.stack([compute_softmax(row) for row in logits])


def compare_pixels(view: View, images: list[Image.Image], views: list[np.ndarray]) -> dict[str, object]:
    """Compare the pixels of the view inside of a graph with Pillow's."""
    differences = []
    for image, expected in zip(images, views, strict=True):
        picture = np.array(image, np.uint8)
        found = view((picture if picture.ndim == 3 else picture[..., None])[None])[0].transpose(1, 2, 0)
        differences.append(np.abs(found.astype(int) - expected).ravel())
    joined = np.concatenate(differences)
    share = f"{(joined > 0).mean():.2g}" if joined.any() else "0"
    return {"different_values": share, "largest_level_difference": int(joined.max())}


def build_view(target: str, preprocessing: Preprocessing) -> View:
    """Build a graph of the evaluation view alone, from a picture [1, H, W, C] to pixels [1, C, S, S]."""
    interface = GraphInterface(input="picture", preprocessing=preprocessing)
    if target == "onnx":
        return _build_onnx_view(interface, preprocessing)
    if target == "openvino":
        return _build_openvino_view(interface, preprocessing)
    from resnext.deploy.torch_graph import TorchGraph

    graph = TorchGraph()
    graph.graph.output(add_eval_view(graph.graph.placeholder("images"), preprocessing, graph))
    module = torch.fx.GraphModule(graph.root, graph.graph)
    return lambda picture: np.asarray(module(torch.from_numpy(picture)))


def _build_onnx_view(interface: GraphInterface, preprocessing: Preprocessing) -> View:
    from onnx import TensorProto, helper

    from resnext.deploy.onnx_engine import create_session
    from resnext.deploy.onnx_graph import IR_VERSION, OPSET, OnnxGraph

    graph = OnnxGraph()
    name = add_eval_view("images", preprocessing, graph)
    shape = interface.get_shape(preprocessing.channels)
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, shape)
    made = helper.make_graph(graph.nodes, "view", [given], [helper.make_empty_tensor_value_info(name)], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = create_session(model.SerializeToString(), 1)
    return lambda picture: np.asarray(session.run(None, {"images": picture})[0])


def _build_openvino_view(interface: GraphInterface, preprocessing: Preprocessing) -> View:
    import openvino as ov

    from resnext.deploy.openvino_graph import OpenVinoGraph

    graph = OpenVinoGraph()
    shape = [n if isinstance(n, int) else -1 for n in interface.get_shape(preprocessing.channels)]
    x = graph.ops.parameter(ov.PartialShape(shape), np.uint8)
    model = ov.Model([add_eval_view(x, preprocessing, graph)], [x])
    with preserve_signal_stack():
        compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda picture: np.array(compiled(picture)[0])


if __name__ == "__main__":
    main()
