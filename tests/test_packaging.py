"""What pyproject.toml, constraints.txt and the Makefile promise about an installation."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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
        assert package in requirements(extra)
        assert package in requirements("all")


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


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
