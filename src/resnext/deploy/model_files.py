"""Write the files of a model with their metadata, in a folder beside their place; rename them when they are whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from resnext.deploy.export_info import BIN_KEY, KEY, ExportInfo
from resnext.errors import WorkError
from resnext.files import compute_sha256, report_write_errors, sync_folder
from resnext.version import __version__


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
    """Write an openvino.Model as .xml and .bin, with our metadata and that of OpenVINO's Model API.

    The .xml has the SHA-256 of its .bin, so that a .xml beside the .bin of another export is found out.
    """
    from resnext.deploy.openvino_engine import import_openvino
    from resnext.deploy.signal_stack import preserve_signal_stack

    save = import_openvino().save_model
    with preserve_signal_stack():
        model.set_rt_info(info.to_json(), KEY.split("."))
        for key, value in list_model_api_metadata(info).items():
            model.set_rt_info(value, ["model_info", key])
        try:
            save(model, path, compress_to_fp16=False)
            model.set_rt_info(compute_sha256(path.with_suffix(".bin")), BIN_KEY.split("."))
            save(model, path, compress_to_fp16=False)
        except RuntimeError as error:  # OpenVINO does not say why
            raise WorkError(f"{path} could not be written ({str(error)[-100:]}); is the disk full?") from None


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
    """Rename the finished file, and its weights before it, to ``out``; return the bytes of all.

    A .xml and its .bin cannot be renamed at once: between the two, the old .xml does not open with the new .bin.
    """
    with report_write_errors(out):
        moves: Mapping[Path, Path] = {file.with_suffix(".bin"): out.with_suffix(".bin"), file: out}
        sources = [source for source in moves if source.exists()]
        size = 0
        for source in sources:
            with source.open("rb") as opened:
                size += os.fstat(opened.fileno()).st_size
                os.fsync(opened.fileno())
        for source in sources:
            source.replace(moves[source])
        sync_folder(out.parent)
        if not out.exists():
            raise WorkError(f"{out} could not be written")
        return size
