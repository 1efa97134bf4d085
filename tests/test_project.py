"""What the files around the package promise: workflows, citation, oldest versions, hooks."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from resnext.version import __version__
from tests.test_packaging import requirements

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))


def read_jobs(path: Path) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))["jobs"]
    return jobs


def read_steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read_jobs(path).values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_make_target_of_a_workflow_exists(path: Path) -> None:
    for step in read_steps(path):
        for target in re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.MULTILINE):
            assert target in TARGETS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_no_permission_that_a_job_does_not_name(path: Path) -> None:
    assert yaml.safe_load(path.read_text("utf-8"))["permissions"] == {}
    for job in read_jobs(path).values():
        assert "permissions" in job
        written = {scope for scope, access in job["permissions"].items() if access == "write"}
        assert written <= {"id-token", "pages"}
        assert not written or not any("run" in step for step in job["steps"]), "who may publish runs no code of ours"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit_and_says_its_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text("utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    for step in read_steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_workflows_run_on_every_python_that_the_package_promises() -> None:
    matrices = [
        job["strategy"]["matrix"]["python"]
        for path in WORKFLOWS
        for job in read_jobs(path).values()
        if "strategy" in job
    ]
    assert len(matrices) == 2
    for matrix in matrices:
        assert f">={matrix[0]}" == PROJECT["requires-python"]
        classifiers = [c.rpartition(" :: ")[2] for c in PROJECT.get("classifiers", ()) if "Python :: 3." in c]
        assert classifiers in ([], matrix)


def test_the_citation_is_of_this_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] in PROJECT["license"]
    assert citation["preferred-citation"]["url"] == PROJECT["urls"]["Paper"]
    families = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert families == ["Xie", "Girshick", "Dollár", "Tu", "He"]


def test_the_oldest_versions_are_the_floors_of_the_package() -> None:
    lines = (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines()
    oldest = {
        canonicalize_name(name): Version(version) for name, version in (x.split("==") for x in lines if "==" in x)
    }
    direct = [Requirement(line) for line in PROJECT["dependencies"]] + list(requirements("all").values())
    for requirement in direct:
        (floor,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
        pinned = oldest[canonicalize_name(requirement.name)]
        assert pinned.release[: len(floor.release)] == floor.release, requirement


def test_the_hooks_are_the_tools_of_make_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    for hook in hooks:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert f"$(BIN)/{tool}" in MAKEFILE
    assert len(hooks) == 4
