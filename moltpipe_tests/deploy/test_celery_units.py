"""The systemd units of deploy/celery: what they name is there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moltpipe.cli import app
from moltpipe.settings import variables

FOLDER = Path(__file__).parents[2] / "deploy" / "celery"
UNITS = sorted(FOLDER.glob("*.service"))
OTHERS = {"AWS_REGION", "AWS_SHARED_CREDENTIALS_FILE"}


def service(unit: Path) -> dict[str, str]:
    """The section `Service`. Of a name that stands there twice, the last."""
    read = RawConfigParser(strict=False)
    read.optionxform = str  # type: ignore[assignment,method-assign] # names keep their case
    read.read(unit)
    return dict(read["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_a_command_that_there_is(unit: Path) -> None:
    program, name, *words = shlex.split(service(unit)["ExecStart"])
    assert Path(program).name == "moltpipe"
    said = CliRunner().invoke(app, [name, "--help"], env={"TERM": "dumb", "COLUMNS": "120"})
    assert said.exit_code == 0
    assert {word for word in words if word.startswith("--")} <= set(said.output.split())


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_is_interrupted_gets_time_to_end(unit: Path) -> None:
    """A signal to every process at once would reach a run before the worker that waits for it."""
    assert service(unit)["KillMode"] == "mixed"
    assert int(service(unit)["TimeoutStopSec"]) >= 60


def test_the_file_of_settings_names_settings_and_no_secret() -> None:
    lines = (FOLDER / "moltpipe.env.example").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert names <= variables() | OTHERS
    assert not any(name.endswith(("_KEY", "_SECRET", "DATABASE_URL", "BROKER_URL")) for name in names)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is missing: install the Debian package systemd")
    copy = tmp_path / unit.name.replace("@", "@one")
    # Its program lies where an installation is, which this machine need not have.
    copy.write_text(unit.read_text().replace("/opt/moltpipe/bin/moltpipe", "/bin/true"))
    said = subprocess.run([program, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert unit.name.split("@")[0] not in said.stderr, said.stderr
