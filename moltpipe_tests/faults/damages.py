"""What can go wrong around a studio, each kind for a bounded time.

Here: one function a kind, which breaks something, waits, and says what it did. Not here: when (`faults.rounds`), making
the world whole again afterwards (`World.heal`, always called).
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import psutil

from moltpipe_tests.faults.proxy import Cut
from moltpipe_tests.faults.world import LEASE_S, World, await_one

SHORTEST_S, LONGEST_S = 2.0, 15.0
_A_RUN_COMES_WITHIN_S = 60.0
_INTO_ITS_WORK_S = 8.0
_SOMEBODY_COMMITS_WITHIN_S = 20.0
_TOO_LITTLE_BYTES = 4096

Doing = Callable[[World, Random, float], str]


@dataclass(frozen=True)
class Damage:
    """A kind of damage."""

    name: str
    do: Doing
    """Break it for so many seconds, and say what happened."""
    cannot: Callable[[World], str | None] = lambda _: None
    """Why this machine cannot do it; None where it can."""


def _postgres_stops(world: World, _random: Random, lasts_s: float) -> str:
    world.postgres.stop()
    time.sleep(lasts_s)
    return "stopped in its own way, started again"


def _postgres_dies(world: World, _random: Random, lasts_s: float) -> str:
    world.postgres.kill()
    time.sleep(lasts_s)
    return "SIGKILL, started again"


def _postgres_unreachable(world: World, _random: Random, lasts_s: float) -> str:
    world.database_door.refuse()
    time.sleep(lasts_s)
    return "connections dropped and refused"


def _postgres_silent(world: World, _random: Random, lasts_s: float) -> str:
    world.database_door.fall_silent()
    time.sleep(lasts_s)
    return "connections open, nothing goes through"


def _commits_cut(where: Cut) -> Doing:
    def cut(world: World, random: Random, lasts_s: float) -> str:
        wanted = random.randint(2, 6)
        world.database_door.cut_commits(wanted, where)
        # Nobody may commit for a while on a slow machine.
        until = time.monotonic() + max(lasts_s, _SOMEBODY_COMMITS_WITHIN_S)
        while len(world.database_door.cuts) < wanted and time.monotonic() < until:
            time.sleep(0.05)
        cuts = world.database_door.cuts
        return f"cut {len(cuts)}: {', '.join(cuts) or 'nobody committed'}"

    return cut


def _s3_stops(world: World, _random: Random, lasts_s: float) -> str:
    world.s3.stop()
    time.sleep(lasts_s)
    return "stopped in its own way, started again"


def _s3_dies(world: World, _random: Random, lasts_s: float) -> str:
    world.s3.kill()
    time.sleep(lasts_s)
    return "SIGKILL, started again"


def _s3_hangs_up(world: World, random: Random, lasts_s: float) -> str:
    times, until = 0, time.monotonic() + lasts_s
    while time.monotonic() < until:
        world.s3_door.drop()
        times += 1
        time.sleep(random.uniform(0.05, 0.4))
    return f"every connection dropped, {times} times"


def _disk_full(world: World, _random: Random, lasts_s: float) -> str:
    world.disk.fill()
    time.sleep(lasts_s)
    return "no block left for Postgres, S3 and runs"


def _at_work(world: World, random: Random) -> list[psutil.Process]:
    """Processes with a run, some way into the work of the first of them where there was none at this moment."""
    if workers := world.up.workers():
        return workers
    await_one(world.up.workers, _A_RUN_COMES_WITHIN_S)
    time.sleep(random.uniform(0, _INTO_ITS_WORK_S))
    return world.up.workers()


def _no_room_for_files(world: World, random: Random, lasts_s: float) -> str:
    workers = _at_work(world, random)
    if not workers:
        return "no run was at work"
    worker = random.choice(workers)
    limited = 0
    until = time.monotonic() + lasts_s
    while time.monotonic() < until:
        with suppress(psutil.Error, ProcessLookupError):
            for one in (worker, *worker.children(recursive=True)):
                _, hard = resource.prlimit(one.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (_TOO_LITTLE_BYTES, hard))
                limited += 1
        time.sleep(0.2)
    with suppress(psutil.Error, ProcessLookupError):
        for one in (worker, *worker.children(recursive=True)):
            _, hard = resource.prlimit(one.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (hard, hard))
    return f"no file of one run could grow over {_TOO_LITTLE_BYTES} bytes" if limited else "its run had just ended"


def _killed(*words: str) -> Doing:
    def kill(world: World, random: Random, lasts_s: float) -> str:
        found = await_one(lambda: world.up.members(*words), _A_RUN_COMES_WITHIN_S)
        if not found:
            return "was not there"
        random.choice(found).kill()
        time.sleep(lasts_s)
        return "SIGKILL"

    return kill


def _worker_killed(world: World, random: Random, _lasts_s: float) -> str:
    workers = _at_work(world, random)
    if not workers:
        return "no run was at work"
    worker = random.choice(workers)
    with suppress(psutil.NoSuchProcess):
        orphans = worker.children(recursive=True)
        worker.kill()
        return f"SIGKILL, one of {len(workers)} at work" + (f", {len(orphans)} programs under it" if orphans else "")
    return "its run had just ended"


def _fork_server_killed(world: World, random: Random, lasts_s: float) -> str:
    """Its runs live on, and Dagster, which cannot see them any more, calls them failed."""
    workers = _at_work(world, random)
    with suppress(psutil.Error):
        for one in world.up.fork_servers():
            one.kill()
            time.sleep(lasts_s)
            return f"SIGKILL, with {len(workers)} runs at work"
    return "was not there"


def _worker_paused(world: World, random: Random, lasts_s: float) -> str:
    workers = _at_work(world, random)
    if not workers:
        return "no run was at work"
    worker = random.choice(workers)
    with suppress(psutil.NoSuchProcess):
        worker.send_signal(signal.SIGSTOP)
        try:
            # Beyond its lease: it comes back as somebody whose work was given away.
            time.sleep(LEASE_S + lasts_s)
        finally:
            worker.send_signal(signal.SIGCONT)
        return f"SIGSTOP for {LEASE_S + lasts_s:.0f} s, SIGCONT"
    return "its run had just ended"


def _everything_killed(world: World, _random: Random, lasts_s: float) -> str:
    count = world.up.kill_everything()
    time.sleep(lasts_s)
    return f"SIGKILL to {count} processes"


DAMAGES: tuple[Damage, ...] = (
    Damage("Postgres stops", _postgres_stops),
    Damage("Postgres dies", _postgres_dies),
    Damage("Postgres unreachable", _postgres_unreachable),
    Damage("Postgres silent", _postgres_silent),
    Damage("commit cut before", _commits_cut(Cut.BEFORE)),
    Damage("commit cut after", _commits_cut(Cut.AFTER)),
    Damage("S3 stops", _s3_stops),
    Damage("S3 dies", _s3_dies),
    Damage("S3 hangs up", _s3_hangs_up),
    Damage("disk full", _disk_full, lambda world: world.disk.cannot_fill),
    Damage("no room for files", _no_room_for_files),
    Damage("daemon killed", _killed("dagster._daemon")),
    Damage("code server killed", _killed("code_server")),
    Damage("fork server killed", _fork_server_killed),
    Damage("run killed", _worker_killed),
    Damage("run paused", _worker_paused),
    Damage("everything killed", _everything_killed),
)


def drawn(random: Random, count: int, possible: Collection[Damage] = DAMAGES) -> list[Damage]:
    """So many damages in a random order, which is the same on every machine; each kind before any a second time."""
    found: list[Damage] = []
    while len(found) < count:
        kinds = list(DAMAGES)
        random.shuffle(kinds)
        found += [kind for kind in kinds if kind in possible]
    return found[:count]
