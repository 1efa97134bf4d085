"""The tensors of the Open Inference Protocol: the input ``images``, and the outputs of a request.

Source: kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``; for ``classification`` Triton's
``protocol/extension_classification.md``.
"""

import json
import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from resnext.serving.answers import get_class_name
from resnext.serving.bodies import decode_base64
from resnext.serving.limits import Limits
from resnext.serving.problems import ProblemError
from resnext.serving.served_model import ServedModel
from resnext.serving.service import ClassifiedImage, DetectedImage, Picture
from resnext.serving.v2_binary import decode_elements, encode_elements

INPUT = "images"
MAX_JSON_VALUES = 1_000_000  # of a tensor in JSON; larger ones go by the binary extension
ENCODED_AT_ONCE = 4096  # values
DATATYPES = {"logits": "FP32", "probabilities": "FP32", "cam": "FP32", "boxes": "FP32", "labels": "INT64"}
DATATYPES["scores"] = "FP32"


@dataclass(frozen=True)
class OutputRequest:
    """An output that a request asks for."""

    name: str
    is_binary: bool = False
    classification: int = 0  # number of classes; 0 for the tensor itself


def describe_input(model: ServedModel) -> list[int]:
    """Return the shape of UINT8 images, with -1 for sizes that may vary."""
    if model.takes_pictures:
        channels = 3 if model.task == "detection" else model.predictor.preprocessing.channels
        return [1, -1, -1, channels]
    p = model.predictor.preprocessing
    return [-1, p.image_size, p.image_size, p.channels]


def list_outputs(model: ServedModel) -> dict[str, list[int]]:
    """List the outputs of a model with their shapes, -1 for sizes that may vary."""
    if model.task == "detection":
        return {"boxes": [-1, 4], "labels": [-1], "scores": [-1]}
    count = len(model.classes)
    outputs = {"logits": [-1, count], "probabilities": [-1, count]}
    if getattr(model.predictor, "has_cam", False):
        outputs["cam"] = [-1, count, -1, -1]
    return outputs


def parse_images(values: object, data: memoryview, model: ServedModel, limits: Limits) -> list[Picture]:
    """Return the images of the only input. Raises ProblemError: 400, or 413 for too many images.

    Args:
        values: ``inputs`` of the request.
        data: The bytes behind the JSON.
        model: The model they are for.
        limits: The limits of the server.
    """
    if not isinstance(values, list) or len(values) != 1 or not isinstance(values[0], dict):
        raise ProblemError(400, f"inputs must be a list with one tensor, {INPUT}")
    tensor: dict[str, Any] = values[0]
    if tensor.get("name") != INPUT:
        raise ProblemError(400, f"the input must be named {INPUT}")
    shape, datatype = tensor.get("shape"), tensor.get("datatype")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 4 or any(type(n) is not int or n < 1 for n in shape):
        raise ProblemError(400, f"the shape of {INPUT} must be a list of whole numbers from 1")
    if shape[0] > limits.images:
        raise ProblemError(413, f"the request has {shape[0]} images; at most {limits.images} are accepted", "images")
    raw = _find_binary(tensor, data)
    if datatype == "BYTES":
        if shape[1:] not in ([], [1]) or (model.task == "detection" and shape[0] != 1):
            raise ProblemError(400, f"BYTES {INPUT} must have the shape [{'1' if model.task == 'detection' else 'N'}]")
        return list(_parse_pictures(tensor, raw, shape[0]))
    if datatype == "UINT8":
        return list(_parse_pixels(tensor, raw, shape, describe_input(model), limits))
    raise ProblemError(400, f"the datatype of {INPUT} must be UINT8 or BYTES")


def _find_binary(tensor: dict[str, Any], data: memoryview) -> memoryview | None:
    """Return the binary data of a tensor; None if its data are in the JSON."""
    parameters = tensor.get("parameters")
    if not isinstance(parameters, dict | None):
        raise ProblemError(400, f"the parameters of {INPUT} must be an object")
    size = (parameters or {}).get("binary_data_size")
    if (size is None) == ("data" not in tensor):
        raise ProblemError(400, f"{INPUT} must have either data or the parameter binary_data_size")
    if size is None:
        if len(data):
            raise ProblemError(400, "there are bytes behind the JSON that no tensor claims")
        return None
    if type(size) is not int or size != len(data):
        raise ProblemError(400, f"binary_data_size must be the number of bytes behind the JSON, {len(data)}")
    return data


def _flatten(values: object, depth: int) -> list[Any]:
    """Flatten lists in lists, at most ``depth`` deep. Raises ProblemError (400)."""
    if not isinstance(values, list):
        raise ProblemError(400, f"data of {INPUT} must be a list")
    for _ in range(depth - 1):
        if not values or any(type(value) is not list for value in values):
            break
        values = list(chain.from_iterable(values))
    return values


def _parse_pictures(tensor: dict[str, Any], raw: memoryview | None, count: int) -> list[bytes]:
    if raw is not None:
        return decode_elements(raw, count)
    texts = _flatten(tensor["data"], 2)
    if len(texts) != count:
        raise ProblemError(400, f"data of {INPUT} has {len(texts)} elements; the shape says {count}")
    pictures = []
    for text in texts:
        picture = decode_base64(text)
        if isinstance(picture, ProblemError):
            raise picture
        pictures.append(picture)
    return pictures


