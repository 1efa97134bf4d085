"""Export a classifier: write the file, verify it in another process, and put it in place only if it agrees."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from resnext.choices import EXPORT_PRECISIONS, ExportFormat, ExportPrecision, InputKind
from resnext.data.preprocessing import Preprocessing, check_choice
from resnext.deploy.export_info import FORMATS, ExportInfo, list_tool_versions
from resnext.deploy.fold import FoldedNetwork, fold
from resnext.deploy.graph_interface import GraphInterface
from resnext.deploy.model_files import move_into_place, work_beside, write_model
from resnext.deploy.verify import Agreement, compare_with_network
from resnext.errors import RequestError, WorkError
from resnext.evaluation.outputs import get_preprocessing
from resnext.model.network import Network

if TYPE_CHECKING:
    from resnext.deploy.int8_export import Int8Plan

# packages whose versions are written into the file
TOOLS: dict[ExportFormat, tuple[str, ...]] = {"onnx": ("onnx",), "openvino": ("openvino",), "torch-export": ()}
INT8_TOOLS = ("nncf",)
MAX_ONNX_BYTES = 1_800_000_000  # protobuf ends at 2 GB
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export. Raises RequestError for values that contradict each other."""

    format: ExportFormat
    input: InputKind = "pixels"
    with_cam: bool = False  # whether there is an output ``cam``
    batch: int | None = None  # a fixed number of images in a batch; None: any number
    bgr: bool = False  # whether the input channels are in the order blue, green, red
    precision: ExportPrecision = "fp32"

    def __post_init__(self) -> None:
        check_choice("format", self.format, tuple(FORMATS))
        check_choice("precision", self.precision, EXPORT_PRECISIONS)
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
        is_exact = info.precision == "fp32" and request.input != "picture"
        agreement = compare_with_network(network, file, images, is_exact)
        agreement.check(request.input, info.precision)
        info = replace(info, agreement=agreement.to_dict())
        write_model(model, info, file)
        compare_with_network(network, file, images[:1], is_exact).check(request.input, info.precision)
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
        from resnext.deploy.openvino_engine import INT8_SHAPES, find_dynamic_nodes
        from resnext.deploy.openvino_graph import replace_input

        model = replace_input(quantised, interface)
        if dynamic := find_dynamic_nodes(model):
            raise WorkError(f"the int8 model has a dimension of any size, at {dynamic[0]}; {INT8_SHAPES}")
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
