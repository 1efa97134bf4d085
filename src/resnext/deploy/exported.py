"""Open exported files: .onnx for ONNX Runtime, .xml (with .bin) for OpenVINO, .pt2 for PyTorch.

The files may come from anywhere. Nothing in them is executed, and what only a hostile file has is refused: data outside
of the file, operators of others. Except for .pt2, torch is not imported.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.choices import EngineChoice, EngineName, EnginePrecision, Goal, PrecisionChoice
from resnext.deploy.engines import Engine, EngineConfig, require_packages
from resnext.deploy.export_info import BIN_KEY, KEY, ExportInfo
from resnext.deploy.probe import describe_file, probe_engine
from resnext.environment import count_available_cores, has_bf16
from resnext.errors import RequestError, prefix_errors
from resnext.files import compute_sha256

if TYPE_CHECKING:
    import onnx

ENGINE_OF_SUFFIX: dict[str, EngineName] = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "pytorch"}
MAX_FILE_BYTES = 2 << 30  # protobuf's own limit
MAX_XML_BYTES = 8 << 20  # the graph of a network has less than one MB, thousands of class names about two
MAX_OPERATORS = 20_000  # a network of 1,202 layers has 5,000
MAX_SHAPE_TEXT = 1024  # characters of a shape in an .xml
XML_HEAD_BYTES = 4096
PROBE_SIDE = 64  # pixels, of files that take pictures of any size


@dataclass(frozen=True)
class ExportedModel:
    """An exported file: its facts and, read and checked, the model itself."""

    path: Path
    info: ExportInfo
    model: Any  # bytes of ONNX, an openvino.Model, or a TorchProgram
    is_isolated: bool = False  # whether a crash of the engine may end this process, so that nothing is tried first

    def choose_engine(self, engine: EngineChoice) -> EngineName:
        """Return the engine of the file. Raises RequestError if ``engine`` is another one and not "auto"."""
        own = ENGINE_OF_SUFFIX[self.path.suffix.lower()]
        if engine not in ("auto", own):
            raise RequestError(f"{self.path} runs on {own}, not on {engine}; leave the engine out, or export for it")
        return own

    def build_engine(
        self, engine: EngineChoice, precision: PrecisionChoice | None, goal: Goal, batch: int, streams: int | None
    ) -> tuple[EnginePrecision, str, Engine]:
        """Build the engine of the file; return the precision, the engine in words, and the engine.

        Raises RequestError if the file does not run on ``engine``, or not in ``precision``.
        """
        own = self.choose_engine(engine)
        precision = self._choose_precision(own, precision)
        threads = count_available_cores()
        if own == "pytorch":
            from resnext.deploy.torch_export_engine import TorchExportEngine

            with prefix_errors(self.path):
                return precision, f"{precision} on pytorch exported", TorchExportEngine(self.model, self.info)
        if not self.is_isolated:
            self._probe(own, precision)
        if own == "onnxruntime":
            from resnext.deploy.onnx_engine import OnnxEngine

            return precision, f"{precision} on onnxruntime", OnnxEngine(self.model, threads)
        from resnext.deploy.openvino_engine import OpenVinoEngine

        config = EngineConfig(own, "folded", streams=streams or 1)
        if streams is None and goal == "throughput" and batch > 1 and threads > 1 and self.info.input != "picture":
            config = EngineConfig(own, "folded", piece=min(max(1, batch // (2 * threads)), 4), streams=threads)
        made = OpenVinoEngine(self.model, precision, config.piece, config.streams, threads)
        return precision, f"{precision} on {config.description}", made

    def _probe(self, engine: str, precision: str) -> None:
        """Run one batch in a child process, so that an engine that crashes does not end this one."""
        p = self.info.preprocessing
        sides = [PROBE_SIDE, PROBE_SIDE] if self.info.input == "picture" else [p["image_size"]] * 2
        is_float = self.info.input == "normalised"
        batch = self.info.batch or 1
        shape = (batch, p["channels"], *sides) if is_float else (batch, *sides, p["channels"])
        key = describe_file(self.path)
        probe_engine(self.path, engine, precision, shape, "float32" if is_float else "uint8", key)

    def _choose_precision(self, engine: EngineName, precision: PrecisionChoice | None) -> EnginePrecision:
        """Return the precision to compute in. Raises RequestError if the file has another one."""
        if precision in (None, self.info.precision):
            return self.info.precision
        able = engine == "openvino" and self.info.precision == "fp32"
        if precision == "auto":
            return "bf16" if able and has_bf16() else self.info.precision
        if precision == "bf16" and able:
            return "bf16"
        raise RequestError(f"{self.path} is in {self.info.precision}; export it again for {precision}")


def find_exported_file(source: Path | str) -> Path | None:
    """Return the exported file that a path names: the file itself, or the only one of a folder or its newest version.

    Returns None for anything else: a weights file, a run, an address. Raises RequestError for a folder with several.
    """
    if "://" in str(source):
        return None
    path = Path(source)
    if path.suffix.lower() in ENGINE_OF_SUFFIX and not path.is_dir():
        return path
    if not path.is_dir() or (path / "recipe.yaml").exists():
        return None
    versions = sorted(
        (one for one in path.iterdir() if one.name.isdecimal() and one.is_dir()), key=lambda one: int(one.name)
    )
    for folder in (path, *versions[-1:]):
        found = sorted(one for one in folder.iterdir() if one.suffix.lower() in ENGINE_OF_SUFFIX and one.is_file())
        if len(found) > 1:
            names = ", ".join(one.name for one in found)
            raise RequestError(f"{folder} has several exported files ({names}); name one of them")
        if found:
            return found[0]
    return None


def open_exported(path: Path) -> ExportedModel:
    """Read an exported file of ``resnext export``.

    Raises:
        RequestError: The file is missing, too large, broken or hostile, or a package that reads it is not installed.
    """
    engine = ENGINE_OF_SUFFIX.get(path.suffix.lower())
    if engine is None:
        raise RequestError(f"{path} is not an exported file; expected {', '.join(ENGINE_OF_SUFFIX)}")
    if not path.is_file():
        raise RequestError(f"{path} does not exist")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise RequestError(f"{path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
    require_packages(engine)
    open_file = {"onnxruntime": _open_onnx, "openvino": _open_openvino, "pytorch": _open_torch_export}[engine]
    with prefix_errors(path):
        model, text = open_file(path)
        if text is None:
            raise RequestError(f"it has no {KEY} in its metadata, so it was not written by resnext export")
        info = ExportInfo.from_json(text)
    return ExportedModel(path, info, model)


def _open_onnx(path: Path) -> tuple[bytes, str | None]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from resnext.deploy.onnx_size import check_onnx_size

    data = path.read_bytes()
    check_onnx_size(data)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise RequestError(f"it is not an ONNX model: {str(error)[:200]}") from None
    _check_onnx(model)
    return data, next((entry.value for entry in model.metadata_props if entry.key == KEY), None)


def _check_onnx(model: "onnx.ModelProto") -> None:
    """Raise RequestError for data in other files, own functions, and operators of other domains."""
    import onnx

    for domain in {node.domain for node in model.graph.node} | {opset.domain for opset in model.opset_import}:
        if domain not in ("", "ai.onnx"):
            raise RequestError(f"it has operators of the domain {domain!r}; only those of ONNX itself are run")
    if model.functions:
        raise RequestError("it defines functions of its own; only operators of ONNX itself are run")
    if len(model.graph.node) > MAX_OPERATORS:
        raise RequestError(f"it has {len(model.graph.node):,} operators; at most {MAX_OPERATORS:,} are run")
    if model.graph.sparse_initializer:
        raise RequestError("it has sparse weights, which no file of ours has")
    external = onnx.TensorProto.EXTERNAL
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise RequestError(f"its operator {node.op_type} has a graph inside, which no file of ours has")
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise RequestError(f"its operator {node.op_type} has sparse weights, which no file of ours has")
            tensors += [attribute.t, *attribute.tensors]
    if any(tensor.data_location == external or tensor.external_data for tensor in tensors):
        raise RequestError("it keeps data in other files, which are not read")


def _open_openvino(path: Path) -> tuple[Any, str | None]:
    from resnext.deploy.openvino_engine import import_openvino
    from resnext.deploy.signal_stack import preserve_signal_stack

    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise RequestError(f"its weights, {weights.name}, do not lie beside it")
    _check_openvino_xml(path)
    core = import_openvino().Core()
    try:
        with preserve_signal_stack():
            model = core.read_model(path, weights)
    except RuntimeError as error:
        raise RequestError(f"OpenVINO cannot read it: {_shorten(error)}") from None
    text = _get_rt_text(model, KEY)
    if text is not None and _get_rt_text(model, BIN_KEY) != compute_sha256(weights):
        raise RequestError(f"its weights, {weights.name}, are not those it was written with; export it again")
    return model, text


def _get_rt_text(model: Any, key: str) -> str | None:
    """Return an entry of a model's rt_info."""
    path = key.split(".")
    return str(model.get_rt_info(path).astype(str)) if model.has_rt_info(path) else None


