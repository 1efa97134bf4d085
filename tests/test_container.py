"""The container of ``resnext serve``: its Dockerfile is read, its list of packages is tried. Docker is not needed."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from resnext.deploy.export import ExportRequest, export_classifier
from tests.deploy.test_export import make_images, make_network

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "docker/requirements-serve.txt"
MAIN = "import sys; from resnext.cli import main; sys.exit(main(sys.argv[1:]))"
FORBIDDEN = {
    "torch", "torchvision", "scikit-learn", "matplotlib", "tensorboard", "datasets", "pycocotools", "nncf", "timm",
    "scipy", "pandas", "huggingface-hub", "fsspec", "safetensors",
}  # fmt: skip


def read_instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile and their arguments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def list_requirements() -> list[str]:
    lines = REQUIREMENTS.read_text().splitlines()
    return [Requirement(line).name for line in lines if line and not line.startswith("#")]


def collect_distributions(names: list[str]) -> set[str]:
    """Return the distributions that pip installs for ``names``, from the metadata of those installed here."""
    found: set[str] = set()
    todo = [(name, frozenset[str]()) for name in names]
    while todo:
        name, extras = todo.pop()
        key = canonicalize_name(name)
        if key in found and not extras:
            continue
        found.add(key)
        for text in distribution(key).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            ):
                todo.append((requirement.name, frozenset(requirement.extras)))
    return found


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to the packages of the container, and to no others."""
    for name in list_requirements():
        pytest.importorskip({"pillow": "PIL", "PyYAML": "yaml"}.get(name, name.replace("-", "_")))
    folder = tmp_path_factory.mktemp("packages")
    for name in collect_distributions(list_requirements()):
        one = distribution(name)
        for top in {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(one.locate_file(top))))
    return folder


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx" if request.param == "onnx" else "openvino")
    out = tmp_path_factory.mktemp("export") / ("model.onnx" if request.param == "onnx" else "model.xml")
    export_classifier(make_network(), out, ExportRequest(format=request.param), make_images())
    make_images()[0].save(out.parent / "image.png")
    return out


def make_command(packages: Path, *arguments: object) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a process without the packages that are installed here (-S)."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{packages}", "OMP_NUM_THREADS": "1"}
    return [sys.executable, "-S", "-c", MAIN, *map(str, arguments)], environment


def test_the_packages_of_the_container_are_few() -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("fastapi")
    assert not collect_distributions(list_requirements()) & FORBIDDEN


def test_the_packages_do_not_bring_torch_by_another_way(packages: Path) -> None:
    command, environment = make_command(packages)
    command[3] = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    assert subprocess.run(command, env=environment).returncode == 0


def test_predict_runs_with_these_packages_alone(packages: Path, export: Path) -> None:
    command, environment = make_command(packages, "predict", export, export.parent / "image.png")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "image.png" in done.stdout


def test_serve_runs_with_these_packages_alone(packages: Path, export: Path, tmp_path: Path) -> None:
    command, environment = make_command(packages, "serve", export, "--host", "0.0.0.0", "--port", "0")
    with (tmp_path / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command, env=environment | {"RESNEXT_TOKEN": "secret"}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        printed = ""
        while not (port := re.search(r":(\d+)  \(stop", printed)):
            line = process.stdout.readline()
            assert line, (tmp_path / "stderr").read_text()
            printed += line
        address = f"http://127.0.0.1:{port[1]}"
        with urllib.request.urlopen(f"{address}/healthz", timeout=30) as answer:
            assert answer.status == 200
        picture = (export.parent / "image.png").read_bytes()
        headers = {"Authorization": "Bearer secret"}
        request = urllib.request.Request(f"{address}/v1/predict", data=picture, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            (prediction,) = json.load(answer)["predictions"]
        assert prediction["top"][0]["probability"] > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_the_dockerfile_copies_files_that_exist_and_are_not_ignored() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert lines[0] == "*"
    copied = [rest.split()[:-1] for word, rest in read_instructions() if word == "COPY" and "--from" not in rest]
    for source in (name for names in copied for name in names):
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in kept)
    project = (ROOT / "pyproject.toml").read_text()
    for needed in ("README.md", "LICENSE"):
        assert needed in project
        assert needed in kept


def test_the_dockerfile_runs_the_server_as_a_user_without_rights() -> None:
    instructions = read_instructions()
    last = dict(instructions)  # the last of each kind
    assert {word for word, _ in instructions} <= {
        "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"
    }  # fmt: skip
    assert {rest.split()[0] for word, rest in instructions if word == "FROM"} == {"python:3.12-slim"}
    assert json.loads(last["ENTRYPOINT"])[:2] == ["resnext", "serve"]
    assert last["USER"] == "10001"
    assert (last["EXPOSE"], last["STOPSIGNAL"]) == ("8000", "SIGTERM")
    assert not any("TOKEN" in rest for word, rest in instructions if word != "CMD")  # no secret in the image
    check = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[2], "HEALTHCHECK", "exec")
    assert "/healthz" in check[2]
    assert any("--no-deps ." in rest for word, rest in instructions if word == "RUN")


def test_every_package_of_the_container_has_a_version_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert {canonicalize_name(name) for name in list_requirements()} <= pinned
