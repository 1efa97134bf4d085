"""Export a classifier: write the file, verify it in another process, and put it in place only if it agrees."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from resnext.data.preprocessing import Preprocessing, check_choice
from resnext.deploy.export_info import FORMATS, KEY, ExportInfo, list_tool_versions
from resnext.deploy.fold import FoldedNetwork, fold
from resnext.deploy.graph_interface import GraphInterface, InputKind
from resnext.deploy.verify import Agreement, compare_with_network
from resnext.errors import RequestError, WorkError
from resnext.evaluation.outputs import get_preprocessing
from resnext.files import report_write_errors
from resnext.model.network import Network
from resnext.version import __version__

if TYPE_CHECKING:
    from resnext.deploy.int8_export import Int8Plan

# packages whose versions are written into the file
TOOLS: dict[str, tuple[str, ...]] = {"onnx": ("onnx",), "openvino": ("openvino",), "torch-export": ()}
INT8_TOOLS = ("nncf",)
MAX_ONNX_BYTES = 1_800_000_000  # protobuf ends at 2 GB
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export. Raises RequestError for values that contradict each other."""

    format: str  # a key of FORMATS
    input: InputKind = "pixels"
    with_cam: bool = False  # whether there is an output ``cam``
    batch: int | None = None  # a fixed number of images in a batch; None: any number
    bgr: bool = False  # whether the input channels are in the order blue, green, red
    precision: str = "fp32"  # fp32 or int8

    def __post_init__(self) -> None:
        check_choice("format", self.format, tuple(FORMATS))
        check_choice("precision", self.precision, ("fp32", "int8"))
        if self.precision == "int8" and self.format == "torch-export":
            raise RequestError("torch-export has no int8; choose --to openvino, the fastest in int8, or onnx")
        if self.precision == "int8" and self.format == "openvino":
            if self.input == "picture":  # its height and width are dynamic
                raise RequestError(
                    "OpenVINO crashes on some processors with int8 and pictures of any size (openvino#37577): choose "
                    "--input pixels, or --to onnx"
                )
            if self.batch is None:
                object.__setattr__(self, "batch", 1)  # no dimension may be dynamic, for the same reason

    def get_interface(self, preprocessing: Preprocessing) -> GraphInterface:
        """Return input and outputs of the graph."""
        return GraphInterface(
            input=self.input,
            preprocessing=preprocessing,
            probabilities=True,
            with_cam=self.with_cam,
            batch=self.batch,
            bgr=self.bgr,
        )


@dataclass(frozen=True)
class ExportResult:
    """A finished export."""

    path: Path
    info: ExportInfo
    agreement: Agreement
    size: int  # bytes of all its files


def export_classifier(
    network: Network,
    out: Path,
    request: ExportRequest,
    images: Sequence[Image.Image],
    *,
    weights_sha256: str | None = None,
    int8: "Int8Plan | None" = None,
    progress: Progress = lambda _: None,
    image_progress: Callable[[int, int], None] = lambda *_: None,
) -> ExportResult:
    """Write a network to a file for another runtime, if the file gives the network's results.

    The file is written into a temporary folder beside ``out``; a process that knows only this file computes logits of
    the images, in several batch sizes; they are compared with the network's own in PyTorch. Only then it is renamed.

    Args:
        network: The network, with preprocessing, on the CPU.
        out: The file to write; an OpenVINO model is a .xml with a .bin of the same name beside it.
        request: Format, input and outputs.
        images: Real images to verify with, as data sets give them; a few dozen.
        weights_sha256: Hash of the weights file, for the record.
        int8: For a request of precision int8: calibration images, and the held-out images that decide.
        progress: Called with a few words before each step.
        image_progress: Called with the number of held-out images done and of all.

    Raises:
        RequestError: The network cannot be exported like this.
        WorkError: The file does not agree with the network, loses too much accuracy, or could not be written; ``out``
            is then unchanged.
    """
    if (int8 is not None) != (request.precision == "int8"):
        raise RequestError("int8 needs calibration images and labelled held-out images, and only int8 does")
    preprocessing, folded = get_preprocessing(network), fold(network)
    interface = request.get_interface(preprocessing)
    info = describe_export(network, request, weights_sha256)
    with work_beside(out) as folder:
        file = folder / out.name
        progress(f"writing {request.format}")
        if int8 is None:
            model = build_model(folded, request.format, interface)
        else:
            model, info = build_int8_model(network, folded, request, info, file, int8, progress, image_progress)
        write_model(model, info, file)
        progress(f"verifying with {len(images)} images in a process of its own")
        agreement = compare_with_network(network, file, images)
        agreement.check(request.input, info.precision)
        info = replace(info, agreement=agreement.to_dict())
        write_model(model, info, file)
        compare_with_network(network, file, images[:1]).check(request.input, info.precision)
        return ExportResult(out, info, agreement, move_into_place(file, out))


