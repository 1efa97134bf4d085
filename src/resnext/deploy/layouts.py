"""Write the model repository of another model server: OpenVINO Model Server, Triton, or KServe on top of either."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from resnext.choices import ExportFormat, ExportPrecision
from resnext.deploy.export import ExportRequest, ExportResult, Progress, export_classifier
from resnext.deploy.export_info import ExportInfo
from resnext.deploy.layout_readme import make_readme
from resnext.deploy.model_files import work_beside
from resnext.errors import RequestError, did_you_mean
from resnext.files import report_write_errors
from resnext.model.network import Network

if TYPE_CHECKING:
    from resnext.deploy.int8_export import Int8Plan

LayoutName = Literal["ovms", "triton", "kserve"]
LAYOUTS: dict[LayoutName, tuple[ExportFormat, ...]] = {
    "ovms": ("openvino",),
    "triton": ("onnx",),
    "kserve": ("onnx", "openvino"),
}  # --layout, and its formats
MAX_BATCH_SIZE = 32  # the most images that Triton puts into one batch
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_KSERVE_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def check_layout(layout: LayoutName, target: ExportFormat, name: str, storage_uri: str | None) -> None:
    """Raise RequestError if layout, format, model name and storage do not fit each other."""
    if layout not in LAYOUTS:
        raise RequestError(f"--layout {layout!r} is unknown{did_you_mean(layout, LAYOUTS)}")
    if target not in LAYOUTS[layout]:
        raise RequestError(f"--layout {layout} needs --to {' or '.join(LAYOUTS[layout])}, not {target}")
    if not _NAME.fullmatch(name):
        raise RequestError(f"--name {name!r} should be letters, digits, - and _, at most 100, beginning with no sign")
    if layout == "kserve" and not _KSERVE_NAME.fullmatch(name):
        raise RequestError(f"--name {name!r} should be a Kubernetes name: lower-case letters, digits and -, at most 63")
    if layout == "kserve" and not storage_uri:
        raise RequestError("--layout kserve needs --storage-uri, from where the cluster fetches the folder")
    if layout != "kserve" and storage_uri:
        raise RequestError(f"--storage-uri is for --layout kserve, not {layout}")
    if storage_uri and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s\"\\\x00-\x1f]+", storage_uri):
        raise RequestError(f"--storage-uri {storage_uri!r} should be an address such as s3://bucket/folder")


def write_layout(
    network: Network,
    out: Path,
    layout: LayoutName,
    target: ExportFormat,
    name: str,
    images: Sequence[Image.Image],
    *,
    storage_uri: str | None = None,
    weights_sha256: str | None = None,
    int8: "Int8Plan | None" = None,
    progress: Progress = lambda _: None,
    image_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[ExportResult]:
    """Export a network into a new model repository; the folder appears only when every file in it is verified.

    Args:
        network: The network, with preprocessing, on the CPU.
        out: The folder to make.
        layout: The model server.
        target: The format: onnx or openvino, as the layout takes it.
        name: Name of the model on the server.
        images: Real images to verify with.
        storage_uri: Where KServe finds the folder.
        weights_sha256: Hash of the weights file, for the record.
        int8: To quantise: calibration images, and the held-out images that decide. OVMS then gets no model for encoded
            pictures, whose height and width would be of any size.
        progress: Called with a few words before each step.
        image_progress: Called with the number of held-out images done and of all.

    Raises:
        RequestError: The arguments do not fit each other, or ``out`` exists.
        WorkError: A file does not agree with the network, loses too much accuracy in int8, or could not be written;
            ``out`` is then not made.
    """
    check_layout(layout, target, name, storage_uri)
    if out.exists():
        raise RequestError(f"--out {out} exists; --layout makes a new folder")
    if network.architecture.num_classes == 0:
        raise RequestError("--layout needs a network with classes; this one gives features")
    requests = choose_requests(network, layout, target, name, "fp32" if int8 is None else "int8")
    with work_beside(out) as work, report_write_errors(out):
        folder = work / "layout"
        models = folder / "storage" if layout == "kserve" else folder
        models.mkdir(parents=True)
        results = []
        for model, request in requests.items():
            # KServe starts OpenVINO's server on one model: the storage is the model's folder
            place = models if layout == "kserve" and target == "openvino" else models / model
            file = place / "1" / ("model.onnx" if target == "onnx" else "model.xml")
            results.append(
                export_classifier(
                    network,
                    file,
                    request,
                    images,
                    weights_sha256=weights_sha256,
                    int8=int8,
                    progress=progress,
                    image_progress=image_progress,
                )
            )
        infos = dict(zip(requests, (result.info for result in results), strict=True))
        info = results[0].info
        if target == "onnx":
            add_triton_files(models, name, info)
        elif layout == "ovms":
            (folder / "config.json").write_text(make_ovms_config(infos), "utf-8")
        if target == "openvino":
            (folder / "labels.txt").write_text(make_labels(info), "utf-8")
        if storage_uri is not None:
            (folder / "inference-service.yaml").write_text(make_inference_service(name, target, storage_uri), "utf-8")
        (folder / "README.md").write_text(make_readme(layout, target, name, info), "utf-8")
        folder.chmod(0o755)
        folder.rename(out)
    return [replace(result, path=out / result.path.relative_to(folder)) for result in results]


def choose_requests(
    network: Network, layout: LayoutName, target: ExportFormat, name: str, precision: ExportPrecision = "fp32"
) -> dict[str, ExportRequest]:
    """Choose the models of a layout: name on the server, and what to export.

    OVMS has one for encoded pictures too, except in int8.
    """
    pixels = ExportRequest(format=target, input="pixels", precision=precision)
    if layout != "ovms":
        return {name: pixels}
    if precision == "int8":
        return {f"{name}-pixels": pixels}
    bgr = network.architecture.in_channels == 3  # OVMS decodes pictures to blue, green, red
    return {name: ExportRequest(format=target, input="picture", bgr=bgr), f"{name}-pixels": pixels}


def add_triton_files(folder: Path, name: str, info: ExportInfo) -> None:
    """Write config.pbtxt and, where class names are known, labels.txt into the model's folder."""
    (folder / name / "config.pbtxt").write_text(make_triton_config(name, info), "utf-8")
    if info.classes:
        (folder / name / "labels.txt").write_text(make_labels(info), "utf-8")


