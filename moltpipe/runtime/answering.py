"""Whether a process of the stack that lives also answers.

Here: what is asked of the code server and of the daemon. Not here: for how long one may be silent, and what becomes of
it then (`runtime.stack`).

A process can live and do nothing: it waits for a lock that nobody gives back, or somebody stopped it. Nothing ends
then, so nothing is started again, and no sensor ticks that could say so.
"""

from __future__ import annotations

import time
from typing import Any

from moltpipe.runtime.ports import LOOPBACK

ANSWER_S = 10.0
"""How long an answer may take: a machine may have too much to do."""
HEARTBEAT_S = 90.0
"""Three times the pause after which the daemon writes anew that it lives (`dagster._daemon.controller`)."""

HEARTBEATS = "{ instance { daemonHealth { allDaemonStatuses { required lastHeartbeatTime } } } }"


def code_server_answers(port: int) -> bool:
    """Whether Dagster's code server answers: https://github.com/grpc/grpc/blob/master/doc/health-checking.md."""
    # A fifth of a second, which every command would wait for.
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    # No proxy of the environment stands between two processes of one machine.
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        asked = health_pb2.HealthCheckRequest(service="DagsterApi")
        try:
            health_pb2_grpc.HealthStub(channel).Check(asked, timeout=ANSWER_S)
        except grpc.RpcError:
            return False
    return True


def daemon_beats(answer: dict[str, Any]) -> bool:
    """Whether the daemon wrote lately that it lives, by the webserver's answer to `HEARTBEATS`."""
    statuses = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
    beats = [status["lastHeartbeatTime"] for status in statuses if status["required"]]
    return all(beat is not None and time.time() - beat < HEARTBEAT_S for beat in beats)