def build_int8_model(
    network: Network,
    folded: FoldedNetwork,
    request: ExportRequest,
    info: ExportInfo,
    file: Path,
    plan: "Int8Plan",
    progress: Progress,
    image_progress: Callable[[int, int], None],
) -> tuple[Any, ExportInfo]:
    """Quantise the network for normalised images, put preprocessing before it, and judge ``file`` with both.

    Returns the model and the completed facts. Raises WorkError if it loses too much accuracy.
    """
    from resnext.deploy.int8_export import quantize_within_loss
    from resnext.deploy.int8_judge import Judge

    interface = request.get_interface(get_preprocessing(network))

    def finish(quantised: Any) -> Any:
        if request.format == "onnx":
            from resnext.deploy.onnx_graph import replace_onnx_input

            return replace_onnx_input(quantised, interface).SerializeToString()
        from resnext.deploy.openvino_graph import find_dynamic_nodes, replace_input

        model = replace_input(quantised, interface)
        if dynamic := find_dynamic_nodes(model):
            raise WorkError(f"the int8 model has dimensions of any size, at {dynamic[0]}; nothing was written")
        return model

    def write(quantised: Any) -> Path:
        write_model(finish(quantised), info, file)
        return file

    batch = None if request.format == "onnx" else 1  # NNCF calibrates on one image at a time
    model = build_model(folded, request.format, replace(interface, input="normalised", bgr=False, batch=batch))
    if request.format == "onnx":
        import onnx

        model = onnx.load_model_from_string(model)
        for node in model.graph.node:
            node.name = node.output[0]  # NNCF finds nodes by their names
    result = quantize_within_loss(model, plan, Judge(network, plan.judged, image_progress), write, progress)
    return finish(result.model), replace(info, int8=result.to_dict(plan))


def describe_export(network: Network, request: ExportRequest, weights_sha256: str | None) -> ExportInfo:
    """Collect what the file says about itself."""
    has_classifier = network.architecture.num_classes > 0
    int8_tools = INT8_TOOLS if request.precision == "int8" else ()
    tools = ["pillow", *TOOLS[request.format], *int8_tools]  # Pillow's resizing has changed
    outputs = ["logits", *["probabilities"] * has_classifier, *["cam"] * (has_classifier and request.with_cam)]
    return ExportInfo(
        task="classification",
        input=request.input,
        outputs=outputs,
        precision=request.precision,
        architecture=network.architecture.to_dict(),
        preprocessing=get_preprocessing(network).to_dict(),
        classes=None if network.classes is None else list(network.classes),
        batch=request.batch,
        bgr=request.bgr,
        weights_sha256=weights_sha256,
        provenance=json.loads(json.dumps(network.provenance, default=str)),
        tools=list_tool_versions(tools),
    )


def build_model(folded: FoldedNetwork, target: str, interface: GraphInterface) -> Any:
    """Build the model in memory: bytes of ONNX, an openvino.Model, or an ExportedProgram.

    Raises RequestError if it gets too large.
    """
    if target == "onnx":
        from resnext.deploy.onnx_graph import build_onnx_model

        size = sum(4 * parameter.numel() for parameter in folded.parameters())
        if size > MAX_ONNX_BYTES:
            raise RequestError(f"an ONNX file holds at most 2 GB, but these weights take {size:,} bytes; use openvino")
        return build_onnx_model(folded, interface)
    if target == "torch-export":
        from resnext.deploy.torch_export import build_torch_program

        return build_torch_program(folded, interface)
    from resnext.deploy.openvino_graph import build_openvino_model

    return build_openvino_model(folded, interface)