def _check_openvino_xml(path: Path) -> None:
    """Raise RequestError unless the file is a plain XML of a network, with operators of OpenVINO itself."""
    if path.stat().st_size > MAX_XML_BYTES:
        raise RequestError(f"it is larger than {MAX_XML_BYTES >> 20} MB")
    text = path.read_bytes()
    if b"<net" not in text[:XML_HEAD_BYTES] or b"<!" in text:
        raise RequestError("it is not a model of OpenVINO")
    if (count := text.count(b"<layer ")) > MAX_OPERATORS:
        raise RequestError(f"it has {count:,} operators; at most {MAX_OPERATORS:,} are run")
    if re.search(rb"""shape\s*=\s*["'][^"']{%d}""" % MAX_SHAPE_TEXT, text):
        raise RequestError(f"it has a shape of more than {MAX_SHAPE_TEXT:,} characters")
    for opset in set(re.findall(rb'<layer\b[^>]*?\bversion="([^"]*)"', text)):
        if not re.fullmatch(rb"opset\d+", opset):
            name = opset.decode(errors="replace")[:40]
            raise RequestError(f"it has operators of {name!r}; only those of OpenVINO itself are run")


def _open_torch_export(path: Path) -> tuple[Any, str | None]:
    from resnext.deploy.torch_export_reader import read_torch_export

    return read_torch_export(path)


def _shorten(error: Exception) -> str:
    """Return the last line of an error of OpenVINO, whose first lines name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
