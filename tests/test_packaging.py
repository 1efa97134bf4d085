"""What pyproject.toml, constraints.txt, setup.py and the Makefile promise about an installation."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from resnext.commands.doctor import OPTIONAL_PACKAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def requirements(extra: str) -> dict[str, Requirement]:
    """Return all requirements of an extra by name, including those of extras it names."""
    found: dict[str, Requirement] = {}
    for line in EXTRAS[extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            for inner in requirement.extras:
                found |= requirements(inner)
        else:
            found[requirement.name] = requirement
    return found


def test_all_brings_every_package_that_doctor_names_by_the_extra_it_names() -> None:
    for package, extra in OPTIONAL_PACKAGES.items():
        for bringing in (extra, "all"):
            assert package in {name.removesuffix("-skinny") for name in requirements(bringing)}  # mlflow-skinny


def test_all_brings_no_developers_tools() -> None:
    tools = requirements("dev").keys() - requirements("all").keys()
    assert {"pytest", "ruff", "mypy"} <= tools
    assert not requirements("all").keys() & {*tools, *requirements("object-store-tests")}


def test_no_extra_that_people_install_has_two_packages_pulling_at_botocore() -> None:
    for extra in EXTRAS:
        names = requirements(extra)
        if "s3fs" in names:
            assert not names.keys() & {"moto", "boto3", "botocore"}, extra


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_the_constraints_allow_what_is_required(extra: str) -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    fixed = dict(line.split("==") for line in lines if "==" in line)
    versions = {normalise(name): version for name, version in fixed.items()}
    needed = requirements(extra) if extra else {Requirement(x).name: Requirement(x) for x in PROJECT["dependencies"]}
    for name, requirement in needed.items():
        assert requirement.specifier.contains(versions[normalise(name)], prereleases=True), requirement


def test_the_demo_needs_no_extra() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(r"^demo: \$\(USABLE\)", makefile, re.MULTILINE)
    usable = makefile[makefile.index("$(USABLE): ") :].split("\n\n")[0]
    assert "$(INSTALL) .\n" in usable
    assert "[" not in usable.split("$(INSTALL)")[1]


def test_every_classifier_is_one_and_those_of_python_agree_with_what_is_required() -> None:
    classifiers = pytest.importorskip("trove_classifiers", reason="of the developers' tools").classifiers

    assert not set(PROJECT["classifiers"]) - classifiers
    named = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    required = SpecifierSet(PROJECT["requires-python"])
    assert named
    assert all(required.contains(version) for version in named)
    assert not required.contains(f"3.{min(int(version.split('.')[1]) for version in named) - 1}")


def test_the_licence_of_everything_that_others_wrote_comes_with_it() -> None:
    given = {ROOT / name for name in PROJECT["license-files"]}
    assert all(path.is_file() for path in given)
    package = ROOT / "src" / "resnext"
    assert set(package.rglob("*LICENSE*")) <= given
    for folder in package.rglob("third_party/*"):
        assert any(path.is_relative_to(folder) for path in given), f"{folder} has no licence in license-files"


def build(kind: str, folder: Path, prebuilt: str) -> Path:
    """Build a package by setuptools, as pip does, and return its file. Nothing is written into the sources."""
    script = (
        "import os, sys; from setuptools import build_meta\n"
        f"print(getattr(build_meta, 'build_{kind}')({str(folder)!r}))"
    )
    source = folder / "source"
    if not source.exists():
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
        for name in names or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["RESNEXT_PREBUILT"] = prebuilt
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=source, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_source_package_has_all_that_its_tests_read(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path, "0")) as package:
        inside = {name.split("/", 1)[1] for name in package.getnames() if "/" in name}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert tracked
    assert {name for name in tracked if not name.startswith((".ci/", ".git"))} <= inside


@pytest.mark.slow
def test_a_pure_wheel_has_what_the_package_reads_and_valid_metadata(tmp_path: Path) -> None:
    path = build("wheel", tmp_path, "0")
    assert path.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(path) as wheel:
        inside = set(wheel.namelist())
        metadata = Metadata.from_email(wheel.read(next(n for n in inside if n.endswith("/METADATA"))))
    assert metadata.license_files == PROJECT["license-files"]
    assert metadata.summary == PROJECT["description"]
    package = ROOT / "src" / "resnext"
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".so")}
    assert {str(path.relative_to(package.parent)) for path in data} <= inside
    assert not [name for name in inside if name.endswith(".so")]


@pytest.mark.slow
def test_a_wheel_with_compiled_libraries_needs_no_compiler_and_gives_the_same_bits(tmp_path: Path) -> None:
    """Install the wheel's files into a folder; compare with the libraries that are compiled here."""
    from resnext.speed.compiler import find_compiler
    from tests.speed.test_kernels import SCRIPT

    if find_compiler() is None:
        pytest.skip("no C++ compiler here")
    path = build("wheel", tmp_path, "1")
    assert re.search(r"-py3-none-linux_x86_64\.whl$", path.name)
    installed = tmp_path / "installed"
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(installed)
    digests, places = [], []
    where = "import resnext.commands.doctor as d; print(dict(d.list_fast_paths())['fused kernels'])"
    for source, change in ((installed, {"CXX": "none"}), (ROOT / "src", {"RESNEXT_PREBUILT": "0"})):
        settings = {"PYTHONPATH": str(source), "RESNEXT_CACHE": str(tmp_path / "cache"), "RESNEXT_FAST": "1"}
        environment = os.environ | settings | change
        for code, answers in ((SCRIPT, digests), (where, places)):
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            answers.append(done.stdout)
    assert digests[0] == digests[1]
    assert places[0].startswith(f"active: prebuilt, {installed}")
    assert places[1].startswith(f"active: built here, {tmp_path / 'cache'}")


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
