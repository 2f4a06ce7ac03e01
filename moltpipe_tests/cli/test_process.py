"""The command as a process of its own: exit statuses, streams that are closed or full, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moltpipe.settings import Settings, variable
from moltpipe_tests.runtime.living import alive

COMMAND = [sys.executable, "-m", "moltpipe"]
FULL = Path("/dev/full")


@pytest.fixture
def environ(database_url: str, tmp_path: Path) -> dict[str, str]:
    ours = {variable(field) for field in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "MOLTPIPE_DATABASE_URL": database_url,
        "MOLTPIPE_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "MOLTPIPE_DATA_DIR": str(tmp_path / "data"),
    }


def test_stdout_is_one_json_document_and_the_status_is_zero(environ: dict[str, str]) -> None:
    done = subprocess.run([*COMMAND, "status", "--json"], env=environ, capture_output=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["series"] == []
    assert done.stderr == b""


def test_a_refusal_leaves_stdout_empty(environ: dict[str, str]) -> None:
    done = subprocess.run([*COMMAND, "period", "close", "--json"], env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"refused: there is no voting period to close\n"


def test_a_reader_that_went_away_causes_no_traceback(environ: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "status", "--json"], env=environ, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_a_result_that_cannot_be_written_is_a_failure(environ: dict[str, str]) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "status", "--json"], env=environ, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_stdout_does_not_become_somebody_elses(environ: dict[str, str]) -> None:
    """Were it left closed, the next socket would get its number, and programs would print into that."""
    program = "import os, sys; sys.exit(os.fstat(1).st_rdev != os.stat(os.devnull).st_rdev)"
    words = ["exec", "--", sys.executable, "-c", program]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *words], env=environ, stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_that_is_terminated_stops_the_services_that_it_started(
    environ: dict[str, str], tmp_path: Path
) -> None:
    del environ["MOLTPIPE_DATABASE_URL"]
    script = tmp_path / "script.json"
    os.mkfifo(script)
    command = subprocess.Popen(
        [*COMMAND, "submit", str(script), "--agent", "molt", "--json"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Opens when the command, its services up, begins to read.
    with script.open("wb"):
        postgres = json.loads((tmp_path / "data" / "services.json").read_text())["postgres"]["pid"]
        assert alive(postgres)
        command.send_signal(signal.SIGTERM)
        out, err = command.communicate()
    assert (command.returncode, out) == (130, b"")
    assert err.decode() == f"there is no studio in {tmp_path / 'data'} yet: making one\n"
    assert not alive(postgres)


def test_a_command_under_nohup_outlives_the_login(environ: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    os.mkfifo(script)
    command = subprocess.Popen(
        ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *COMMAND, "submit", str(script), "--agent", "molt", "--json"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with script.open("wb"):
        command.send_signal(signal.SIGHUP)
    out, _ = command.communicate()
    assert command.returncode == 1
    assert json.loads(out)["refused"][0]["errors"][0]["rule"].startswith("the text must be JSON")
