from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from moltpipe.runtime.house import open_house
from moltpipe.settings import Settings
from moltpipe_tests.runtime.living import alive

_EXEC = """
import sys
from pathlib import Path
from moltpipe.runtime.foreground import exec_program
from moltpipe.settings import Settings
sys.exit(exec_program(Settings(data_dir=Path(sys.argv[1])), sys.argv[2:]))
"""

_UP = """
import sys
from pathlib import Path
from moltpipe.runtime.foreground import run_up
from moltpipe.settings import Settings
print("starting", flush=True)
settings = Settings(data_dir=Path(sys.argv[1]), database_url=None, s3_endpoint_url=None)
run_up(settings, say=lambda line: print(line, flush=True))
print("ended", flush=True)
"""

Exec = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A house that stays open, so that each program joins it."""
    folder = tmp_path_factory.mktemp("house")
    with open_house(Settings(data_dir=folder, database_url=None, s3_endpoint_url=None)):
        yield folder


@pytest.fixture
def exec_(data_dir: Path) -> Exec:
    def start(*argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _EXEC, str(data_dir), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def test_psql_just_works(exec_: Exec) -> None:
    out, err = exec_("psql", "-Atc", "SELECT current_database(), to_regnamespace('dagster')").communicate()
    assert (out.strip(), err) == ("moltpipe|dagster", "")


def test_dagster_reaches_its_instance(exec_: Exec) -> None:
    program = "import dagster; print(dagster.DagsterInstance.get().get_runs_count())"
    out, err = exec_(sys.executable, "-c", program).communicate()
    assert out.strip() == "0", err


def test_the_exit_status_is_passed_on(exec_: Exec) -> None:
    program = exec_("sh", "-c", "exit 7")
    program.communicate()
    assert program.returncode == 7


def test_a_program_that_is_not_there_gives_127(exec_: Exec) -> None:
    program = exec_("no-such-program")
    _, err = program.communicate()
    assert program.returncode == 127
    assert "no-such-program: not found" in err


def test_a_program_killed_by_a_signal_gives_128_and_its_number(exec_: Exec) -> None:
    program = exec_("sh", "-c", "kill -KILL $$")
    program.communicate()
    assert program.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on(exec_: Exec, number: signal.Signals) -> None:
    program = exec_("sh", "-c", f"trap 'exit 42' {number.value}; echo ready; while :; do sleep 0.1; done")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    os.kill(program.pid, number)
    program.communicate(timeout=20)
    assert program.returncode == 42


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["starting", "moltpipe is up"])
def test_up_ends_cleanly_whenever_it_is_told_to(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _UP, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as up:
        assert up.stdout is not None
        while moment not in (line := up.stdout.readline()):
            assert line, "it ended before"
        if moment == "starting":
            # The services' record is the first thing that it writes: it is in the middle of starting now.
            while not (tmp_path / "data" / "services.json").exists():
                assert up.poll() is None
                time.sleep(0.01)
        os.killpg(up.pid, number)
        out, _ = up.communicate(timeout=60)
    assert up.returncode == 0
    assert out.endswith("ended\n")
    left = [process.pid for process in psutil.process_iter(["cmdline"])
            if any(str(tmp_path) in word for word in process.info["cmdline"] or [])]  # fmt: skip
    assert not [pid for pid in left if alive(pid)]


def test_exec_leaves_no_parent_behind_where_no_service_is_ours(database_url: str, tmp_path: Path) -> None:
    environ = {**os.environ, "MOLTPIPE_DATABASE_URL": database_url, "MOLTPIPE_S3_ENDPOINT_URL": "http://127.0.0.1:1"}
    started = subprocess.Popen(
        [sys.executable, "-c", _EXEC, str(tmp_path), "sh", "-c", "echo $$ $PGHOST; grep SigIgn /proc/$$/status"],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    first, ignored = started.communicate(timeout=60)[0].splitlines()
    assert first.split()[0] == str(started.pid)
    assert len(first.split()) == 2
    assert int(ignored.split()[1], 16) >> (signal.SIGPIPE - 1) & 1 == 0


def test_exec_of_nothing_says_so_where_no_service_is_ours(database_url: str, tmp_path: Path) -> None:
    environ = {**os.environ, "MOLTPIPE_DATABASE_URL": database_url, "MOLTPIPE_S3_ENDPOINT_URL": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", _EXEC, str(tmp_path), "no-such-program"],
        check=False,
        capture_output=True,
        text=True,
        env=environ,
    )
    assert (done.returncode, done.stderr) == (127, "moltpipe exec: no-such-program: not found\n")
