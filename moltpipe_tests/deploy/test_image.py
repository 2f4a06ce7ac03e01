"""The image's recipe: what it takes in is there, what it promises the other files is what they expect."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from moltpipe_tests.deploy.conftest import DEPLOY, TOP

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
LINES = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text()).splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_the_recipe_has_no_fault_that_hadolint_knows() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    subprocess.run([hadolint, "--failure-threshold", "style", str(DOCKERFILE)], check=True)


def test_everything_that_is_copied_is_there_and_is_not_ignored() -> None:
    _, _, exceptions = (TOP / ".dockerignore").read_text().partition("\n*\n")
    let_in = {line.removeprefix("!") for line in exceptions.splitlines() if line.startswith("!")}
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied == let_in
    assert all((TOP / name).exists() for name in copied)


def test_the_build_has_all_that_the_wheel_is_made_of() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = " ".join(line for line in instructions("COPY") if "--from" not in line).split()
    assert {*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "LICENSE"} <= set(copied)


def test_its_python_is_the_one_that_the_tests_run_with() -> None:
    (image,) = (line.partition("=")[2] for line in instructions("ARG") if line.startswith("PYTHON_IMAGE"))
    name, _, tag = image.rpartition(":")
    assert name == "docker.io/library/python"
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", tag)
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    assert tag.startswith(project["tool"]["mypy"]["python_version"] + ".")


def test_every_requirement_at_run_time_is_pinned_and_installed_as_pinned() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = dict(line.split("=", 1) for line in instructions("ARG") if "=" in line)["EXTRAS"].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    pinned = {
        found[1].lower().replace("_", "-"): found[2]
        for line in (TOP / "requirements.txt").read_text().splitlines()
        if (found := re.match(r"([\w.-]+)(?:\[[^]]*])?==([^ ;]+)", line))
    }
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(pinned[name]), name
        assert version(requirement.name) == pinned[name], name


def test_nothing_runs_as_root_and_the_user_is_a_number() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert LINES.index("USER 10001:10001") < next(
        number for number, line in enumerate(LINES) if line.startswith("ENTRYPOINT")
    )


def test_its_version_is_that_of_the_package_and_of_the_compose_file() -> None:
    arguments = dict(line.split("=", 1) for line in instructions("ARG") if "=" in line)
    assert arguments["VERSION"] == version("moltpipe")
    image = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["x-image"]
    assert image == f"${{IMAGE:-moltpipe:{version('moltpipe')}}}"


def test_its_entrypoint_is_a_command_that_takes_a_program() -> None:
    (entrypoint,) = instructions("ENTRYPOINT")
    moltpipe, *words = json.loads(entrypoint)
    program = Path(sys.executable).with_name(moltpipe)
    asked = subprocess.run([program, *words[:-1], "--help"], capture_output=True, text=True, check=True)
    assert (words[-1], "CMD" in asked.stdout) == ("--", True)