def _parse_pixels(
    tensor: dict[str, Any], raw: memoryview | None, shape: list[int], expected: list[int], limits: Limits
) -> np.ndarray:
    if len(shape) != 4 or any(e not in (-1, n) for n, e in zip(shape, expected, strict=True)):
        raise ProblemError(400, f"the shape of UINT8 {INPUT} must be {expected} (-1: any), not {shape}"[:300])
    size = math.prod(shape)
    if shape[1] * shape[2] > limits.picture_pixels:
        raise ProblemError(413, f"an image has more than {limits.picture_pixels} pixels", "pixels")
    if raw is None:
        flat = _flatten(tensor["data"], 4)
        if len(flat) != size or any(type(value) is not int or not 0 <= value <= 255 for value in flat):
            raise ProblemError(400, f"data of {INPUT} must be {size} whole numbers from 0 to 255")
        raw = memoryview(bytes(flat))
    if len(raw) != size:
        raise ProblemError(400, f"{INPUT} has {len(raw)} bytes; its shape needs {size}")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def parse_outputs(values: object, parameters: object, model: ServedModel) -> list[OutputRequest]:
    """Return the outputs a request asks for; without any, all but ``cam``. Raises ProblemError (400)."""
    if not isinstance(parameters, dict | None):
        raise ProblemError(400, "parameters must be an object")
    all_binary = _read_flag(parameters or {}, "binary_data_output", False)
    known = list_outputs(model)
    if values is None or values == []:
        return [OutputRequest(name, all_binary) for name in known if name != "cam"]
    if not isinstance(values, list) or len(values) > len(known):
        raise ProblemError(400, f"outputs must be a list of some of {', '.join(known)}")
    found: dict[str, OutputRequest] = {}
    for value in values:
        name = value.get("name") if isinstance(value, dict) else None
        options = value.get("parameters") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in known or name in found or not isinstance(options, dict | None):
            raise ProblemError(400, f"each output must be a different one of {', '.join(known)}")
        options = options or {}
        count = options.get("classification", 0)
        if type(count) is not int or count < 0 or (count and name not in ("logits", "probabilities")):
            raise ProblemError(400, "classification must be a number of classes, for logits or probabilities")
        found[name] = OutputRequest(name, _read_flag(options, "binary_data", all_binary), count)
    return list(found.values())


def _read_flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ProblemError(400, f"the parameter {name} must be true or false")
    return value


def compute_output(name: str, results: list[ClassifiedImage] | list[DetectedImage]) -> np.ndarray:
    """Return the tensor of an output: of one image for a detector, else with the images as first axis."""
    rows = [getattr(image.detections if isinstance(image, DetectedImage) else image, name) for image in results]
    array = rows[0] if isinstance(results[0], DetectedImage) else np.stack(rows)
    return np.ascontiguousarray(array, np.dtype("<i8") if DATATYPES[name] == "INT64" else np.dtype("<f4"))


def encode_answer(
    facts: dict[str, Any],
    asked: list[OutputRequest],
    results: list[ClassifiedImage] | list[DetectedImage],
    model: ServedModel,
) -> tuple[bytes, bytes]:
    """Encode the JSON of an answer, and the binary data behind it. Takes up to a second; for a decoding thread.

    Args:
        facts: What the JSON says beside the outputs.
        asked: The outputs, in order.
        results: The results of all images.
        model: The model they are of.

    Raises:
        ProblemError: 400 if an output is too large for JSON.
    """
    outputs = [_encode_output(one, results, model) for one in asked]
    head = json.dumps(facts).encode()[:-1]
    text = b"".join([head, b', "outputs": [', b", ".join(text for text, _ in outputs), b"]}"])
    return text, b"".join(data for _, data in outputs)


def _encode_output(
    asked: OutputRequest, results: list[ClassifiedImage] | list[DetectedImage], model: ServedModel
) -> tuple[bytes, bytes]:
    """Encode the JSON of an output, and its binary data. Raises ProblemError (400) if it is too large for JSON."""
    array = compute_output(asked.name, results)
    entry: dict[str, Any] = {"name": asked.name, "datatype": DATATYPES[asked.name], "shape": list(array.shape)}
    texts: list[str] = []
    if asked.classification:
        texts = [text for row in array for text in _list_classes(row, asked.classification, model)]
        entry |= {"datatype": "BYTES", "shape": [len(array), len(texts) // len(array)]}
    if asked.is_binary:
        data = encode_elements(text.encode() for text in texts) if texts else array.tobytes()
        return json.dumps(entry | {"parameters": {"binary_data_size": len(data)}}).encode(), data
    if texts:
        return json.dumps(entry | {"data": texts}).encode(), b""
    if array.size > MAX_JSON_VALUES:
        raise ProblemError(400, f"{asked.name} has {array.size} values: ask for it with the parameter binary_data")
    return b"".join([json.dumps(entry).encode()[:-1], b', "data": [', _encode_values(array), b"]}"]), b""


def _encode_values(array: np.ndarray) -> bytes:
    """Encode values for a JSON list in pieces: json.dumps holds the interpreter's lock until it is done."""
    flat = array.ravel()
    starts = range(0, len(flat), ENCODED_AT_ONCE)
    pieces = (json.dumps(flat[start : start + ENCODED_AT_ONCE].tolist(), allow_nan=False) for start in starts)
    return b", ".join(piece[1:-1].encode() for piece in pieces)


def _list_classes(row: np.ndarray, count: int, model: ServedModel) -> list[str]:
    """List the highest values of a row as ``value:index:label``, as Triton writes them."""
    order = np.argsort(-row, kind="stable")[:count]
    return [f"{row[i]:f}:{i}:{get_class_name(model, int(i))}" for i in order]
