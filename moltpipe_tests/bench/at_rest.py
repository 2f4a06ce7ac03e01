"""Dagster's own price: the bare start of a run, and the memory of a stack in which nothing happens.

Here: a stack with an empty code location, on the same instance, launcher and settings as moltpipe's, served by
Dagster's own code server; how soon the same run begins under ours; and the findings on memory. The same look at
moltpipe's own stack is taken in `bench.whole_series`, before its vote ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moltpipe.runtime.stack import Stack
from moltpipe_tests.bench import empty_location
from moltpipe_tests.bench.registry import Measurement, case, finding
from moltpipe_tests.bench.stacks import Rest, a_stack, await_no_runs, await_rest, processor_s, timed_run

RUNS = 3
HELD = "held by "
DAGSTERS_CODE_SERVER = ("dagster", "api", "grpc")


@case(
    "empty stack", "a stack with an empty code location: runs of one step that does nothing, then rest", material=False
)
def empty_stack(folder: Path) -> dict[str, float]:
    return look(folder, runs=RUNS)


def look(folder: Path, *, runs: int) -> dict[str, float]:
    """The start of a run at its best and memory at rest, then the start under our code server with the processor time
    of the run that had it."""
    module = empty_location.__name__
    with a_stack(folder, module=module, code_server=DAGSTERS_CODE_SERVER) as running:
        rest = await_rest(running)
        bare_start_s, _ = _best_start(running, runs)
    with a_stack(folder, module=module) as running:
        start_s, start_processor_s = _best_start(running, runs)
    return {
        "bare_start_s": bare_start_s,
        "start_s": start_s,
        "start_processor_s": start_processor_s,
        **named(rest),
    }


def _best_start(running: Stack, runs: int) -> tuple[float, float]:
    """Seconds from a run's launch to its first step, and processor seconds of the whole run."""
    starts: list[tuple[float, float]] = []
    for _ in range(runs):
        before = processor_s(running)
        timing = timed_run(running, empty_location.nothing.name)
        await_no_runs(running)
        starts.append((timing.first_step_s, processor_s(running) - before))
    return min(starts)


def named(rest: Rest) -> dict[str, float]:
    """How a stack is at rest, as details of a case."""
    return {"cores at rest": rest.cores, **{f"{HELD}{name}": mib for name, mib in rest.held_mib.items()}}


def total(took: Measurement) -> float:
    """What all processes of a case's stack held at rest, in MiB."""
    return sum(mib for name, mib in took.details.items() if name.startswith(HELD))


@finding(
    "bare run start",
    "an empty run under Dagster's own code server, from its launch to its first step",
    needs=("empty stack",),
    unit="s",
)
def bare_run_start(took: Mapping[str, Measurement]) -> float:
    return took["empty stack"].details["bare_start_s"]


@finding(
    "run start / bare",
    "the same run under moltpipe's, by so many times as fast",
    against="the bare start",
    needs=("empty stack",),
)
def run_start_against_bare(took: Mapping[str, Measurement]) -> float:
    details = took["empty stack"].details
    return details["bare_start_s"] / details["start_s"]


@finding(
    "idle memory",
    "all processes of a stack at rest, Postgres and S3 among them",
    needs=("series",),
    unit="MiB",
)
def idle_memory(took: Mapping[str, Measurement]) -> float:
    return total(took["series"])


@finding(
    "idle memory / empty",
    "the same",
    against="the same processes with an empty code location",
    needs=("series", "empty stack"),
)
def idle_against_empty(took: Mapping[str, Measurement]) -> float:
    return total(took["series"]) / total(took["empty stack"])


@finding("idle processor", "cores that a stack at rest keeps busy", needs=("series",), unit="cores")
def idle_processor(took: Mapping[str, Measurement]) -> float:
    return took["series"].details["cores at rest"]
