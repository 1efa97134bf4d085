"""Write the README of a model repository: how to start the server on it, and requests with curl."""

from resnext.deploy.export_info import ExportInfo

ENCODED = '{"inputs":[{"name":"images","shape":[1],"datatype":"BYTES"}]}'  # the request of one encoded picture


def make_readme(layout: str, target: str, name: str, info: ExportInfo) -> str:
    """Return the README of a layout whose model on the server is called ``name``."""
    parts = [f"# {name}\n"]
    if layout == "kserve":
        parts.append(describe_kserve(target))
    elif layout == "triton":
        parts.append(describe_triton())
    else:
        parts.append(describe_ovms())
        if info.input == "picture":
            parts.append(describe_encoded_pictures(name, info))
    model = f"{name}-pixels" if layout == "ovms" else name
    folder = {("kserve", "openvino"): "storage", ("kserve", "onnx"): f"storage/{name}"}.get((layout, target), model)
    file = f"{folder}/1/model.{'onnx' if target == 'onnx' else 'xml'}"
    parts.append(describe_tensors(model, file, info, labelled=target == "onnx" and info.classes is not None))
    return "\n".join(parts)


def describe_ovms() -> str:
    """Return how to start OpenVINO Model Server."""
    return """Start OpenVINO Model Server on this folder:

    docker run --rm -p 8000:8000 -v "$PWD":/models:ro openvino/model_server:latest \\
        --rest_port 8000 --config_path /models/config.json

The outputs are `logits` and `probabilities`; line n + 1 of `labels.txt` is the name of class n.
"""


def describe_triton() -> str:
    """Return how to start Triton."""
    return """Start Triton on this folder (TAG: a release with the ONNX Runtime backend, YY.MM-py3):

    docker run --rm -p 8000:8000 -v "$PWD":/models:ro nvcr.io/nvidia/tritonserver:TAG \\
        tritonserver --model-repository=/models

In a container with fewer cores than the machine, write their number as `intra_op_thread_count` into `config.pbtxt`.
"""


def describe_kserve(target: str) -> str:
    """Return how to start the KServe service."""
    runtime = "Triton (runtime `kserve-tritonserver`)"
    if target == "openvino":
        runtime = "OpenVINO Model Server (runtime `kserve-openvino`, which not every installation of KServe has)"
    return f"""Copy what is inside `storage/` to the `storageUri` of `inference-service.yaml`, nothing else, and then

    kubectl apply -f inference-service.yaml

KServe starts {runtime}. In the requests below, write the address of the service for `localhost:8000`.
"""


def describe_encoded_pictures(name: str, info: ExportInfo) -> str:
    """Return how to send a JPEG or PNG file to OpenVINO Model Server."""
    kinds = "a colour JPEG or PNG (not grey, not RGBA)" if info.bgr else "a grey JPEG or PNG"
    return f"""## A picture, as it is

`{name}` takes {kinds} of any size; the server decodes it, and the model resizes and crops as `resnext predict` does.
The server ignores the EXIF orientation.

    REQUEST='{ENCODED}'
    (printf %s "$REQUEST"; cat photo.jpg) | curl -s --data-binary @- \\
        -H 'Content-Type: application/octet-stream' \\
        -H "Inference-Header-Content-Length: ${{#REQUEST}}" localhost:8000/v2/models/{name}/infer
"""


def describe_tensors(model: str, file: str, info: ExportInfo, *, labelled: bool) -> str:
    """Return how to send pixels; ``labelled``: the server itself can name the most probable classes."""
    p = info.parse_preprocessing()
    shape = [1, p.image_size, p.image_size, p.channels]
    size = p.image_size**2 * p.channels
    tensor = (
        f'{{"name":"images","shape":{shape},"datatype":"UINT8","parameters":{{"binary_data_size":{size}}}}}'
    ).replace(" ", "")
    wanted = ',"outputs":[{"name":"probabilities","parameters":{"classification":3}}]' if labelled else ""
    order = "red, green, blue" if p.channels == 3 else "grey"
    return f"""## Pixels

`{model}` takes uint8 [{info.batch or "N"}, {p.image_size}, {p.image_size}, {p.channels}], {order}, resized and cropped.
Python makes them:

    import resnext
    with resnext.Predictor.load("{file}") as predictor:
        open("pixels.bin", "wb").write(predictor.prepare("photo.jpg").tobytes())

and curl sends them:

    REQUEST='{{"inputs":[{tensor}]{wanted}}}'
    (printf %s "$REQUEST"; cat pixels.bin) | curl -s --data-binary @- \\
        -H 'Content-Type: application/octet-stream' \\
        -H "Inference-Header-Content-Length: ${{#REQUEST}}" localhost:8000/v2/models/{model}/infer
"""
