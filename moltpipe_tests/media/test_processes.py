from __future__ import annotations

import os
import subprocess

import psutil

from moltpipe_tests.media.processes import children_called, has_worked


def test_a_child_that_ends_while_it_is_looked_at_disturbs_nobody() -> None:
    """Between its end and its burial a child is a zombie: nobody can read its command line."""
    with subprocess.Popen(["sleep", "600"]) as child:
        assert [one.pid for one in children_called("sleep 600")] == [child.pid]
        (seen,) = children_called("sleep")
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert children_called("sleep 600") == []
        assert children_called("sleep") == [seen]
    assert children_called("sleep") == []
    assert not has_worked(seen)
