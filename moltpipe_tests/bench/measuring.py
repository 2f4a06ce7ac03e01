"""Measuring one case in a fresh process, and the machine on which it happens.

Here: the process, its memory, the machine's description. Not here: time, which the process takes itself
(`moltpipe_tests.bench.child`), so that its own start is not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from moltpipe.media.runner import ffmpeg_program
from moltpipe_tests.bench.registry import Case, Measurement, Python

ROOT = Path(__file__).parents[2]
RIVALS = ROOT / ".venv-bench" / "bin" / "python"
LOOK_EVERY_S = 0.05
"""Every look costs the machine some milliseconds, which a shorter interval would take from what is measured."""

GRACE_S = 40.0
"""How long a case that is interrupted may take to stop what it has started."""


class CaseFailed(Exception):
    """A case ended badly; the text carries what it said."""


def interpreter(python: Python) -> Path | None:
    """The program that runs a case, or None where it is not installed."""
    if python is Python.OURS:
        return Path(sys.executable)
    return RIVALS if RIVALS.exists() else None


def measure(case: Case, folder: Path) -> Measurement | None:
    """Run a case in a process of its own; None where its Python is missing.

    Raises:
        CaseFailed: it ended with an error.
    """
    program = interpreter(case.python)
    if program is None:
        return None
    command = [str(program), "-m", "moltpipe_tests.bench.child", case.reference, str(folder)]
    # One FFmpeg for everybody: MoviePy takes its own otherwise. Temp files lie in the folder, so that they go with it.
    environment = {**os.environ, "FFMPEG_BINARY": ffmpeg_program(), "TMPDIR": str(folder)}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=complained, start_new_session=True
        )
        try:
            peak = _watch(process)
        finally:
            _end(process)
        said.seek(0)
        complained.seek(0)
        if process.returncode != 0:
            raise CaseFailed(f"{case.name} ended with status {process.returncode}:\n{complained.read()[-3000:]}")
        turn = json.loads(said.read().splitlines()[-1])
    return Measurement(peak_mib=peak / 2**20, **turn)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a case that is still at work, as Ctrl-C does: one with a stack has services to stop."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Highest resident memory of a process and all below it until its end, in bytes."""
    peak = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, sum(_resident(one) for one in (root, *root.children(recursive=True))))
        time.sleep(LOOK_EVERY_S)
    return peak


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def machine() -> dict[str, str | int | float]:
    """On what the figures were taken, and how much else it had to do."""
    said = subprocess.run([ffmpeg_program(), "-version"], capture_output=True, text=True, check=True).stdout
    return {
        "cores": psutil.cpu_count() or 0,
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "ffmpeg": said.split()[2],
        "load_before": round(psutil.getloadavg()[0], 2),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
