"""The fake providers of the tests, as a process beside a demo.

Here: starting them and what to set so that the engines reach them. Not here: the providers themselves, which lie with
the tests that they are for (`moltpipe_tests.fakes`): a wheel does not carry them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from moltpipe.runtime import tether

CAST = {
    "MOLTPIPE_SCREENWRITER": "chat",
    "MOLTPIPE_VOICE": "elevenlabs",
    "MOLTPIPE_CAMERA": "replicate",
    "MOLTPIPE_COMPOSER": "musicgen",
}
_GRACE_S = 2.0
_PROGRAM = "moltpipe_tests.fakes"


class NoFakes(Exception):
    """The fake providers cannot be started."""


@contextmanager
def fake_providers() -> Iterator[dict[str, str]]:
    """Serve every fake provider on loopback until the body ends, or this process does.

    Yields:
        The variables that make hosted engines of every kind the chosen ones, and lead them to the fakes.

    Raises:
        NoFakes: this is no checkout, or the program did not come up.
    """
    if importlib.util.find_spec("moltpipe_tests") is None:
        raise NoFakes("the fake providers lie with the tests, which this installation does not have: use a checkout")
    lifeline, ours = os.pipe()
    os.set_inheritable(lifeline, True)
    program = subprocess.Popen(  # noqa: S603 - our own command, no shell
        [
            sys.executable, "-I", "-S", tether.__file__, str(lifeline), str(_GRACE_S),
            sys.executable, "-m", _PROGRAM,
        ],
        stdout=subprocess.PIPE,
        pass_fds=(lifeline,),
        start_new_session=True,
    )  # fmt: skip
    os.close(lifeline)
    try:
        ready = program.stdout.readline() if program.stdout else b""
        if not ready:
            raise NoFakes(f"`python -m {_PROGRAM}` ended with status {program.wait()} before it was ready")
        yield CAST | json.loads(ready)["environment"]
    finally:
        os.close(ours)
        program.terminate()
        program.wait()
        if program.stdout:
            program.stdout.close()