def write_model(model: Any, info: ExportInfo, path: Path) -> None:
    """Write a model with its metadata. Raises WorkError if it cannot be written."""
    with report_write_errors(path):
        if path.suffix == ".onnx":
            path.write_bytes(add_onnx_metadata(model, info))
        elif path.suffix == ".pt2":
            from resnext.deploy.torch_export import write_torch_program

            write_torch_program(model, info, path)
        else:
            write_openvino(model, info, path)


def add_onnx_metadata(model: bytes, info: ExportInfo) -> bytes:
    """Return the ONNX model with our metadata, and that of ultralytics and of ONNX's own MetadataProps.md."""
    import onnx

    proto = onnx.load_model_from_string(model)
    proto.producer_name, proto.producer_version = "resnext", __version__
    onnx.helper.set_model_props(proto, {KEY: info.to_json(), **list_foreign_metadata(info)})
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString()
    return data


def list_foreign_metadata(info: ExportInfo) -> dict[str, str]:
    """Return the metadata entries that other programs read."""
    size = info.preprocessing.get("image_size")
    known = {
        "task": "classify" if info.task == "classification" else "detect",
        "names": str(dict(enumerate(info.classes or ()))),  # ultralytics reads a Python dict
        "imgsz": str([size, size]) if size else "",
        "Image.BitmapPixelFormat": "Bgr8" if info.bgr else "Rgb8",
        "Image.NominalPixelRange": "NominalRange_0_255" if info.input != "normalised" else "",
    }
    return {key: value for key, value in known.items() if value}


def write_openvino(model: Any, info: ExportInfo, path: Path) -> None:
    """Write an openvino.Model as .xml and .bin, with our metadata and that of OpenVINO's Model API."""
    from resnext.deploy.openvino_engine import import_openvino
    from resnext.deploy.signal_stack import preserve_signal_stack

    with preserve_signal_stack():
        model.set_rt_info(info.to_json(), KEY.split("."))
        for key, value in list_model_api_metadata(info).items():
            model.set_rt_info(value, ["model_info", key])
        import_openvino().save_model(model, path, compress_to_fp16=False)


def list_model_api_metadata(info: ExportInfo) -> dict[str, str]:
    """Return the entries of OpenVINO's Model API; its labels are separated by spaces, so names have none inside."""
    if info.task != "classification":
        return {"model_type": "DetectionModel", "labels": _join_labels(info)}
    return {
        "model_type": "Classification",
        "labels": _join_labels(info),
        "resize_type": "crop" if info.preprocessing.get("fit") == "crop" else "standard",
        "reverse_input_channels": str(not info.bgr),  # Model API reads images in the order blue, green, red
        "multilabel": "False",
        "output_raw_scores": "True",
    }


def _join_labels(info: ExportInfo) -> str:
    return " ".join("_".join(name.split()) or "_" for name in info.classes or ())


@contextmanager
def work_beside(out: Path) -> Iterator[Path]:
    """Make a temporary folder beside ``out``, on the same disk, and remove it afterwards."""
    made = not out.parent.exists()
    with report_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made and not out.exists():
            with suppress(OSError):
                out.parent.rmdir()


def move_into_place(file: Path, out: Path) -> int:
    """Rename the finished file, and its weights before it, to ``out``; return the bytes of all."""
    with report_write_errors(out):
        moves: Mapping[Path, Path] = {file.with_suffix(".bin"): out.with_suffix(".bin"), file: out}
        size = 0
        for source, target in moves.items():
            if source.exists():
                size += source.stat().st_size
                source.replace(target)
        if not out.exists():
            raise WorkError(f"{out} could not be written")
        return size
