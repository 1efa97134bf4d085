"""Tests of model repositories: read as the servers read them, which are not here."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import pytest
import torch
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format  # type: ignore[import-untyped]
from PIL import Image

import resnext
from resnext import RequestError
from resnext.deploy.export import describe_export
from resnext.deploy.layouts import check_layout, choose_requests, make_ovms_config, write_layout
from resnext.model.network import Network
from tests.deploy.exported import compile_openvino
from tests.deploy.test_export import NAMES, make_images, make_network

pytestmark = pytest.mark.usefixtures("one_thread")
# the part of Triton's model_config.proto that is used: message -> fields (name, number, type, repeated)
SCHEMA = {
    "Value": [("string_value", 1, "string", False)],
    "Entry": [("key", 1, "string", False), ("value", 2, "Value", False)],
    "Batching": [("preferred_batch_size", 1, "int32", True)],
    "Group": [("count", 2, "int32", False), ("kind", 4, "Kind", False)],
    "Input": [("name", 1, "string", False), ("data_type", 2, "DataType", False), ("dims", 4, "int64", True)],
    "Output": [
        ("name", 1, "string", False), ("data_type", 2, "DataType", False), ("dims", 3, "int64", True),
        ("label_filename", 4, "string", False),
    ],
    "ModelConfig": [
        ("name", 1, "string", False), ("backend", 17, "string", False), ("max_batch_size", 4, "int32", False),
        ("input", 5, "Input", True), ("output", 6, "Output", True), ("instance_group", 7, "Group", True),
        ("dynamic_batching", 11, "Batching", False), ("parameters", 14, "Entry", True),
    ],
}  # fmt: skip
ENUMS = {"DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP32": 11}, "Kind": {"KIND_AUTO": 0, "KIND_CPU": 2}}


def make_soft_network() -> Network:
    """A network whose probabilities are far from 0 and 1, so that they tell of small differences."""
    network = make_network()
    with torch.no_grad():
        network.fc.weight /= 400
        network.fc.bias /= 400
    return network


def parse_triton_config(text: str):  # type: ignore[no-untyped-def]  # a class made at run time
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="t", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for key, number in values.items():
            enum.value.add(name=key, number=number)
    scalars = {"string": 9, "int32": 5, "int64": 3}
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for key, number, kind, repeated in fields:
            field = message.field.add(name=key, number=number, label=3 if repeated else 1)
            if kind in scalars:
                field.type = scalars[kind]
            else:
                field.type, field.type_name = (14 if kind in ENUMS else 11), f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))()
    return text_format.Parse(text, config)


def test_a_triton_repository_parses_and_holds_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "models"
    write_layout(make_network(), out, "triton", "onnx", "net", make_images())
    files = {str(f.relative_to(out / "net")) for f in (out / "net").rglob("*") if f.is_file()}
    assert files == {"config.pbtxt", "labels.txt", "1/model.onnx"}
    config = parse_triton_config((out / "net/config.pbtxt").read_text())
    assert (config.name, config.backend) == ("net", "onnxruntime")
    assert config.HasField("dynamic_batching")
    assert [(i.name, list(i.dims)) for i in config.input] == [("images", [32, 32, 3])]
    labels = {o.name: o.label_filename for o in config.output}
    assert labels == {"logits": "", "probabilities": "labels.txt"}
    assert len((out / "net/labels.txt").read_text().split("\n")) == len(NAMES) + 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["models"]


def test_an_ovms_repository_gives_our_predictions_for_encoded_pictures(tmp_path: Path) -> None:
    network, out = make_soft_network(), tmp_path / "models"
    write_layout(network, out, "ovms", "openvino", "net", make_images())
    for entry in json.loads((out / "config.json").read_text())["model_config_list"]:
        config = entry["config"]
        model = ov.Core().read_model(out / config["name"] / "1/model.xml")
        assert str(model.input("images").node.layout) == "[N,H,W,C]"
        shape = tuple(-1 if d.is_dynamic else d.get_length() for d in model.input("images").partial_shape)
        assert str(shape).replace(" ", "") == config["shape"]["images"]
    compiled = compile_openvino(out / "net/1/model.xml", INFERENCE_PRECISION_HINT="f32")
    for suffix in ("jpg", "png"):
        file = tmp_path / f"image.{suffix}"
        Image.fromarray(
            np.kron(np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8), np.ones((9, 9, 1), np.uint8))
        ).save(file)
        decoded = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)  # as OVMS does
        expected = resnext.predict(network, [file])[0].probabilities
        assert 0.1 < expected.max() < 0.9
        np.testing.assert_allclose(compiled([decoded[None]])["probabilities"][0], expected, atol=1e-3)
        flipped = compiled([decoded[None, ..., ::-1].copy()])["probabilities"][0]
        assert np.abs(flipped - expected).max() > 2e-3  # the order of channels matters to this network


def test_int8_in_openvino_has_no_model_of_any_size_and_the_others_any_batch() -> None:
    network = make_network()
    (ovms,) = choose_requests(network, "ovms", "openvino", "net", "int8").items()
    assert (ovms[0], ovms[1].input, ovms[1].precision, ovms[1].batch) == ("net-pixels", "pixels", "int8", 1)
    info = describe_export(network, ovms[1], None)
    (entry,) = json.loads(make_ovms_config({"net-pixels": info}))["model_config_list"]
    assert entry["config"]["shape"] == {"images": "(1,32,32,3)"}
    assert choose_requests(network, "triton", "onnx", "net", "int8")["net"].batch is None


def test_the_requests_of_the_readme_say_the_truth_about_their_sizes(tmp_path: Path) -> None:
    out = tmp_path / "models"
    write_layout(make_network(), out, "triton", "onnx", "net", make_images())
    readme = (out / "README.md").read_text()
    request = json.loads(re.search(r"REQUEST='(.*)'", readme)[1])
    (tensor,) = request["inputs"]
    code = re.search(r"    import resnext\n(?:    .*\n)+", readme)[0]
    make_images()[0].save(tmp_path / "photo.jpg")
    run = {"cwd": out, "capture_output": True, "text": True}
    code = textwrap.dedent(code).replace('"photo.jpg"', repr(str(tmp_path / "photo.jpg")))
    done = subprocess.run([sys.executable, "-c", code], **run)
    assert done.returncode == 0, done.stderr
    assert (out / "pixels.bin").stat().st_size == tensor["parameters"]["binary_data_size"] == np.prod(tensor["shape"])
    assert "models/net/infer" in readme


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_kserve_service_names_format_protocol_and_storage(target: str, tmp_path: Path) -> None:
    out = tmp_path / "models"
    write_layout(make_network(), out, "kserve", target, "net", make_images(), storage_uri="s3://b/f")
    files = {str(f.relative_to(out / "storage")) for f in (out / "storage").rglob("*") if f.is_file()}
    triton = {"net/config.pbtxt", "net/labels.txt", "net/1/model.onnx"}
    assert files == (triton if target == "onnx" else {"1/model.xml", "1/model.bin"})
    service = yaml.safe_load((out / "inference-service.yaml").read_text())
    assert service["spec"]["predictor"]["model"] == {
        "modelFormat": {"name": target}, "protocolVersion": "v2", "storageUri": "s3://b/f"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "target", "name", "uri", "words"),
    [
        ("ovsm", "openvino", "net", None, "ovms"),
        ("triton", "openvino", "net", None, "--to onnx"),
        ("triton", "onnx", "../net", None, "--name"),
        ("kserve", "onnx", "net", None, "--storage-uri"),
        ("kserve", "onnx", "Net_1", "s3://b", "Kubernetes"),
        ("ovms", "openvino", "net", "s3://b", "kserve"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(layout: str, target: str, name: str, uri: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_layout(layout, target, name, uri)