def make_labels(info: ExportInfo) -> str:
    """Return the class names, one a line; a line break or control character inside a name is escaped."""
    lines = (re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda m: ascii(m[0])[1:-1], n) for n in info.classes or ())
    return "".join(f"{line}\n" for line in lines)


def make_triton_config(name: str, info: ExportInfo) -> str:
    """Return Triton's config.pbtxt of a file with input pixels and without cam; dims leave out the batch."""
    p, classes = info.parse_preprocessing(), info.parse_architecture().num_classes
    size = p.image_size
    outputs = []
    for output in info.outputs:
        label = ' label_filename: "labels.txt"' if output == "probabilities" and info.classes else ""
        outputs.append(f'  {{ name: "{output}" data_type: TYPE_FP32 dims: [ {classes} ]{label} }}')
    joined = ",\n".join(outputs)
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH_SIZE}
dynamic_batching {{ }}
input [
  {{ name: "images" data_type: TYPE_UINT8 dims: [ {size}, {size}, {p.channels} ] }}
]
output [
{joined}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
# threads of one instance; 0: as many as the machine has cores. In a container with fewer, write their number.
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "0" }} }}
"""


def make_ovms_config(infos: dict[str, ExportInfo]) -> str:
    """Return OVMS's config.json for a repository mounted at /models; it repeats the shapes of the files."""
    models = []
    for model, info in infos.items():
        config: dict[str, object] = {"name": model, "base_path": f"/models/{model}", "layout": {"images": "NHWC:NHWC"}}
        if info.input == "picture":
            config["shape"] = {"images": f"(1,-1,-1,{info.parse_preprocessing().channels})"}
        else:
            p = info.parse_preprocessing()
            config["shape"] = {"images": f"({info.batch or -1},{p.image_size},{p.image_size},{p.channels})"}
        models.append({"config": config})
    return json.dumps({"model_config_list": models}, indent=2) + "\n"


def make_inference_service(name: str, target: str, storage_uri: str) -> str:
    """Return the YAML of a KServe InferenceService; it needs ``protocolVersion: v2`` to find a runtime."""
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {json.dumps(name)}
spec:
  predictor:
    model:
      modelFormat:
        name: {target}
      protocolVersion: v2
      storageUri: {json.dumps(storage_uri)}
"""
